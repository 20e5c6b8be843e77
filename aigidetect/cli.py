"""`aigidetect predict | list | fetch | verify | convert`.

Records go to stdout (or `--output`), one for each input in input order; progress and messages go to stderr. The exit status
is among the texts below.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from .errors import AigidetectError, OutputError

_EXAMPLES = """examples:
  aigidetect predict photo.jpg
  aigidetect predict holiday/ more/*.png --format csv --output scores.csv
  aigidetect predict holiday/ --fpr 0.01        fewer false alarms, more "unsure"
  aigidetect list
  aigidetect verify --all
  aigidetect fetch npr-ms-ca:report             a checkpoint that others published
  aigidetect convert NPR.pth --as npr -o npr.safetensors

exit status:
  0  all inputs were scored      1  some were not; their records say why
  2  wrong use, or weights that cannot be used
  3  the records cannot be written, for instance because the disk is full
  130  interrupted (Ctrl-C)      141  the reader, such as `head`, closed the pipe
"""

_PREDICT_NOTES = """long runs:
  One record is one line, and one call writes it: a run that is killed leaves whole lines in FILE. The same command with
  --resume goes on after the last of them, and cuts a torn one away. It refuses a FILE made with other weights, another
  --fpr or other inputs, and changes nothing then. FILE is forced to the disk (fsync) every 10 seconds and at the end: a
  power cut loses at most the records since.
  --isolate decodes in as many processes as --workers says. A file over which the decoder dies, or that takes longer, gets
  a record like any other failure.
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

    _add_predict(commands)
    commands.add_parser("list", help="show all detectors")
    fetch = commands.add_parser(
        "fetch", help="download the weights of detectors into the cache, and convert those of others"
    )
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument("--force", action="store_true", help="download again even if the file is here")
    verify = commands.add_parser("verify", help="recompute the sha256 and the golden logits of detectors")
    verify.add_argument("names", nargs="*", metavar="NAME")
    verify.add_argument("--all", action="store_true", help="all detectors whose weights are here, and the package's files")
    verify.add_argument("--device", default="auto")
    _add_convert(commands)
    return parser


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="score files, folders and globs",
        epilog=_PREDICT_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    predict.add_argument("--workers", type=int, default=2, help="threads, or with --isolate processes, that decode")
    predict.add_argument("--resume", action="store_true", help="go on where an earlier run with this --output ended")
    predict.add_argument(
        "--isolate", type=float, default=None, metavar="SECONDS", help="decode in processes, at most so long a file"
    )


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser("convert", help="make a safetensors file of a checkpoint of others; runs nothing in it")
    convert.add_argument("source", metavar="SRC", help="a .pth, .pt, .bin or .safetensors file")
    convert.add_argument("--as", dest="name", required=True, metavar="NAME", help="detector it is of, such as npr-ca")
    convert.add_argument("-o", "--output", default=None, metavar="FILE", help="NAME.safetensors by default")
    convert.add_argument("--backbone", action="store_true", help="take the backbone alone, for `fit --backbone`")
    convert.add_argument("--activation", choices=("gelu", "relu"), default=None, help="of a transformer's head; else gelu")
    convert.add_argument("--preprocess", default=None, metavar="JSON", help="how pictures are seen; default: as originally")
    convert.add_argument("--force", action="store_true", help="overwrite the output")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    commands = {"predict": _predict, "list": _list, "fetch": _fetch, "verify": _verify, "convert": _convert}
    try:
        return commands[options.command](options)
    except OutputError as error:
        _silence_stdout()
        print(f"aigidetect: {error}", file=sys.stderr)
        return 3
    except (AigidetectError, ValueError) as error:
        print(f"aigidetect: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _silence_stdout()
        return 128 + 13  # what a shell says of a program that SIGPIPE ended
    except KeyboardInterrupt:
        kept = f"; {options.output} has whole records" if getattr(options, "output", None) else ""
        print(f"aigidetect: interrupted{kept}", file=sys.stderr)
        return 128 + 2


def _silence_stdout() -> None:
    """Python flushes stdout at exit, and would complain once more about what cannot be written."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _predict(options: argparse.Namespace) -> int:
    from .output import Format, RecordFile, StandardOutput, header, line
    from .registry import load_detector
    from .sources import iter_sources

    chosen: Format = options.format or ("table" if options.output is None and sys.stdout.isatty() else "jsonl")
    if options.resume and (options.output is None or chosen != "jsonl"):
        raise ValueError("--resume needs --output FILE and the format jsonl.")
    detector = load_detector(options.detector, weights=options.weights, device=options.device)
    inputs, done = iter_sources(options.paths, recursive=options.recursive), (0, 0)
    records = detector.stream(
        inputs,
        batch_size=options.batch_size,
        workers=options.workers,
        recursive=options.recursive,
        fpr=options.fpr,
        progress=sys.stderr.isatty(),
        isolate=options.isolate,
    )
    with StandardOutput() if options.output is None else RecordFile(options.output, resume=options.resume) as out:
        if isinstance(out, RecordFile) and options.resume:
            threshold, _, fpr = detector.calibration.threshold(options.fpr)
            facts: dict[str, Any] = {"detector": detector.name, "weights_sha256": detector.weights_sha256}
            done = out.skip_done(inputs, **facts, threshold=threshold, fpr=fpr)
        out.write(header(chosen))
        scored, failed = done
        for record in records:
            out.write(line(record, chosen))
            scored, failed = scored + record.ok, failed + (not record.ok)
    earlier = f", {sum(done)} of them earlier" if options.resume else ""
    print(f"{detector.name}: {scored} scored, {failed} failed{earlier}", file=sys.stderr)
    if scored + failed == 0:
        print("aigidetect: no pictures found; give files, or folders that hold some", file=sys.stderr)
        return 2
    return 1 if failed else 0


def _list(options: argparse.Namespace) -> int:
    from .foreign import FOREIGN
    from .manifest import load_manifest

    manifest = load_manifest()
    for name in manifest.names():
        entry = manifest.get(name)
        facts = _summary(entry)
        print(f"{entry.full_name:<18}{facts}")
    for foreign in FOREIGN:
        print(f"{foreign.name:<18}published by others: `aigidetect fetch {foreign.name}` gets it from {foreign.repository}")
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
        if ":" in name:
            from .fetch_foreign import fetch_foreign

            print(f"{name}: {fetch_foreign(name, force=options.force)}")
            continue
        entry = manifest.get(name)
        print(f"{entry.full_name}: {fetch(entry, force=options.force)}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from .convert_file import convert_file

    made = convert_file(
        options.source,
        options.name,
        options.output,
        backbone=options.backbone,
        activation=options.activation,
        preprocess=None if options.preprocess is None else json.loads(options.preprocess),
        force=options.force,
    )
    print(f"{made.path}: {made.tensors} tensors, preprocessing {made.preprocess}, not calibrated", file=sys.stderr)
    print(made.next_step)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from .manifest import load_manifest
    from .registry import load_detector, verify_detector

    manifest = load_manifest()
    names = options.names or [v for v in manifest.versions() if options.all and manifest.get(v).weights is not None]
    if not names:
        print("aigidetect: name detectors to verify, or use --all", file=sys.stderr)
        return 2
    failed = _verify_files() if options.all else 0
    for name in names:
        entry = manifest.get(name.partition(":")[0])
        shown = name if ":" in name else entry.full_name
        try:
            detector = load_detector(name, device=options.device, local_files_only=options.all)
            golden = "" if ":" in name else f"  golden logits within {verify_detector(detector, entry):.2g}"
        except AigidetectError as error:
            failed += 1
            print(f"{shown:<18}FAILED  {error}")
        else:
            print(f"{shown:<18}ok  sha256 {detector.weights_sha256}{golden or '  converted; no golden logits are known'}")
    return 1 if failed else 0


def _verify_files() -> int:
    from .installed import check_installed
    from .output import printable

    found = check_installed()
    start = f"{'package files':<18}"
    if found.wrong:
        shown = ", ".join(map(printable, found.wrong[:5])) + (" and more" if len(found.wrong) > 5 else "")
        print(f"{start}FAILED  {shown}: not as installed. Run `pip install --force-reinstall aigidetect`.")
        return 1
    rest = "" if found.covers_code else "; the code is not among them, because this install is editable or a checkout"
    print(f"{start}ok  {found.checked} files have the sha256 of the installed RECORD{rest}")
    return 0
