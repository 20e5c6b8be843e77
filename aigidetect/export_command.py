"""`aigidetect export`: a detector as a file for other runtimes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Adds the parser."""
    parser = commands.add_parser(
        "export", help="write a detector as ONNX, TorchScript or OpenVINO, and compare it with torch"
    )
    parser.add_argument("name", metavar="NAME", help="see `aigidetect list`; or hf-hub:OWNER/REPO@COMMIT")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="ends with .onnx, .pt or .xml")
    parser.add_argument("--format", choices=("onnx", "torchscript", "openvino"), default="onnx")
    parser.add_argument("--half", action="store_true", help="store large matrices as float16: half the size")
    parser.add_argument("--weights", default=None, metavar="FILE", help="a safetensors file of your own")
    parser.add_argument(
        "--pictures",
        nargs="+",
        default=None,
        metavar="PATH",
        help="pictures or folders to compare on; or a checkout's examples",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from .exporting import OPSET, export
    from .registry import load_detector
    from .sources import iter_sources

    if Path(options.output).exists() and not options.force:
        raise ValueError(f"{options.output} exists; use --force to replace it.")
    pictures = list(iter_sources(_examples() if options.pictures is None else options.pictures))
    detector = load_detector(options.name, weights=options.weights, device="cpu")
    made = export(detector, options.output, options.format, half=options.half, pictures=pictures)
    opset = "" if options.format == "torchscript" else f", opset {OPSET}"
    weights = "float16" if options.half else "float32"
    print(f"{made.path}: {made.bytes / 1e6:.1f} MB, {options.format}{opset}, weights in {weights}")
    print(
        f"{detector.name} and the file differ by at most {made.difference:.2g} in a logit (allowed: {made.tolerance:g}), on "
        f"{made.views} views: {len(pictures)} pictures and the pattern of the self-test"
    )
    if not pictures:
        print("aigidetect: no pictures at hand; give some of yours as --pictures", file=sys.stderr)
    return 0


def _examples() -> list[str]:
    folder = Path(__file__).resolve().parents[1] / "examples" / "images"
    return [str(folder)] if folder.is_dir() else []
