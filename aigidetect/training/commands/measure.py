"""`evaluate`, `calibrate` and `results`: from a run, or a published detector, to figures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch

from ...calibration import Calibration
from ...detector import Detector
from ...preprocess import Preprocess, SquashCrop, Tiles, from_dict
from ..augment import CONDITIONS
from ..datasets import take_split
from ..layouts import read_data
from .common import DATA, Commands, add_data, read_json, write_json

DEFAULT_PREPROCESS = '{"kind": "tiles"}'


def add(commands: Commands) -> None:
    """Adds the parsers."""
    evaluate = commands.add_parser("evaluate", help="score labelled splits under all conditions")
    evaluate.set_defaults(run=_evaluate)
    which = evaluate.add_mutually_exclusive_group(required=True)
    which.add_argument("--detector", help="a published detector")
    which.add_argument("--run", dest="folder", type=Path, help="a finished run")
    add_data(evaluate)
    evaluate.add_argument("--splits", nargs="+", required=True)
    evaluate.add_argument("--conditions", nargs="+", default=list(CONDITIONS), choices=CONDITIONS)
    by_recipe = "JSON, only with --run; mean and std default to the recipe's"
    evaluate.add_argument("--preprocess", default=DEFAULT_PREPROCESS, help=by_recipe)
    evaluate.add_argument("--out", type=Path, default=None, help="folder of the scores; default: the run's")
    moved = "columns and rows at the left and top that the detector does not see; see docs/training.md"
    evaluate.add_argument("--shift", nargs=2, type=int, default=[0, 0], metavar="PIXELS", help=moved)
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="see Detector")

    calibrate = commands.add_parser("calibrate", help="fit temperature and thresholds on the scores of val")
    calibrate.set_defaults(run=_calibrate)
    calibrate.add_argument("--run", dest="folder", required=True, type=Path)
    calibrate.add_argument("--fprs", nargs="+", type=float, default=[0.01, 0.05])

    across = "file of head --teach: also calibrate on training pictures whose line or source the head had not seen"
    calibrate.add_argument("--across", default=None, type=Path, help=across)
    like = "mean of so many views of a picture in --across, for a detector that pools as many (default: 1)"
    calibrate.add_argument("--across-views", default=1, type=int, metavar="N", help=like)
    by_quality = "print what a calibration by blockiness of the pictures would give; needs --data"
    calibrate.add_argument("--by-quality", action="store_true", help=by_quality)
    calibrate.add_argument("--data", nargs="+", default=[], type=Path, help=DATA)

    results = commands.add_parser("results", help="tables from stored scores")
    results.set_defaults(run=_results)
    results.add_argument("scores", nargs="+", type=Path, help="folders that evaluate wrote")
    results.add_argument("--out", type=Path, default=None, help="Markdown file; default: stdout")
    results.add_argument("--ablation", nargs="+", default=[], type=Path, help="folders of variants and seeds")
    results.add_argument("--heads", nargs="+", default=[], type=Path, help="files that head --report wrote")
    results.add_argument("--comparisons", default=None, type=Path, help="JSON file of settings to set side by side")
    results.add_argument("--benchmark", default=None, type=Path, help="what benchmarks/detectors.py printed: all detectors")
    results.add_argument("--aims", default=None, type=Path, help="JSON file of what was meant to be reached")
    results.add_argument("--draws", type=int, default=200, help="bootstrap samples of each interval")
    results.add_argument("--readme", type=Path, default=None, help="also write the headline between the marks of this file")
    results.add_argument("--manifest", type=Path, default=None, help="also store the metrics with the published detectors")


def _evaluate(options: argparse.Namespace) -> None:
    from ..fit import read_recipe
    from ..score_folders import evaluate

    samples = read_data(*options.data)
    out = options.out or options.folder
    if out is None:
        raise ValueError("--detector needs --out, a folder for the scores.")
    seed = None if options.detector else read_recipe(options.folder).seed
    wanted, shift = (options.splits, out, options.conditions), (options.shift[0], options.shift[1])
    evaluate(_detector(options), samples, *wanted, shift=shift, seed=seed, progress=sys.stderr.isatty())


def _detector(options: argparse.Namespace) -> Detector:
    dtype: torch.dtype = getattr(torch, options.dtype)
    if options.detector:
        from ...registry import load_detector

        return load_detector(options.detector, device=options.device, dtype=dtype)
    from ..export import run_detector

    stored = options.folder / "calibration.json"
    calibration = Calibration.from_dict(read_json(stored)) if stored.exists() else None
    preprocess = _run_preprocess(options)
    return run_detector(options.folder, preprocess, calibration, device=options.device, dtype=dtype)


def _run_preprocess(options: argparse.Namespace) -> Preprocess:
    """What `--preprocess` says, with the recipe's normalisation where it does not say another."""
    from ..fit import read_recipe

    facts, recipe = json.loads(options.preprocess), read_recipe(options.folder)
    chosen = from_dict(facts)
    if isinstance(chosen, (Tiles, SquashCrop)):
        chosen = dataclasses.replace(chosen, **{k: getattr(recipe, k) for k in ("mean", "std") if k not in facts})
    return chosen


def _calibrate(options: argparse.Namespace) -> None:
    from ..calibrate import calibrate
    from ..evaluate import read_scores
    from ..teacher import read_teacher

    scores = read_scores(options.folder / "val.csv", Calibration())
    opinions = read_teacher(options.across).values() if options.across else []
    across = [opinion.pooled(options.across_views) for opinion in opinions]
    calibration = calibrate(scores, fprs=options.fprs, across=across)
    write_json(options.folder / "calibration.json", calibration.to_dict())
    # What is stored are logits, so these scores are from now on those of the calibrated detector.
    if (stored := options.folder / "evaluation.json").exists():
        write_json(stored, {**read_json(stored), "calibration": calibration.to_dict()})
    print(json.dumps(calibration.to_dict(), indent=1))
    if options.by_quality:
        from ..quality import compare_by_quality, describe, measure_blockiness

        if not options.data:
            raise ValueError("--by-quality needs --data, the data set whose val split was scored.")
        pictures = take_split(read_data(*options.data), "val")
        print(describe(compare_by_quality(scores, measure_blockiness(pictures)), calibration))


def _results(options: argparse.Namespace) -> None:
    from ..aims import aims_section, outcomes, write_shortfalls
    from ..tables import headline_table, results_page, write_metrics, write_readme
    from ..zoo import zoo_section, zoo_table

    found = outcomes(options.aims, options.scores, draws=options.draws) if options.aims else []
    if options.manifest:
        write_metrics(options.manifest, [*options.scores, *options.ablation], draws=options.draws)
        write_shortfalls(options.manifest, found)
    # After the metrics, which it shows.
    first = [aims_section(found)] if found else []
    first += [zoo_section(options.manifest, options.benchmark)] if options.benchmark else []
    extra = {"heads": options.heads, "comparisons": options.comparisons, "first": first}
    page = results_page(options.scores, options.ablation, draws=options.draws, **extra)
    if options.readme:
        write_readme(options.readme, headline_table(options.scores, draws=options.draws))
        if options.benchmark:
            write_readme(options.readme, zoo_table(options.manifest, options.benchmark), "detectors")
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    else:
        print(page)
