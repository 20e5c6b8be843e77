"""`python -m aigidetect.training audit | fit | evaluate | calibrate | export | results | ...`: makes and measures detectors.

The way of a detector:

    audit DATA                                              what file format, size and quality tell of the label
    aligned --data DATA --autoencoder SPEC --out ALIGNED    reconstructed photographs, to train on beside DATA
    fit --recipe npr-ms-ca --data DATA --out runs/a         trains, resumably, on the split "train"
    quantise --run runs/a --out runs/b                      backbone in 8 bits, for a large network; then --run runs/b
    evaluate --run runs/a --data DATA --splits val          scores "val" under all conditions
    calibrate --run runs/a                                  temperature, bias and thresholds from these scores
    export --run runs/a --name npr-ms-ca --version 1        weights file and manifest entry
    evaluate --detector npr-ms-ca@1 --data DATA --splits test_seen test_unseen --out scores/npr-ms-ca-1
    results scores/npr-ms-ca-1 --out docs/results.md        tables from stored scores
    publish npr-ms-ca@1 --repo-id OWNER/REPO                to the Hub, with a model card; the manifest pins the commit
    tables scores/npr-ms-ca-1                               the report's tables 4-8, its own numbers beside ours
    tiny-genimage FOLDER                                    its tables 7 and 8, measured on a folder of Tiny-GenImage
    collages --data DATA                                    how often heat maps find the generated half of a picture
    figures, detectors                                      figures and the page of detectors in docs/
    uncertainty scores/resnet50-1 scores/resnet50-bnn-1 --out docs/uncertainty.md   what a Bayesian head changes and knows
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import torch

from ..errors import AigidetectError
from .commands import (
    aligned,
    autoencoder,
    clip,
    collages,
    measure,
    pages,
    publish,
    ship,
    tables,
    tiny_genimage,
    train,
    uncertainty,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aigidetect.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: all cores")
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (
        train,
        autoencoder,
        aligned,
        clip,
        measure,
        ship,
        publish,
        tables,
        tiny_genimage,
        uncertainty,
        collages,
        pages,
    ):
        module.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0 done, 1 shortcuts found, 2 wrong use or unusable input."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        return options.run(options) or 0
    except (AigidetectError, KeyError, ModuleNotFoundError, OSError, ValueError) as error:
        print(f"aigidetect.training: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
