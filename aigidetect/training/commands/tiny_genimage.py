"""`tiny-genimage`: the report's tables 7 and 8 from a folder of Tiny-GenImage, with a warning of its formats."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...detector import Detector
from ...errors import WeightsNotAvailable
from ...preprocess import from_dict
from ..augment import CONDITIONS
from ..datasets import Sample, take_split
from ..layouts import read_data
from .common import Commands

if TYPE_CHECKING:  # it imports scikit-learn, which only running needs
    from ..evaluate import Score

DETECTORS = ("npr", "npr-ms", "npr-ca", "npr-sa", "npr-ms-ca")
_EQUAL = """Every picture was brought to one format first, so that the format of its file tells nothing. Read these figures,
not those as-is. Real pictures that were JPEG files keep traces of that first compression, and sizes still differ by class.
"""


def add(commands: Commands) -> None:
    """Adds the parser."""
    tiny = commands.add_parser("tiny-genimage", help="the report's tables 7 and 8, measured on a folder of Tiny-GenImage")
    tiny.set_defaults(run=_tiny)
    tiny.add_argument("folder", type=Path, help="Tiny-GenImage, as distributed or as the report arranged it")
    tiny.add_argument("--detectors", nargs="+", default=list(DETECTORS), help="table 8 is of the last that has weights")
    tiny.add_argument("--split", default="val", help="default: val, the report's")
    tiny.add_argument("--conditions", nargs="+", default=["as-is", "q96"], choices=CONDITIONS)
    tiny.add_argument("--weights", nargs="+", default=[], metavar="NAME=FILE", help="weights of your own for a detector")
    tiny.add_argument(
        "--preprocess", default=None, help='JSON for weights of your own; {"kind": "squash-crop"}: the report\'s'
    )
    tiny.add_argument("--out", type=Path, default=Path("tiny-genimage-scores"), help="folder of the scores")
    tiny.add_argument("--device", default="auto")


def _tiny(options: argparse.Namespace) -> None:
    from ..score_folders import evaluate, read_evaluation

    samples = read_data(options.folder)
    chosen = take_split(samples, options.split)
    own = _own_weights(options)
    print(f"# Tiny-GenImage, {options.split}\n\n{_warning(chosen)}\n")
    evaluations: dict[str, list[Score]] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(options.detectors):
        try:
            detector = _load(name, own.get(name), options)
        except WeightsNotAvailable as error:
            if name in own:
                raise
            missing[name] = str(error)
            continue
        # A name may hold characters that a folder's may not.
        out = options.out / name.replace("@", "-")
        evaluate(detector, samples, [options.split], out, options.conditions, progress=sys.stderr.isatty())
        evaluations[detector.name] = read_evaluation(out)[1]
    for condition in options.conditions:
        _print_tables(evaluations, missing, condition)


def _print_tables(evaluations: dict[str, list[Score]], missing: dict[str, str], condition: str) -> None:
    from ..report_tables import report_tables

    print(f"## Condition {condition}\n")
    if condition not in ("as-is", "swap"):
        print(_EQUAL)
    last = dict(list(evaluations.items())[-1:])
    tables = report_tables(evaluations, condition, numbers=[7], missing=missing)
    for table in [*tables, *report_tables(last, condition, numbers=[8])]:
        print(table.markdown())


def _own_weights(options: argparse.Namespace) -> dict[str, Path]:
    own = {}
    for item in options.weights:
        name, equals, file = item.partition("=")
        if not (equals and file) or name not in options.detectors:
            raise ValueError(f"Expected --weights NAME=FILE with a name of {options.detectors}, but got {item!r}.")
        own[name] = Path(file)
    return own


def _load(name: str, weights: Path | None, options: argparse.Namespace) -> Detector:
    from ...registry import load_detector

    detector = load_detector(name, weights=weights, device=options.device)
    if weights is not None and options.preprocess:
        detector.preprocess = from_dict(json.loads(options.preprocess))
    return detector


def _warning(samples: list[Sample]) -> str:
    """What format, size and quality alone tell of the label."""
    from ..audit import audit

    try:
        result = audit(samples)
    except ValueError as error:
        return f"No audit of shortcuts: {error} If formats differ by class, the figures as-is may be the format's."
    said = "No fact of the files alone predicts the label."
    if result.shortcuts:
        said = (
            f"**Warning**: {', '.join(result.shortcuts)} alone predict the label. A detector that has learnt them is right "
            "as-is and knows nothing of generation."
        )
    return f"{said}\n\n{result.table()}"
