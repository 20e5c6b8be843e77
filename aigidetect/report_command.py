"""`aigidetect report`: from inputs to a page about their scores."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any


def add(commands: Any) -> None:
    """Adds the parser."""
    report = commands.add_parser("report", help="score files, folders and globs, and write a page to look at")
    report.add_argument("paths", nargs="+", metavar="PATH", help="a picture, a folder or a glob pattern")
    report.add_argument("-o", "--output", dest="page", default="report.html", metavar="FILE", help="the page: report.html")
    report.add_argument("--heatmaps", action="store_true", help="also show where each score comes from: twice the work")
    report.add_argument("--detector", default=None, metavar="NAME", help="see `aigidetect list`; default: the best here")
    report.add_argument("--weights", default=None, metavar="FILE", help="a safetensors file of your own")
    report.add_argument(
        "--fpr", type=float, default=None, help="share of real photographs called ai by mistake: 0.01 or 0.05"
    )
    report.add_argument(
        "--recursive", action=argparse.BooleanOptionalAction, default=True, help="search folders to the bottom"
    )
    report.add_argument("--device", default="auto", help="where to compute: auto, cpu, cuda, cuda:1, ...")
    report.add_argument(
        "--backend", choices=("torch", "onnx", "openvino"), default=None, help="what runs the network; default: torch"
    )
    report.add_argument("--batch-size", type=int, default=16, help="how much is scored together: speed and memory only")
    report.add_argument("--workers", type=int, default=2, help="how many pictures are decoded at the same time")
    report.add_argument(
        "--isolate", type=float, default=None, metavar="SECONDS", help="open files in processes, each at most so long"
    )


def run(options: argparse.Namespace) -> int:
    """Scores the inputs and writes the page; returns the exit status: 0 all scored, 1 some not, 2 no inputs."""
    from .registry import load_detector
    from .report import write_report

    detector = load_detector(options.detector, weights=options.weights, device=options.device, backend=options.backend)
    found = write_report(
        options.page,
        detector,
        options.paths,
        heatmaps=options.heatmaps,
        fpr=options.fpr,
        recursive=options.recursive,
        batch_size=options.batch_size,
        workers=options.workers,
        isolate=options.isolate,
        progress=sys.stderr.isatty(),
    )
    if found.scored + found.failed == 0:
        print("aigidetect: no pictures found; give files, or folders that hold some", file=sys.stderr)
        return 2
    size = os.path.getsize(options.page) / 1e6
    print(f"{detector.name}: {found.scored} scored, {found.failed} failed; {options.page}, {size:.1f} MB", file=sys.stderr)
    return 1 if found.failed else 0
