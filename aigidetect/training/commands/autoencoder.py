"""`autoencoder`: from photographs to a small autoencoder whose fakes `aligned` makes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..layouts import read_data
from .common import Commands, add_data


def add(commands: Commands) -> None:
    """Adds the parser."""
    autoencoder = commands.add_parser("autoencoder", help="train a small autoencoder; see docs/aligned.md")
    autoencoder.set_defaults(run=_autoencoder)
    autoencoder.add_argument("--config", required=True, help="name of a configuration; an unknown one lists all")
    add_data(autoencoder)
    autoencoder.add_argument("--split", default="train", help="whose real pictures are taken")
    autoencoder.add_argument("--styles", nargs="*", default=["photo", "face"], help="styles taken; all if none is given")
    autoencoder.add_argument("--limit", type=int, default=600, help="at most so many pictures, of all sources in turn")
    length = autoencoder.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="how long; reproducible")
    length.add_argument("--minutes", type=float, help="how long instead; depends on the machine")
    autoencoder.add_argument("--seed", type=int, default=0)
    autoencoder.add_argument("--fp32", action="store_true", help="do not compute in bfloat16")
    autoencoder.add_argument("--out", required=True, type=Path, help="safetensors file")


def _autoencoder(options: argparse.Namespace) -> None:
    from ..aligned_set import AlignedSettings, choose_originals
    from ..autoencoders import build, fit_autoencoder, save_autoencoder
    from ..datasets import load_pixels

    build(options.config)  # an unknown name is told before anything is decoded
    settings = AlignedSettings(options.split, tuple(options.styles), limit=options.limit, seed=options.seed)
    _, pixels, failures = load_pixels(choose_originals(read_data(*options.data), settings))
    for line in failures:
        print(line, file=sys.stderr)
    network = fit_autoencoder(
        options.config, pixels, steps=options.steps, minutes=options.minutes, seed=options.seed, bf16=not options.fp32
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_autoencoder(network, options.out)
