"""Figures of merit with intervals. Labels: 1 AI-generated (positive), 0 real.

Intervals are percentile intervals of a cluster bootstrap: whole groups are drawn with replacement, since pictures of one
scene, prompt or burst are not independent (Efron and Tibshirani, 1993; Field and Welsh, 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
METRICS = ("balanced_accuracy", "auroc", "ap", "real_accuracy", "ai_accuracy", "tpr_at_5_fpr", "ece", "nll")


def measure(labels: Array, probabilities: Array, threshold: float = 0.5, weights: Array | None = None) -> dict[str, float]:
    """All figures of one set of pictures.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) in [0, 1].
        threshold: A picture is called AI-generated from this probability on.
        weights: (N,) non-negative; None counts each picture once.

    Returns:
        `METRICS` -> value in [0, 1] (`nll` in nats). Classes weigh the same in `ece` and `nll`; what needs both classes is
        NaN where one is missing.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    ai, real = labels == 1, labels == 0
    called = probabilities >= threshold
    result = {
        "real_accuracy": _share(~called, weights * real),
        "ai_accuracy": _share(called, weights * ai),
    }
    result["balanced_accuracy"] = (result["real_accuracy"] + result["ai_accuracy"]) / 2
    if (weights * ai).sum() == 0 or (weights * real).sum() == 0:
        return {name: result.get(name, float("nan")) for name in METRICS}
    result["auroc"], result["ap"] = _ranking(ai, probabilities, weights)
    result["tpr_at_5_fpr"] = _share(probabilities > _quantile(probabilities[real], weights[real], 0.95), weights * ai)
    balanced = weights * np.where(ai, 1 / (weights * ai).sum(), 1 / (weights * real).sum()) / 2
    result["ece"] = expected_calibration_error(labels, probabilities, balanced)
    likelihood = np.where(ai, probabilities, 1 - probabilities)
    result["nll"] = float(-(balanced * np.log(np.clip(likelihood, 1e-12, 1))).sum())
    return {name: result[name] for name in METRICS}


def expit(logits: NDArray[np.floating[Any]]) -> Array:
    """Logistic function of an array of any shape."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -50, 50))))


def shown(figure: Sequence[float], *, signed: bool = False) -> str:
    """A figure with its interval, (value, low, high), as tables show it; `signed` is for differences.

    A value that is not a number was not measured.
    """
    value, low, high = figure
    if np.isnan(value):
        return "not measured"
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})" if signed else f"{value:.3f} ({low:.3f}-{high:.3f})"


def _share(hit: NDArray[np.bool_], weights: Array) -> float:
    total = weights.sum()
    return float((hit * weights).sum() / total) if total else float("nan")


def _ranking(ai: NDArray[np.bool_], probabilities: Array, weights: Array) -> tuple[float, float]:
    """Area under the ROC curve, by trapezoids, and average precision, without interpolation.

    Both from one sort and without checks: intervals need them hundreds of times for every row of a table.
    """
    order = np.argsort(-probabilities)
    order = order[weights[order] > 0]
    ranked, mass, called_ai = probabilities[order], weights[order], ai[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # pictures of one probability are called together
    true, false = (np.append(0.0, np.cumsum(mass * kind)[last]) for kind in (called_ai, ~called_ai))
    area = (np.diff(false) * (true[1:] + true[:-1])).sum() / (2 * true[-1] * false[-1])
    precision = true[1:] / (true[1:] + false[1:])
    return float(area), float((np.diff(true) * precision).sum() / true[-1])


def _quantile(values: Array, weights: Array, level: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= level * weights.sum() - 1e-9
    return float(values[order][np.argmax(reached)])


def expected_calibration_error(labels: Array, probabilities: Array, weights: Array, bins: int = 15) -> float:
    """Weighted mean over equal-width bins of |share of positives - mean probability| (Guo et al., 2017).

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) in [0, 1].
        weights: (N,) non-negative, with a positive sum.
        bins: Number of bins of [0, 1].
    """
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    gap = np.bincount(index, weights * (labels - probabilities), minlength=bins)
    return float(np.abs(gap).sum() / weights.sum())


def bootstrap(
    labels: Array,
    probabilities: Array,
    groups: Sequence[str],
    *,
    threshold: float = 0.5,
    draws: int = 200,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """Figures with 95 % intervals over groups.

    Args:
        labels: See `measure`.
        probabilities: See `measure`.
        groups: N names; equal names are drawn together.
        threshold: See `measure`.
        draws: Bootstrap samples.
        seed: Seed of the draws.

    Returns:
        Metric -> (value, low, high).
    """
    point = measure(labels, probabilities, threshold)
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = index.max() + 1
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        times = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        drawn.append(measure(labels, probabilities, threshold, times[index]))
    result = {}
    for name, value in point.items():
        values = [figures[name] for figures in drawn if not np.isnan(figures[name])]
        low, high = np.percentile(values, [2.5, 97.5]) if values else (float("nan"), float("nan"))
        result[name] = (value, float(low), float(high))
    return result
