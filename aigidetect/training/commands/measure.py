"""`evaluate`, `calibrate` and `results`: from a run, or a published detector, to figures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ...calibration import Calibration
from ...detector import Detector
from ...preprocess import from_dict
from ..augment import CONDITIONS
from ..datasets import take_split
from ..layouts import read_data
from .common import DATA, Commands, read_json, write_json

DEFAULT_PREPROCESS = '{"kind": "tiles"}'


def add(commands: Commands) -> None:
    """Adds the parsers."""
    evaluate = commands.add_parser("evaluate", help="score labelled splits under all conditions")
    evaluate.set_defaults(run=_evaluate)
    which = evaluate.add_mutually_exclusive_group(required=True)
    which.add_argument("--detector", help="a published detector")
    which.add_argument("--run", dest="folder", type=Path, help="a finished run")
    evaluate.add_argument("--data", required=True, type=Path, help=DATA)
    evaluate.add_argument("--splits", nargs="+", required=True)
    evaluate.add_argument("--conditions", nargs="+", default=list(CONDITIONS), choices=CONDITIONS)
    evaluate.add_argument("--preprocess", default=DEFAULT_PREPROCESS, help="JSON; only with --run")
    evaluate.add_argument("--out", type=Path, default=None, help="folder of the scores; default: the run's")
    evaluate.add_argument("--device", default="auto")

    calibrate = commands.add_parser("calibrate", help="fit temperature and thresholds on the scores of val")
    calibrate.set_defaults(run=_calibrate)
    calibrate.add_argument("--run", dest="folder", required=True, type=Path)
    calibrate.add_argument("--fprs", nargs="+", type=float, default=[0.01, 0.05])

    results = commands.add_parser("results", help="tables from stored scores")
    results.set_defaults(run=_results)
    results.add_argument("scores", nargs="+", type=Path, help="folders that evaluate wrote")
    results.add_argument("--out", type=Path, default=None, help="Markdown file; default: stdout")
    results.add_argument("--readme", type=Path, default=None, help="also write the headline between the marks of this file")
    results.add_argument("--manifest", type=Path, default=None, help="also store the metrics with the published detectors")


def _evaluate(options: argparse.Namespace) -> None:
    from ..evaluate import score, write_scores

    samples = read_data(options.data)
    out = options.out or options.folder
    if out is None:
        raise ValueError("--detector needs --out, a folder for the scores.")
    out.mkdir(parents=True, exist_ok=True)
    detector = _detector(options)
    for split in options.splits:
        chosen = take_split(samples, split)
        write_scores(score(detector, chosen, options.conditions, progress=sys.stderr.isatty()), out / f"{split}.csv")
    facts = {
        "detector": detector.name,
        "weights_sha256": detector.weights_sha256,
        "calibration": detector.calibration.to_dict(),
        "preprocess": detector.preprocess.to_dict(),
        "splits": options.splits,
        "train_lines": sorted({sample.line for sample in take_split(samples, "train")}),
    }
    write_json(out / "evaluation.json", facts)


def _detector(options: argparse.Namespace) -> Detector:
    if options.detector:
        from ...registry import load_detector

        return load_detector(options.detector, device=options.device)
    from ..export import run_detector

    stored = options.folder / "calibration.json"
    calibration = Calibration.from_dict(read_json(stored)) if stored.exists() else None
    return run_detector(options.folder, from_dict(json.loads(options.preprocess)), calibration, device=options.device)


def _calibrate(options: argparse.Namespace) -> None:
    from ..calibrate import calibrate
    from ..evaluate import read_scores

    calibration = calibrate(read_scores(options.folder / "val.csv", Calibration()), fprs=options.fprs)
    write_json(options.folder / "calibration.json", calibration.to_dict())
    print(json.dumps(calibration.to_dict(), indent=1))


def _results(options: argparse.Namespace) -> None:
    from ..tables import headline_table, results_page, write_metrics, write_readme

    page = results_page(options.scores)
    if options.manifest:
        write_metrics(options.manifest, options.scores)
    if options.readme:
        write_readme(options.readme, headline_table(options.scores))
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    else:
        print(page)
