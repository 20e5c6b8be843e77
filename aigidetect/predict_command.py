"""`aigidetect predict`: from inputs to records on stdout or in a file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .errors import ImageError

if TYPE_CHECKING:
    from .detector import Detector
    from .heatmaps import HeatmapFolder
    from .lines import Layout
    from .provenance import Provenance


def add(commands: Any) -> None:
    """Adds the parser."""
    predict = commands.add_parser("predict", help="score files, folders and globs")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="a picture, a folder or a glob pattern")
    predict.add_argument("--detector", default=None, metavar="NAME", help="see `aigidetect list`; default: the best here")
    predict.add_argument("--weights", default=None, metavar="FILE", help="a safetensors file of your own")
    predict.add_argument(
        "--fpr", type=float, default=None, help="share of real photographs called ai by mistake: 0.01 or 0.05"
    )
    predict.add_argument("--format", choices=("jsonl", "csv", "table"), default=None, help="table on a terminal, else jsonl")
    predict.add_argument("--output", default=None, metavar="FILE", help="write the records there instead of stdout")
    predict.add_argument(
        "--recursive", action=argparse.BooleanOptionalAction, default=True, help="search folders to the bottom"
    )
    predict.add_argument("--device", default="auto", help="where to compute: auto, cpu, cuda, cuda:1, ...")
    predict.add_argument(
        "--backend", choices=("torch", "onnx", "openvino"), default=None, help="what runs the network; default: torch"
    )
    predict.add_argument("--batch-size", type=int, default=16, help="how much is scored together: speed and memory only")
    predict.add_argument("--workers", type=int, default=2, help="how many pictures are decoded at the same time")
    predict.add_argument("--resume", action="store_true", help="go on where an earlier run with this --output ended")
    predict.add_argument(
        "--isolate", type=float, default=None, metavar="SECONDS", help="open files in processes, each at most so long"
    )
    predict.add_argument("--stability", action="store_true", help="score re-encoded copies too: six times the work")
    predict.add_argument("--provenance", action="store_true", help="also show what the file says of its origin")
    predict.add_argument("--heatmap", default=None, metavar="DIR", help="write there where each score comes from, as PNG")


def run(options: argparse.Namespace) -> int:
    """Scores the inputs and writes their records; returns the exit status: 0 all scored, 1 some not, 2 no inputs."""
    from .heatmaps import HeatmapFolder
    from .lines import Format, Layout, wants_colour
    from .registry import load_detector

    chosen: Format = options.format or ("table" if options.output is None and sys.stdout.isatty() else "jsonl")
    if options.resume and (options.output is None or chosen != "jsonl"):
        raise ValueError("--resume needs --output FILE and the format jsonl.")
    if options.heatmap is not None and options.isolate is not None:
        raise ValueError("--heatmap opens the pictures in this process; give --isolate in a run without it.")
    colour = options.output is None and wants_colour(sys.stdout)
    layout = Layout(chosen, stability=options.stability, provenance=options.provenance, colour=colour)
    detector = load_detector(options.detector, weights=options.weights, device=options.device, backend=options.backend)
    heatmaps = None if options.heatmap is None else HeatmapFolder(detector, options.heatmap)
    scored, failed, earlier = _write(options, detector, layout, heatmaps)
    resumed = f", {earlier} of them earlier" if options.resume else ""
    print(f"{detector.name}: {scored} scored, {failed} failed{resumed}", file=sys.stderr)
    if scored + failed == 0:
        print("aigidetect: no pictures found; give files, or folders that hold some", file=sys.stderr)
        return 2
    if chosen == "table":
        print(_reading(detector.calibration.threshold(options.fpr)[2]), file=sys.stderr)
    if options.provenance:
        from .provenance import CAVEAT

        print(CAVEAT, file=sys.stderr)
    return 1 if failed or (heatmaps and heatmaps.missing) else 0


def _write(
    options: argparse.Namespace, detector: Detector, layout: Layout, heatmaps: HeatmapFolder | None
) -> tuple[int, int, int]:
    """Numbers of inputs scored and failed, and of those among them that an earlier run had written."""
    from .output import RecordFile, StandardOutput
    from .sources import iter_sources

    inputs, done = iter_sources(options.paths, recursive=options.recursive), (0, 0)
    records = detector.stream(
        inputs,
        batch_size=options.batch_size,
        workers=options.workers,
        recursive=options.recursive,
        fpr=options.fpr,
        progress=sys.stderr.isatty(),
        isolate=options.isolate,
        stability=options.stability,
    )
    with StandardOutput() if options.output is None else RecordFile(options.output, resume=options.resume) as out:
        if isinstance(out, RecordFile) and options.resume:
            threshold, _, fpr = detector.calibration.threshold(options.fpr)
            asked = {"stability": options.stability, "provenance": options.provenance}
            made = {"detector": detector.name, "weights_sha256": detector.weights_sha256, "threshold": threshold, "fpr": fpr}
            done = out.skip_done(inputs, {**made, **asked})
        out.write(layout.header())
        scored, failed = done
        for record in records:
            if heatmaps and record.ok:
                heatmaps.write(scored + failed + 1, record.source)
            out.write(layout.line(record, _origin(record.source) if options.provenance else None))
            scored, failed = scored + record.ok, failed + (not record.ok)
    return scored, failed, sum(done)


def _reading(fpr: float | None) -> str:
    """What a reader of the table has to know."""
    rate = "how often this detector calls real photographs so was never measured"
    if fpr is not None:
        rate = f"about {100 * fpr:g} of 100 real photographs, like those it was tested on, are called so by mistake"
    return f'"ai" is a reason to look closer, not proof: {rate}.'


def _origin(source: str) -> Provenance:
    """What a file says of its origin; why it cannot be read, if so, is a note, and the record says it too."""
    from .provenance import Provenance, read

    try:
        return read(source)
    except ImageError as error:
        return Provenance(source, (), (str(error),))
