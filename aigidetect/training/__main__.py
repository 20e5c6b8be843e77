"""`python -m aigidetect.training audit | fit | evaluate | calibrate | export | results`: makes and measures detectors.

The way of a detector:

    audit DATA                                              what file format, size and quality tell of the label
    fit --recipe npr-ms-ca --data DATA --out runs/a         trains, resumably, on the split "train"
    evaluate --run runs/a --data DATA --splits val          scores "val" under all conditions
    calibrate --run runs/a                                  temperature, bias and thresholds from these scores
    export --run runs/a --name npr-ms-ca --version 1        weights file and manifest entry
    evaluate --detector npr-ms-ca@1 --data DATA --splits test_seen test_unseen --out scores/npr-ms-ca-1
    results scores/npr-ms-ca-1 --out docs/results.md        tables from stored scores
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..calibration import Calibration
from ..detector import Detector
from ..errors import AigidetectError
from ..preprocess import from_dict
from .augment import CONDITIONS
from .datasets import Sample, digest, take_split
from .layouts import read_data
from .recipe import Recipe

_DATA = "folder with an index.tsv or in a known layout, or a CSV file"
DEFAULT_PREPROCESS = '{"kind": "tiles"}'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aigidetect.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: all cores")
    commands = parser.add_subparsers(dest="command", required=True)

    audit = commands.add_parser("audit", help="measure the shortcuts of a data set; exit status 1 if there are any")
    audit.add_argument("data", type=Path, help=_DATA)
    audit.add_argument("--limit", type=float, default=0.6, help="AUROC from which a fact is a shortcut")
    audit.add_argument("--allow", action="store_true", help="exit status 0 even so")
    audit.add_argument("--out", type=Path, default=None, help="JSON file for the whole result")

    fit = commands.add_parser("fit", help="train, or continue a run")
    fit.add_argument("--recipe", required=True, help="a recipe of this package, or a JSON file")
    fit.add_argument("--data", required=True, type=Path, help=_DATA)
    fit.add_argument("--out", required=True, type=Path, help="folder of the run")
    fit.add_argument("--max-steps", type=int, default=None, help="stop, resumably, after so many steps")
    fit.add_argument("--seed", type=int, default=None, help="instead of the recipe's")
    fit.add_argument("--device", default="cpu")
    fit.add_argument(
        "--allow-shortcuts", action="store_true", help="train even if the data have shortcuts that the recipe leaves open"
    )
    fit.add_argument("--compile", action="store_true", help="use torch.compile; needs a C++ compiler")

    evaluate = commands.add_parser("evaluate", help="score labelled splits under all conditions")
    which = evaluate.add_mutually_exclusive_group(required=True)
    which.add_argument("--detector", help="a published detector")
    which.add_argument("--run", type=Path, help="a finished run")
    evaluate.add_argument("--data", required=True, type=Path)
    evaluate.add_argument("--splits", nargs="+", required=True)
    evaluate.add_argument("--conditions", nargs="+", default=list(CONDITIONS), choices=CONDITIONS)
    evaluate.add_argument("--preprocess", default=DEFAULT_PREPROCESS, help="JSON; only with --run")
    evaluate.add_argument("--out", type=Path, default=None, help="folder of the scores; default: the run's")
    evaluate.add_argument("--device", default="auto")

    calibrate = commands.add_parser("calibrate", help="fit temperature and thresholds on the scores of val")
    calibrate.add_argument("--run", required=True, type=Path)
    calibrate.add_argument("--fprs", nargs="+", type=float, default=[0.01, 0.05])

    export = commands.add_parser("export", help="weights file and manifest entry of a calibrated run")
    export.add_argument("--run", required=True, type=Path)
    export.add_argument("--data", required=True, type=Path)
    export.add_argument("--name", required=True)
    export.add_argument("--version", required=True, type=int)
    export.add_argument("--preprocess", default=None, help="JSON; default: what the val scores were made with")
    export.add_argument("--weights-folder", type=Path, default=Path("aigidetect/weights"))
    export.add_argument("--manifest", type=Path, default=Path("weights_manifest.json"))

    results = commands.add_parser("results", help="tables from stored scores")
    results.add_argument("scores", nargs="+", type=Path, help="folders that evaluate wrote")
    results.add_argument("--out", type=Path, default=None, help="Markdown file; default: stdout")
    results.add_argument("--readme", type=Path, default=None, help="also write the headline between the marks of this file")
    results.add_argument("--manifest", type=Path, default=None, help="also store the metrics with the published detectors")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0 done, 2 wrong use or unusable input."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if options.threads:
        torch.set_num_threads(options.threads)
    commands: dict[str, Callable[[argparse.Namespace], int | None]] = {
        "audit": _audit,
        "fit": _fit,
        "evaluate": _evaluate,
        "calibrate": _calibrate,
        "export": _export,
        "results": _results,
    }
    try:
        return commands[options.command](options) or 0
    except (AigidetectError, KeyError, OSError, ValueError) as error:
        print(f"aigidetect.training: {error}", file=sys.stderr)
        return 2


def _audit(options: argparse.Namespace) -> int:
    from .audit import audit

    result = audit(read_data(options.data), limit=options.limit)
    print(result.table())
    for line in result.undecodable:
        print(line, file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return int(bool(result.shortcuts) and not options.allow)


def _fit(options: argparse.Namespace) -> None:
    from .fit import fit
    from .recipe import load_recipe

    samples = take_split(read_data(options.data), "train")
    recipe = load_recipe(options.recipe)
    if options.seed is not None:
        recipe = dataclasses.replace(recipe, seed=options.seed)
    _audit_before_fit(samples, recipe, options)
    print(fit(recipe, samples, options.out, device=options.device, max_steps=options.max_steps, compiled=options.compile))


def _audit_before_fit(samples: list[Sample], recipe: Recipe, options: argparse.Namespace) -> None:
    """Audits once a run and stores the result beside it; refuses data whose shortcuts would reach the network."""
    stored = options.out / "audit.json"
    if not stored.exists():
        from .audit import audit

        result = audit(samples)
        options.out.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
        logging.info("audit:\n%s", result.table())
    shortcuts = _read(stored)["shortcuts"]
    if shortcuts and not recipe.augment.equalises and not options.allow_shortcuts:
        raise ValueError(
            f"These facts alone predict the label: {', '.join(shortcuts)}. The recipe's pipeline leaves them in place, so "
            "the network would learn them. Re-encode and crop both classes alike (Augment with encode >= 0.9), or use "
            "--allow-shortcuts to do it on purpose."
        )


def _evaluate(options: argparse.Namespace) -> None:
    from .evaluate import score, write_scores

    samples = read_data(options.data)
    out = options.out or options.run
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
    (out / "evaluation.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _detector(options: argparse.Namespace) -> Detector:
    if options.detector:
        from ..registry import load_detector

        return load_detector(options.detector, device=options.device)
    from .export import run_detector

    stored = options.run / "calibration.json"
    calibration = Calibration.from_dict(_read(stored)) if stored.exists() else None
    return run_detector(options.run, from_dict(json.loads(options.preprocess)), calibration, device=options.device)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _calibrate(options: argparse.Namespace) -> None:
    from .calibrate import calibrate
    from .evaluate import read_scores

    calibration = calibrate(read_scores(options.run / "val.csv", Calibration()), fprs=options.fprs)
    text = json.dumps(calibration.to_dict(), indent=1)
    (options.run / "calibration.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def _export(options: argparse.Namespace) -> None:
    from .export import export
    from .fit import read_log

    samples = read_data(options.data)
    facts = json.loads(options.preprocess) if options.preprocess else _read(options.run / "evaluation.json")["preprocess"]
    train, val = take_split(samples, "train"), take_split(samples, "val")
    entry = export(
        options.run,
        options.weights_folder,
        options.manifest,
        name=options.name,
        version=options.version,
        preprocess=from_dict(facts),
        calibration=Calibration.from_dict(_read(options.run / "calibration.json")),
        provenance={
            "licence": "Apache-2.0",
            "data": f"{len(train)} pictures of {len({s.source for s in train})} sources to train, {len(val)} to calibrate",
            "data_sha256": digest([*train, *val]),
            "training_minutes": round(sum(_call_minutes(read_log(options.run))), 1),
        },
    )
    print(json.dumps(entry, indent=1))


def _call_minutes(rows: list[dict[str, float]]) -> list[float]:
    """Minutes of each call that worked on a run: the clock starts again at zero with every call."""
    ends = [a["seconds"] for a, b in itertools.pairwise(rows) if b["seconds"] < a["seconds"]]
    return [seconds / 60 for seconds in [*ends, *(row["seconds"] for row in rows[-1:])]]


def _results(options: argparse.Namespace) -> None:
    from .tables import headline_table, results_page, write_metrics, write_readme

    page = results_page(options.scores)
    if options.manifest:
        write_metrics(options.manifest, options.scores)
    if options.readme:
        write_readme(options.readme, headline_table(options.scores))
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    else:
        print(page)


if __name__ == "__main__":
    raise SystemExit(main())
