"""`audit` and `fit`: from data to a run."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..datasets import Sample, take_split
from ..layouts import read_data
from ..recipe import Recipe
from .common import DATA, Commands, add_data, read_json, write_json

if TYPE_CHECKING:
    from ..class_token import TokenCache


def add(commands: Commands) -> None:
    """Adds the parsers."""
    audit = commands.add_parser("audit", help="measure the shortcuts of a data set; exit status 1 if there are any")
    audit.set_defaults(run=_audit)
    audit.add_argument("data", type=Path, nargs="+", help=f"{DATA}; several are joined")
    audit.add_argument("--limit", type=float, default=0.6, help="AUROC from which a fact is a shortcut")
    audit.add_argument("--allow", action="store_true", help="exit status 0 even so")
    audit.add_argument("--out", type=Path, default=None, help="JSON file for the whole result")

    fit = commands.add_parser("fit", help="train, or continue a run")
    fit.set_defaults(run=_fit)
    fit.add_argument("--recipe", required=True, help="a recipe of this package, or a JSON file")
    add_data(fit)
    fit.add_argument("--out", required=True, type=Path, help="folder of the run")
    fit.add_argument("--backbone", type=Path, default=None, help="safetensors file that the network's backbone begins with")
    fit.add_argument("--start", type=Path, default=None, help="safetensors file of the same network to begin with")
    fit.add_argument(
        "--features", type=Path, nargs="+", default=[], help="caches of features, instead of passing views through a tower"
    )
    fit.add_argument("--teacher", type=Path, default=None, help="file of head --teach, for a recipe with a teacher's share")
    fit.add_argument("--max-steps", type=int, default=None, help="stop, resumably, after so many steps")
    fit.add_argument("--seed", type=int, default=None, help="instead of the recipe's")
    fit.add_argument("--device", default="cpu", help="with several processes, without a number: each takes its own")
    fit.add_argument("--save-every", type=int, default=200, help="steps between two states")
    fit.add_argument("--log-every", type=int, default=50, help="steps between two rows of the log")
    fit.add_argument("--tensorboard", action="store_true", help="also write scalars for TensorBoard beside the log")
    fit.add_argument(
        "--allow-shortcuts", action="store_true", help="train even if the data have shortcuts that the recipe leaves open"
    )
    fit.add_argument("--compile", action="store_true", help="use torch.compile; needs a C++ compiler")


def _audit(options: argparse.Namespace) -> int:
    from ..audit import audit

    result = audit(read_data(*options.data), limit=options.limit)
    print(result.table())
    for line in result.undecodable:
        print(line, file=sys.stderr)
    if options.out:
        write_json(options.out, result.to_dict())
    return int(bool(result.shortcuts) and not options.allow)


def _fit(options: argparse.Namespace) -> None:
    from ..distributed import Processes
    from ..fit import fit
    from ..recipe import load_recipe

    samples = take_split(read_data(*options.data), "train")
    caches = _caches(options)
    recipe = load_recipe(options.recipe)
    if options.seed is not None:
        recipe = dataclasses.replace(recipe, seed=options.seed)
    processes = Processes.from_environment()
    if processes.main:
        _audit_before_fit(samples, recipe, options)
    made = fit(
        recipe,
        samples,
        options.out,
        backbone=options.backbone,
        start=options.start,
        teacher=options.teacher,
        features=caches,
        device=options.device,
        max_steps=options.max_steps,
        save_every=options.save_every,
        log_every=options.log_every,
        compiled=options.compile,
        tensorboard=options.tensorboard,
    )
    if processes.main:
        print(made)


def _caches(options: argparse.Namespace) -> list[TokenCache]:
    if not options.features:
        return []
    from ..class_token import match_caches
    from ..features import open_cache

    data = [take_split(read_data(path), "train") for path in options.data]
    return match_caches([open_cache(folder) for folder in options.features], data)


def _audit_before_fit(samples: list[Sample], recipe: Recipe, options: argparse.Namespace) -> None:
    """Audits once a run and stores the result beside it; refuses data whose shortcuts would reach the network."""
    stored = options.out / "audit.json"
    if not stored.exists():
        from ..audit import audit

        result = audit(samples)
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(stored, result.to_dict())
        logging.info("audit:\n%s", result.table())
    shortcuts = read_json(stored)["shortcuts"]
    if shortcuts and not recipe.augment.equalises and not options.allow_shortcuts:
        raise ValueError(
            f"These facts alone predict the label: {', '.join(shortcuts)}. The recipe's pipeline leaves them in place, so "
            "the network would learn them. Re-encode and crop both classes alike (Augment with encode >= 0.9), or use "
            "--allow-shortcuts to do it on purpose."
        )
