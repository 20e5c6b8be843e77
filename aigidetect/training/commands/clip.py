"""`features`, `head` and `adapt`: the way of a detector on CLIP's image tower, from a tower file to a finished run."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.quantised import dequantise
from ...models.clip_vit import CLIPViT, Tower, build
from ...preprocess import Tiles
from ..augment import CONDITIONS, Augment
from ..datasets import Sample, digest, load_pixels, take_split
from ..layouts import read_data
from .common import DATA, Commands, write_json

if TYPE_CHECKING:
    from ..features import FeatureCache

AUGMENT = Augment(mirror=True)  # detectors continue small pictures by reflection, so training does
BLOCKS = (5, 6, 7, 8, 9)


def add(commands: Commands) -> None:
    """Adds the parsers."""
    features = commands.add_parser("features", help="cache what a frozen tower makes of many views of a split")
    features.set_defaults(run=_features)
    features.add_argument("--tower", required=True, type=Path, help="weights that training.clip_tower wrote")
    features.add_argument("--data", required=True, type=Path, help=DATA)
    features.add_argument("--split", required=True)
    features.add_argument("--out", required=True, type=Path, help="folder of the cache")
    views = features.add_mutually_exclusive_group(required=True)
    views.add_argument("--views", type=int, help="random views of each picture, for training")
    views.add_argument("--conditions", nargs="+", choices=CONDITIONS, help="one view under each condition, for validation")
    features.add_argument("--tokens-after", type=int, default=0, help="also keep the tokens after this block")
    features.add_argument("--seed", type=int, default=0)

    head = commands.add_parser("head", help="compare heads on cached features, or fit one and finish a run with it")
    head.set_defaults(run=_head)
    _add_common(head)
    head.add_argument("--val", type=Path, help="cache of val: compare heads, blocks and amounts of data on it")
    head.add_argument("--questions", nargs="+", default=None, help="what to compare; an unknown one lists all")
    head.add_argument("--report", type=Path, help="JSON file for the comparison")
    head.add_argument("--config", default="{}", help="fields of HeadConfig as JSON")

    head.add_argument("--teach", type=Path, help="CSV file for cross-fitted logits of the training pictures, see fit")

    adapt = commands.add_parser("adapt", help="adapt the late blocks on cached tokens, and finish a run")
    adapt.set_defaults(run=_adapt)
    _add_common(adapt)
    adapt.add_argument("--head", required=True, type=Path, help="run that `head` finished, to start from")
    adapt.add_argument("--config", default="{}", help="fields of AdaptConfig as JSON")
    adapt.add_argument("--max-steps", type=int, default=None, help="stop, resumably, after so many steps")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tower", required=True, type=Path, help="weights that training.clip_tower wrote")
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="the pictures of each cache, in the same order")
    parser.add_argument("--train", required=True, nargs="+", type=Path, help="caches of train")
    parser.add_argument("--out", type=Path, help="folder of the run")
    parser.add_argument(
        "--holdout",
        type=int,
        default=0,
        metavar="N",
        help="keep one of N folds of model lines and photo sources out, and measure on it (holdout.json, holdout.csv)",
    )


def _features(options: argparse.Namespace) -> None:
    from ..features import condition_views, extract, random_views

    samples, pixels, failures = load_pixels(take_split(read_data(options.data), options.split))
    if failures:
        raise ValueError(f"{len(failures)} pictures do not decode; remove them first: {failures[:3]}.")
    tower = _tower(options.tower, sorted({options.tokens_after, *BLOCKS} - {0}))
    facts: dict[str, Any] = {"split": options.split, "data": digest(samples)}
    if options.conditions:
        labels = [sample.label for sample in samples]
        view, count = condition_views(pixels, labels, options.conditions, Tiles(224, 1)), len(options.conditions)
        facts |= {"conditions": options.conditions}
    else:
        view, count = random_views(AUGMENT, pixels, 224, options.seed), options.views
        facts |= {"augment": json.loads(json.dumps(dataclasses.asdict(AUGMENT))), "seed": options.seed}
    shape = (count, len(samples))
    extract(tower, view, shape, options.out, facts=facts, tokens_after=options.tokens_after)


def _tower(path: Path, taps: Sequence[int]) -> Tower:
    """The tower up to the last of the taps, in evaluation mode."""
    from safetensors.torch import load_file

    network = build(blocks=taps[-1], taps=taps)
    state = dequantise(load_file(path))
    network.tower.load_state_dict({k: state[f"tower.{k}"].float() for k in network.tower.state_dict()})
    return network.eval().tower


def _head(options: argparse.Namespace) -> None:
    from ..clip_run import finish
    from ..features import open_cache
    from ..head_report import POOLING, QUESTIONS, compare, pooling_rows
    from ..heads import HeadConfig, fit_head, kept_apart, pooled, sample_weights
    from ..teacher import teach, write_teacher

    caches, samples = _by_pictures([open_cache(folder) for folder in options.train], _pictures(options))
    if options.val:
        questions = options.questions or QUESTIONS
        if unknown := set(questions) - {*QUESTIONS, POOLING}:
            raise ValueError(f"Unknown questions {sorted(unknown)}; use some of {[*QUESTIONS, POOLING]}.")
        val_samples = take_split(read_data(options.data[0]), "val")
        report = compare(caches, samples, open_cache(options.val), val_samples, questions)
        if POOLING in questions:
            report["rows"] += pooling_rows(_tower(options.tower, BLOCKS[-1:]), open_cache(options.train[0]), samples[0])
        if options.report:
            write_json(options.report, report)
    config = HeadConfig(**_tuples(json.loads(options.config)))
    if options.teach:
        write_teacher(options.teach, teach(caches, samples, config))
    if options.out and config.attention:
        raise ValueError("A head with attention can be compared, but no detector has one; leave --out or attention out.")
    if options.out:
        apart = kept_apart(samples, options.holdout)
        features, labels, views = pooled(caches, samples, config)
        rows = np.concatenate([np.tile(~mask, cache.complete) for mask, cache in zip(apart, caches)])
        weights = sample_weights(list(itertools.compress(views, rows)), config.balance, config.aligned)
        head = fit_head(features[rows], labels[rows], weights, config)
        tensors = {f"head.{name}": value for name, value in head.state_dict().items()}
        built = {"blocks": config.blocks[-1], "taps": list(config.blocks), "hidden": config.hidden}
        built["patches"] = config.patches
        finish(options.out, options.tower, built, tensors, {"head": dataclasses.asdict(config)})


def _adapt(options: argparse.Namespace) -> None:
    from safetensors.torch import load_file

    from ..adapt import Adaptation, AdaptConfig, adapt
    from ..clip_run import facts_of, finish
    from ..export import run_network
    from ..features import open_cache
    from ..fit import read_recipe
    from ..head_report import holdout_figures, in_words, paired_difference
    from ..heads import kept_apart
    from ..teacher import Opinion, key_of, write_teacher

    if options.out is None:
        raise ValueError("adapt needs --out, the folder of the run.")
    config = AdaptConfig(**json.loads(options.config))
    network = run_network(options.head)
    assert isinstance(network, CLIPViT)
    facts = facts_of(options.head)
    tokens = [open_cache(folder).complete_tokens(config.after) for folder in options.train]
    samples = _pictures(options)
    apart = kept_apart(samples, options.holdout)
    run = Adaptation(network, tokens, samples, config, apart)
    held = np.flatnonzero(apart[0])
    before = run.scores(held, averaged=False) if options.holdout else None
    adapted = adapt(run, options.out, max_steps=options.max_steps)
    if before is not None:
        pictures = [samples[0][i] for i in held]
        after = run.scores(held)
        figures = {
            "head": holdout_figures(before, pictures),
            "adapted": holdout_figures(after, pictures),
            "difference": paired_difference(after, before, pictures),
        }
        write_json(options.out / "holdout.json", {"folds": options.holdout, "pictures": in_words(pictures), **figures})
        opinions = {key_of(s): Opinion(s.label, tuple(map(float, own))) for s, own in zip(pictures, after.T)}
        write_teacher(options.out / "holdout.csv", opinions)
    facts |= {"adapt": dataclasses.asdict(config), "steps_done": run.step}
    finish(options.out, options.tower, read_recipe(options.head).config, load_file(adapted), facts)


def _pictures(options: argparse.Namespace) -> list[list[Sample]]:
    parts = [take_split(read_data(folder), "train") for folder in options.data]
    if len(parts) != len(options.train):
        raise ValueError(f"Expected one --data for each --train, but found {len(parts)} and {len(options.train)}.")
    return parts


def _by_pictures(caches: list[FeatureCache], samples: list[list[Sample]]) -> tuple[list[FeatureCache], list[list[Sample]]]:
    """Caches of other views of the same pictures as one."""
    from ..features import join_views

    found: dict[str, list[int]] = {}
    for number, cache in enumerate(caches):
        found.setdefault(str(cache.facts.get("data", number)), []).append(number)
    joined = [join_views([caches[i] for i in same]) if len(same) > 1 else caches[same[0]] for same in found.values()]
    return joined, [samples[same[0]] for same in found.values()]


def _tuples(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
