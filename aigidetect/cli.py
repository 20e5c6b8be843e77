"""`aigidetect predict | report | demo | list | fetch | verify | convert | export | completion`.

Records go to stdout (or `--output`), one for each input in input order; progress and messages go to stderr. The exit status
is explained in `help.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import demo_command, export_command, predict_command, report_command
from .errors import AigidetectError, OutputError


def _parser() -> argparse.ArgumentParser:
    from . import __version__
    from .completion import add
    from .help import GENERAL, add_examples

    parser = argparse.ArgumentParser(
        prog="aigidetect",
        description="Tells AI-generated images from photographs.",
        epilog=GENERAL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"aigidetect {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    predict_command.add(commands)
    report_command.add(commands)
    demo_command.add(commands)
    commands.add_parser("list", help="show all detectors, and where their weights are")
    fetch = commands.add_parser("fetch", help="download weights for later use, also those that others published")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument("--force", action="store_true", help="download again even if the file is here")
    verify = commands.add_parser("verify", help="check that weights are the published ones and compute right here")
    verify.add_argument("names", nargs="*", metavar="NAME")
    verify.add_argument("--all", action="store_true", help="all detectors whose weights are here, and the package's files")
    verify.add_argument("--device", default="auto")
    _add_convert(commands)
    export_command.add(commands)
    add(commands)
    add_examples(commands.choices)
    return parser


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
    commands = {"predict": predict_command.run, "list": _list, "fetch": _fetch, "verify": _verify, "convert": _convert}
    commands |= {"report": report_command.run, "demo": demo_command.run, "export": export_command.run}
    commands["completion"] = lambda options: _completion(parser, options.shell)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the console's encoding lacks, as on Windows, must not end the run.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return commands[options.command](options)
    except OutputError as error:
        _silence_stdout()
        print(f"aigidetect: {error}", file=sys.stderr)
        return 3
    except (AigidetectError, ModuleNotFoundError, ValueError) as error:
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


def _completion(parser: argparse.ArgumentParser, shell: str) -> int:
    from .completion import script
    from .manifest import load_manifest

    print(script(parser, shell, load_manifest().names()), end="")
    return 0


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
            found = "converted; nobody published outputs of it"
            if ":" not in name:
                found = f"gives the published outputs within {verify_detector(detector, entry):.2g}"
        except AigidetectError as error:
            failed += 1
            print(f"{shown:<18}FAILED  {error}")
        else:
            print(f"{shown:<18}ok  sha256 {detector.weights_sha256}  {found}")
    return 1 if failed else 0


def _verify_files() -> int:
    from .installed import check_installed
    from .lines import printable

    found = check_installed()
    start = f"{'package files':<18}"
    if found.wrong:
        shown = ", ".join(map(printable, found.wrong[:5])) + (" and more" if len(found.wrong) > 5 else "")
        print(f"{start}FAILED  {shown}: not as installed. Run `pip install --force-reinstall aigidetect`.")
        return 1
    rest = "" if found.covers_code else "; the code is not among them, because this install is editable or a checkout"
    print(f"{start}ok  {found.checked} files have the sha256 of the installed RECORD{rest}")
    return 0
