"""`aigidetect demo`: a page for trying a detector, on this machine."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Adds the parser."""
    demo = commands.add_parser("demo", help="serve a page for trying pictures one by one")
    demo.add_argument("--detector", default=None, metavar="NAME", help="see `aigidetect list`; default: the best here")
    demo.add_argument("--weights", default=None, metavar="FILE", help="a safetensors file of your own")
    demo.add_argument("--fpr", type=float, default=None, help="share of real photographs called ai by mistake: 0.01 or 0.05")
    demo.add_argument("--examples", default=None, metavar="DIR", help="pictures to choose from")
    demo.add_argument("--device", default="auto", help="where to compute: auto, cpu, cuda, cuda:1, ...")
    demo.add_argument("--port", type=int, default=None, metavar="N", help="default: the first free one from 7860 on")
    demo.add_argument("--share", action="store_true", help="a public link, through the servers of Gradio")


def run(options: argparse.Namespace) -> int:
    """Serves the page until it is interrupted; returns the exit status."""
    from .demo import launch
    from .registry import load_detector

    detector = load_detector(options.detector, weights=options.weights, device=options.device)
    launch(detector, fpr=options.fpr, examples=options.examples, port=options.port, share=options.share)
    return 0
