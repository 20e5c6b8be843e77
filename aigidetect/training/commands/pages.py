"""`figures` and `detectors`: what the documentation shows of the shipped detectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands

_DETECTOR = "npr-ms-ca"  # of the figure of one picture's way


def add(commands: Commands) -> None:
    """Adds the parsers."""
    figures = commands.add_parser("figures", help="figures of the documentation, from stored scores; needs matplotlib")
    figures.set_defaults(run=_figures)
    figures.add_argument("--scores", type=Path, default=Path("docs/scores"), help="folder of folders that evaluate wrote")
    figures.add_argument("--pictures", type=Path, default=Path("examples/images"), help="example pictures")
    figures.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder of the PNG files")

    detectors = commands.add_parser("detectors", help="the page of all detectors, from the manifest")
    detectors.set_defaults(run=_detectors)
    detectors.add_argument("--manifest", type=Path, default=None, help="default: the package's own")
    detectors.add_argument("--out", type=Path, default=None, help="Markdown file; default: stdout")


def _figures(options: argparse.Namespace) -> None:
    from ...manifest import load_manifest
    from ...registry import load_detector
    from ..figures import draw_calibration, draw_robustness, shipped_scores
    from ..picture_figures import draw_pipeline, draw_residuals
    from ..radar import draw_radar

    evaluations = shipped_scores(options.scores, load_manifest())
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    draw_calibration(evaluations, out / "calibration.png")
    draw_robustness(evaluations, out / "robustness.png")
    unseen = {
        name: [s for s in scores if (s.split, s.condition) == ("test_unseen", "q75")] for name, scores in evaluations.items()
    }
    draw_radar({name: scores for name, scores in unseen.items() if scores}, out / "radar.png")
    draw_pipeline(load_detector(_DETECTOR), options.pictures / "astronaut-photo.jpg", out / "pipeline.png")
    draw_residuals(options.pictures / "chelsea-photo.jpg", options.pictures / "chelsea-decoded.jpg", out / "npr.png")


def _detectors(options: argparse.Namespace) -> None:
    from ...manifest import load_manifest
    from ..detectors_page import detectors_page

    page = detectors_page(load_manifest(options.manifest))
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    else:
        print(page, end="")
