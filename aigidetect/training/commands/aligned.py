"""`aligned`: from photographs to fakes of the same content."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..layouts import read_data
from .common import Commands, add_data


def add(commands: Commands) -> None:
    """Adds the parser."""
    aligned = commands.add_parser("aligned", help="a data set of reconstructed photographs; see docs/aligned.md")
    aligned.set_defaults(run=_aligned)
    add_data(aligned)
    aligned.add_argument("--split", default="train", help="whose real pictures are taken")
    aligned.add_argument(
        "--autoencoder", required=True, help="taef2:FOLDER, own:FILE, hub:REPO_ID, hub:REPO_ID@REVISION or resample"
    )
    aligned.add_argument(
        "--noise", nargs="+", type=float, default=[0.0], help="levels of noise on the code; each picture gets one"
    )
    aligned.add_argument(
        "--styles", nargs="*", default=["photo", "face"], help="styles that are taken; all if none is given"
    )
    aligned.add_argument("--limit", type=int, default=None, help="at most so many pictures, of all sources in turn")
    aligned.add_argument("--partial", type=float, default=0.0, help="share of pictures in which only a region is fake")
    aligned.add_argument("--largest", type=int, default=1024, help="longest side; larger pictures are cropped")
    aligned.add_argument("--pairs", action="store_true", help="also write the originals, as real: pairs to measure on")
    aligned.add_argument("--seed", type=int, default=0)
    aligned.add_argument("--out", required=True, type=Path, help="folder of the new data set")


def _aligned(options: argparse.Namespace) -> None:
    from ..aligned_set import AlignedSettings, make_aligned
    from ..fakers import load_faker

    settings = AlignedSettings(
        split=options.split,
        styles=tuple(options.styles),
        noise=tuple(options.noise),
        limit=options.limit,
        partial=options.partial,
        largest=options.largest,
        pairs=options.pairs,
        seed=options.seed,
    )
    for line in make_aligned(load_faker(options.autoencoder), read_data(*options.data), settings, options.out):
        print(line, file=sys.stderr)
