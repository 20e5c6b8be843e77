"""Compares blocks, heads and amounts of data on cached features; see `python -m aigidetect.training head --val`.

Each head is measured in two ways: on `val`, which holds other pictures of the generators in training, and across generators,
by heads that were fitted without the model lines and photo sources they are asked about. Test splits play no part.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..models.clip_vit import Tower
from .augment import HEADLINE_CONDITIONS
from .datasets import Sample
from .features import FeatureCache, stored_conditions
from .heads import HeadConfig, features_for, fit_head, flat, named, out_of_fold, pooled, sample_weights
from .metrics import bootstrap, expit, measure
from .token_heads import POOLINGS, TokenConfig, late_tokens, tokens_out_of_fold

log = logging.getLogger(__name__)

# What is compared: one thing at a time around a logistic layer on the blocks 6 to 9.
BLOCK_SETS = ((5,), (6,), (7,), (8,), (9,), (7, 8, 9), (6, 7, 8, 9))
PENALTIES = (1e-1, 1.0, 3.0)
HIDDEN = (256,)
SEEDS = (0, 1)
SHARES = (0.1, 0.3, 1.0)
ALIGNED = (0.0, 1.0, 5.0)
CONTRASTS = (0.0, 0.2)
FOLDS = 3
QUESTIONS = (
    "blocks",
    "penalty",
    "hidden",
    "seed",
    "pictures",
    "views",
    "views, hidden layer",
    "aligned",
    "attention",
    "contrast",
    "class tokens",
)
POOLING = "pooling"  # answered by `pooling_rows`, for which a cache of train needs tokens


def compare(
    caches: Sequence[FeatureCache],
    samples: Sequence[Sequence[Sample]],
    val: FeatureCache,
    val_samples: Sequence[Sample],
    questions: Sequence[str] = QUESTIONS,
) -> dict[str, Any]:
    """What `head_tables.head_section` shows.

    Args:
        caches: Caches of train.
        samples: The pictures of each.
        val: Cache of val under conditions, the headline's among them.
        val_samples: Its pictures.
        questions: Which of `QUESTIONS` to answer.

    Returns:
        `val` and `across`: numbers of pictures in words; `plain`: the blocks of the default; `rows`: one for each head, with
        what it varies, blocks, config, pictures, views, and for `val` and `across` the triples (value, low, high) of
        balanced accuracy at a logit of 0 and AUROC.
    """
    rows: list[dict[str, Any]] = []
    known: dict[tuple[HeadConfig, float, int], dict[str, Any]] = {}
    for what, config, share, views in [row for row in _plan(caches[0].complete) if row[0] in questions]:
        if (setting := (config, share, views)) not in known:  # the default stands in several tables
            known[setting] = _measure(config, share, views, caches, samples, val, val_samples)
            if share == 1.0:
                known[setting]["across"] = _across(config, views, caches, samples)
        rows.append({"what": what, "blocks": list(config.blocks), "config": named(config), "views": views, **known[setting]})
        log.info("%s", rows[-1])
    plain = ", ".join(map(str, HeadConfig().blocks))
    return {"val": in_words(val_samples), "across": in_words(samples[0]), "plain": plain, "rows": rows}


def pooling_rows(tower: Tower, cache: FeatureCache, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Rows of the question "pooling" for the report of `compare`: heads on the tokens of one view, and one on their summary.

    Args:
        tower: The tower of the cache.
        cache: Cache of train with tokens; its first view counts.
        samples: Its pictures.

    Raises:
        ValueError: The cache has no tokens, or not the tower's last block.
    """
    last = len(tower.blocks)
    # Numbers of one view, without aligned fakes, so that both kinds of heads see the same.
    summary = dataclasses.replace(HeadConfig(), blocks=(last,), hidden=HIDDEN[-1], weight_decay=0.1, aligned=0.0)
    facts = {"what": POOLING, "blocks": [last], "pictures": len(samples), "views": 1}
    rows: list[dict[str, Any]] = []
    for config in (dataclasses.replace(summary, seed=seed) for seed in SEEDS):
        label = f"mean and deviation, hidden={config.hidden}, seed={config.seed}"
        rows.append({**facts, "config": label, "across": _across(config, 1, [cache], [samples])})
        log.info("%s", rows[-1])
    tokens = late_tokens(tower, cache.complete_tokens(cache.tokens_after)[0], cache.tokens_after)
    for own in map(TokenConfig, POOLINGS):
        logits = list(tokens_out_of_fold(tokens, samples, own, folds=FOLDS))
        label = f"every patch, {own.pooling}, hidden={own.hidden}, seed={own.seed}"
        rows.append({**facts, "config": label, "across": _figures(logits, samples)})
        log.info("%s", rows[-1])
    return rows


def _across(
    config: HeadConfig, views: int, caches: Sequence[FeatureCache], samples: Sequence[Sequence[Sample]]
) -> dict[str, list[float]]:
    # Without any weight there is no use in computing with them.
    used = len(caches) if config.aligned else 1
    cut = [features_for(cache, config, views) for cache in caches[:used]]
    aligned = list(zip(cut[1:], samples[1:used]))
    return _figures(list(out_of_fold(cut[0], samples[0], config, folds=FOLDS, aligned=aligned)), samples[0])


def _measure(
    config: HeadConfig,
    share: float,
    views: int,
    caches: Sequence[FeatureCache],
    samples: Sequence[Sequence[Sample]],
    val: FeatureCache,
    val_samples: Sequence[Sample],
) -> dict[str, Any]:
    used = len(caches) if config.aligned else 1
    features, labels, shown = pooled(caches[:used], samples[:used], config, views=views)
    chosen = _subset(shown, share)
    kept = [shown[i] for i in chosen]
    head = fit_head(features[chosen], labels[chosen], sample_weights(kept, config.balance, config.aligned), config)
    with torch.inference_mode():
        logits = [head(flat(features_for(val, config)[[i]])) for i in _headline(val)]
    return {"pictures": len({s.path for s in kept}), "val": _figures([x[:, 0].numpy() for x in logits], val_samples)}


def holdout_figures(logits: NDArray[np.float32], samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Balanced accuracy at a logit of 0 and AUROC, each (value, low, high), of logits (views, pictures)."""
    return _figures(list(logits), samples)


def paired_difference(
    a: NDArray[np.float32], b: NDArray[np.float32], samples: Sequence[Sample], draws: int = 200
) -> dict[str, list[float]]:
    """Figures of `a` minus those of `b`, each (value, low, high); the same groups are drawn for both.

    Args:
        a: Logits (views, pictures).
        b: Others of the same views.
        samples: The pictures.
        draws: Bootstrap samples.
    """
    labels = np.array([float(s.label) for s in samples])
    index = np.unique([s.group for s in samples], return_inverse=True)[1]
    rng, count = np.random.default_rng(0), index.max() + 1
    times: list[NDArray[np.float64] | None] = [None]
    times += [np.bincount(rng.integers(count, size=count), minlength=count)[index].astype(np.float64) for _ in range(draws)]

    def mean(logits: NDArray[np.float32], weights: NDArray[np.float64] | None) -> dict[str, float]:
        each = [measure(labels, expit(view), 0.5, weights) for view in logits]
        return {name: float(np.mean([figures[name] for figures in each])) for name in names}

    names, result = ("balanced_accuracy", "auroc"), {}
    for name in names:
        drawn = [mean(a, w)[name] - mean(b, w)[name] for w in times]
        low, high = np.nanpercentile(drawn[1:], [2.5, 97.5])
        result[name] = [round(float(x), 4) for x in (drawn[0], low, high)]
    return result


def in_words(samples: Sequence[Sample]) -> str:
    """Numbers of pictures of each class."""
    ai = sum(sample.label for sample in samples)
    return f"{len(samples) - ai} real and {ai} AI-generated pictures"


def _plan(views: int) -> list[tuple[str, HeadConfig, float, int]]:
    plain = HeadConfig()
    plan = [("blocks", dataclasses.replace(plain, blocks=blocks), 1.0, views) for blocks in BLOCK_SETS]
    plan += [("penalty", dataclasses.replace(plain, weight_decay=value), 1.0, views) for value in PENALTIES]
    plan += [("hidden", dataclasses.replace(plain, hidden=width, weight_decay=0.1), 1.0, views) for width in HIDDEN]
    plan += [
        ("seed", dataclasses.replace(plain, hidden=HIDDEN[-1], weight_decay=0.1, seed=seed), 1.0, views) for seed in SEEDS
    ]
    plan += [("pictures", plain, share, views) for share in SHARES]
    plan += [("views", plain, 1.0, count) for count in range(1, views + 1)]
    wide = dataclasses.replace(plain, hidden=HIDDEN[-1], weight_decay=0.1)
    plan += [("views, hidden layer", wide, 1.0, count) for count in range(2, views + 1, 2)]
    plan += [("aligned", dataclasses.replace(wide, aligned=factor), 1.0, views) for factor in ALIGNED]
    for seed in SEEDS:
        own = dataclasses.replace(wide, seed=seed)
        plan += [("attention", dataclasses.replace(own, attention=on), 1.0, views) for on in (False, True)]
        plan += [("contrast", dataclasses.replace(own, contrast=weight), 1.0, views) for weight in CONTRASTS]
    return plan + [("class tokens", config, 1.0, views) for config in _class_token_heads(wide)]


def _class_token_heads(wide: HeadConfig) -> list[HeadConfig]:
    """With and without the patches, then one change at a time without them."""
    both = dataclasses.replace(wide, dropout=0.3, aligned=0.0)
    plain = dataclasses.replace(both, patches=False)
    seeds = [dataclasses.replace(one, seed=seed) for one in (both, plain) for seed in SEEDS]
    changes = [dataclasses.replace(plain, blocks=blocks) for blocks in ((9,), (8, 9))]
    changes += [dataclasses.replace(plain, dropout=dropout) for dropout in (0.1, 0.5)]
    return [*seeds, *changes, dataclasses.replace(plain, aligned=2.0)]


def _subset(shown: Sequence[Sample], share: float) -> NDArray[np.int64]:
    """Rows of a share of the groups, the same for every call; smaller shares lie within larger ones."""
    groups = sorted({sample.group for sample in shown})
    kept = set(np.random.default_rng(0).permutation(groups)[: max(1, round(share * len(groups)))])
    return np.array([i for i, sample in enumerate(shown) if sample.group in kept])


def _headline(cache: FeatureCache) -> list[int]:
    conditions = stored_conditions(cache)
    return [conditions.index(name) for name in HEADLINE_CONDITIONS]


def _figures(logits: Sequence[NDArray[np.float32]], samples: Sequence[Sample], draws: int = 100) -> dict[str, list[float]]:
    """Mean over conditions or views of each figure, and its interval over groups."""
    labels, groups = np.array([float(s.label) for s in samples]), [s.group for s in samples]
    names = ("balanced_accuracy", "auroc")
    probabilities = [expit(x) for x in logits]
    points = [measure(labels, p) for p in probabilities]
    # Views of one picture move together, so the interval of one of them stands for that of their mean.
    around = bootstrap(labels, probabilities[0], groups, draws=draws)
    result = {}
    for name in names:
        mean, (value, low, high) = float(np.mean([p[name] for p in points])), around[name]
        result[name] = [round(x, 4) for x in (mean, mean + low - value, mean + high - value)]
    return result
