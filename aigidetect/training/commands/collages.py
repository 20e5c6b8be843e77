"""`collages`: whether heat maps point at what was generated."""

from __future__ import annotations

import argparse

from ..datasets import take_split
from ..layouts import read_data
from .common import Commands, add_data


def add(commands: Commands) -> None:
    """Adds the parser."""
    parser = commands.add_parser("collages", help="how often heat maps find the generated half of a picture")
    parser.set_defaults(run=_collages)
    add_data(parser)
    parser.add_argument("--detectors", nargs="+", default=["npr-ms-ca", "vit-clip"], metavar="NAME")
    parser.add_argument("--split", default="val")
    parser.add_argument("--n", type=int, default=1000, help="most collages; every picture is in one only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")


def _collages(options: argparse.Namespace) -> None:
    from ...registry import load_detector
    from ..collages import make_collages, point
    from ..metrics import shown

    collages = make_collages(take_split(read_data(*options.data), options.split), options.n, seed=options.seed)
    print("| detector | collages | generated half has the higher evidence |\n|---|---|---|")
    for name in options.detectors:
        found = point(load_detector(name, device=options.device), collages)
        print(f"| {found.detector} | {found.n} | {shown((found.hits / found.n, found.low, found.high))} |", flush=True)
