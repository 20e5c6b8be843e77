"""`uncertainty`: what a Bayesian head changes, and what its spread knows of errors, from stored scores."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands


def add(commands: Commands) -> None:
    """Adds the parser."""
    uncertainty = commands.add_parser("uncertainty", help="page on Bayesian heads from stored scores: balance and errors")
    uncertainty.set_defaults(run=_uncertainty)
    folders = "folders that evaluate wrote; the first of the detector without a Bayesian head"
    uncertainty.add_argument("scores", nargs="+", type=Path, help=folders)
    uncertainty.add_argument(
        "--out", required=True, type=Path, help="Markdown file; the figure is written beside it, as PNG"
    )
    uncertainty.add_argument("--draws", type=int, default=200, help="bootstrap samples of each interval")


def _uncertainty(options: argparse.Namespace) -> None:
    from ..uncertainty_report import uncertainty_page

    uncertainty_page(options.scores, options.out, draws=options.draws)
