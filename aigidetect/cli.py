"""`aigidetect predict | list | fetch | verify`.

Records go to stdout (or `--output`), one for each input in input order; progress and messages go to stderr. Exit status: 0
all inputs were scored, 1 some were not, 2 wrong use.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

from .errors import AigidetectError
from .prediction import Failure, Prediction

_EXAMPLES = """examples:
  aigidetect predict photo.jpg
  aigidetect predict holiday/ more/*.png --format csv --output scores.csv
  aigidetect predict holiday/ --fpr 0.01        fewer false alarms, more "unsure"
  aigidetect list
  aigidetect verify --all
"""


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="aigidetect",
        description="Tells AI-generated images from photographs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"aigidetect {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    predict = commands.add_parser("predict", help="score files, folders and globs")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="a picture, a folder or a glob pattern")
    predict.add_argument("--detector", default=None, metavar="NAME", help="see `aigidetect list`")
    predict.add_argument("--weights", default=None, metavar="FILE", help="a safetensors file of your own")
    predict.add_argument("--fpr", type=float, default=None, help="false-positive rate of the verdict, such as 0.01 or 0.05")
    predict.add_argument("--format", choices=("jsonl", "csv", "table"), default=None, help="table on a terminal, else jsonl")
    predict.add_argument("--output", default=None, metavar="FILE", help="write the records there instead of stdout")
    predict.add_argument(
        "--recursive", action=argparse.BooleanOptionalAction, default=True, help="search folders to the bottom"
    )
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    predict.add_argument("--batch-size", type=int, default=16, help="views that go through the network together")
    predict.add_argument("--workers", type=int, default=2, help="threads that decode")

    commands.add_parser("list", help="show all detectors")
    fetch = commands.add_parser("fetch", help="download the weights of detectors into the cache")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument("--force", action="store_true", help="download again even if the file is here")
    verify = commands.add_parser("verify", help="recompute the sha256 and the golden logits of detectors")
    verify.add_argument("names", nargs="*", metavar="NAME")
    verify.add_argument("--all", action="store_true", help="all detectors whose weights are on this machine")
    verify.add_argument("--device", default="auto")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    commands = {"predict": _predict, "list": _list, "fetch": _fetch, "verify": _verify}
    try:
        return commands[options.command](options)
    except (AigidetectError, ValueError) as error:
        print(f"aigidetect: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _predict(options: argparse.Namespace) -> int:
    from .registry import load_detector

    detector = load_detector(options.detector, weights=options.weights, device=options.device)
    records = detector.stream(
        options.paths,
        batch_size=options.batch_size,
        workers=options.workers,
        recursive=options.recursive,
        fpr=options.fpr,
        progress=sys.stderr.isatty(),
    )
    if options.output is None:
        chosen = options.format or ("table" if sys.stdout.isatty() else "jsonl")
        scored, failed = _WRITERS[chosen](records, sys.stdout)
    else:
        with open(options.output, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            scored, failed = _WRITERS[options.format or "jsonl"](records, file)
    print(f"{detector.name}: {scored} scored, {failed} failed", file=sys.stderr)
    if scored + failed == 0:
        print("aigidetect: no pictures found; give files, or folders that hold some", file=sys.stderr)
        return 2
    return 1 if failed else 0


def _write_jsonl(records: Iterable[Prediction | Failure], out: IO[str]) -> tuple[int, int]:
    def write(record: Prediction | Failure) -> None:
        # ASCII escapes keep names in odd encodings writable on every terminal and readable again.
        out.write(json.dumps(record.to_dict()) + "\n")
        out.flush()

    return _count(records, write)


_COLUMNS = (
    "source",
    "verdict",
    "probability",
    "threshold",
    "fpr",
    "probability_mean",
    "probability_std",
    "probability_low",
    "probability_high",
    "format",
    "width",
    "height",
    "jpeg_quality",
    "detector",
    "weights_sha256",
    "error",
    "message",
)


def _write_csv(records: Iterable[Prediction | Failure], out: IO[str]) -> tuple[int, int]:
    writer = csv.DictWriter(out, _COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()

    def write(record: Prediction | Failure) -> None:
        facts = record.to_dict()
        spread = {f"probability_{key}": value for key, value in (facts.get("uncertainty") or {}).items()}
        row = {**facts, **facts.get("image", {}), **spread}
        writer.writerow({key: _printable(value) if isinstance(value, str) else value for key, value in row.items()})

    return _count(records, write)


def _write_table(records: Iterable[Prediction | Failure], out: IO[str]) -> tuple[int, int]:
    def write(record: Prediction | Failure) -> None:
        if isinstance(record, Prediction):
            out.write(f"{record.verdict:<7}{record.probability:6.3f}  {_printable(record.source)}\n")
        else:
            out.write(f"{'failed':<7}{'':6}  {_printable(record.source)}: {_printable(record.message)}\n")

    return _count(records, write)


def _printable(text: str) -> str:
    """Text without what a terminal would obey or could not encode: control characters and half surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_WRITERS: dict[str, Callable[[Iterable[Prediction | Failure], IO[str]], tuple[int, int]]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "table": _write_table,
}


def _count(records: Iterable[Prediction | Failure], write: Callable[[Prediction | Failure], None]) -> tuple[int, int]:
    scored = failed = 0
    for record in records:
        write(record)
        scored, failed = scored + record.ok, failed + (not record.ok)
    return scored, failed


def _list(options: argparse.Namespace) -> int:
    from .manifest import load_manifest

    manifest = load_manifest()
    for name in manifest.names():
        entry = manifest.get(name)
        facts = _summary(entry)
        print(f"{entry.full_name:<18}{facts}")
    return 0


def _summary(entry: Any) -> str:
    if entry.weights is None:
        return f"no published weights: {entry.note}"
    place = "in this package" if entry.weights.file else f"on the Hub: {entry.weights.repo_id}"
    size = entry.weights.bytes + (entry.backbone.bytes if entry.backbone else 0)
    return f"{size / 1e6:.1f} MB, {place}"


def _fetch(options: argparse.Namespace) -> int:
    from .manifest import load_manifest
    from .weights import fetch

    manifest = load_manifest()
    for name in options.names:
        entry = manifest.get(name)
        print(f"{entry.full_name}: {fetch(entry, force=options.force)}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from .manifest import load_manifest
    from .registry import load_detector, verify_detector

    manifest = load_manifest()
    names = options.names or [v for v in manifest.versions() if options.all and manifest.get(v).weights is not None]
    if not names:
        print("aigidetect: name detectors to verify, or use --all", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        entry = manifest.get(name)
        try:
            detector = load_detector(name, device=options.device, local_files_only=options.all)
            difference = verify_detector(detector, entry)
        except AigidetectError as error:
            failed += 1
            print(f"{entry.full_name:<18}FAILED  {error}")
        else:
            print(f"{entry.full_name:<18}ok  sha256 {detector.weights_sha256}  golden logits within {difference:.2g}")
    return 1 if failed else 0
