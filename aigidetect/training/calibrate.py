"""Scores of the validation split -> temperature, bias, and thresholds at stated false-positive rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..calibration import Calibration, Threshold, sigmoid
from .augment import HEADLINE_CONDITIONS
from .evaluate import Score
from .teacher import Opinion

# The verdict must hold whatever happened to the file, so thresholds are fixed on all of these.
CALIBRATION_CONDITIONS = ("as-is", *HEADLINE_CONDITIONS, "q50", "webp80", "swap")


def calibrate(
    scores: Sequence[Score],
    *,
    fprs: Sequence[float] = (0.01, 0.05),
    pool: str = "mean",
    across: Sequence[Opinion] = (),
) -> Calibration:
    """Fits a calibration on scores of pictures that the weights were not fitted on.

    Temperature and bias minimise the cross entropy over the headline conditions, classes and conditions weighing the same.
    So 0.5 is the point where both classes are equally likely if both are equally frequent.

    The threshold at a false-positive rate is the highest of those that each condition needs by itself: the rate is then
    kept under every condition. So is, from below, the point under which the verdict is "real".

    Validation pictures that come from the sources of training say too little of pictures from elsewhere. With `across`,
    these weigh as much as the scores for temperature and bias, and count as one more condition for the thresholds.

    Args:
        scores: Scores under at least the headline conditions; others of `CALIBRATION_CONDITIONS` are used where present.
        fprs: Rates in (0, 1).
        pool: How the scores' logits were pooled.
        across: Opinions of training pictures by heads that saw neither their model line nor their source, one condition;
            see `aigidetect.training.teacher`. All of their views are used.

    Raises:
        ValueError: A headline condition or a class is missing.
    """
    present = {s.condition for s in scores}
    if missing := set(HEADLINE_CONDITIONS) - present:
        raise ValueError(f"Calibration needs scores under {sorted(missing)} too.")
    head = [s for s in scores if s.condition in HEADLINE_CONDITIONS]
    foreign = [(logit, opinion.label) for opinion in across for logit in opinion.logits]
    fitted = [[(s.logit, s.label) for s in head], foreign] if foreign else [[(s.logit, s.label) for s in head]]
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in fitted])
    logits, labels = (np.array(values, float) for values in zip(*(pair for part in fitted for pair in part)))
    temperature, bias = platt(logits, labels, weights)
    sets = {c: [(s.logit, s.label) for s in scores if s.condition == c] for c in CALIBRATION_CONDITIONS if c in present}
    if foreign:
        sets["across"] = foreign
    points = tuple(_threshold(list(sets.values()), fpr, temperature, bias) for fpr in sorted(fprs))
    return Calibration(pool=pool, temperature=temperature, bias=bias, thresholds=points)  # type: ignore[arg-type]


def balanced_weights(labels: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Weights (N,) with mean 1 under which both classes weigh the same.

    Args:
        labels: (N,) of 0 and 1, both present.
        weights: (N,) relative weights within each class; None means the same.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    sums = np.where(labels == 1, weights[labels == 1].sum(), weights[labels == 0].sum())
    return np.asarray(weights / sums * len(labels) / 2, dtype=np.float64)


def platt(
    logits: NDArray[np.float64], labels: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Temperature and bias that minimise the cross entropy, classes weighing the same (Platt, 1999).

    Args:
        logits: (N,) pooled.
        labels: (N,) of 0 and 1.
        weights: See `balanced_weights`.

    Raises:
        ValueError: One class is missing.
    """
    if not len(labels) or labels.min() == labels.max():
        raise ValueError("Calibration needs both real and AI-generated pictures.")
    return _minimise(*(torch.from_numpy(values) for values in (logits, labels, balanced_weights(labels, weights))))


def _minimise(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> tuple[float, float]:
    # The slope is optimised as a logarithm, so that it stays positive.
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        calibrated = logits * parameters[0].exp() + parameters[1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(calibrated, labels, weight=weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    slope, bias = parameters.detach().tolist()
    return round(math.exp(-slope), 6), round(bias, 6)


def _threshold(sets: Sequence[Sequence[tuple[float, int]]], fpr: float, temperature: float, bias: float) -> Threshold:
    """The point that keeps the rate in each of some sets of (logit, label)."""

    def probabilities(label: int, pairs: Sequence[tuple[float, int]]) -> NDArray[np.float64]:
        return np.sort([sigmoid(logit / temperature + bias) for logit, own in pairs if own == label])

    reals = [probabilities(0, pairs) for pairs in sets]
    ais = [probabilities(1, pairs) for pairs in sets]
    # The smallest probability with at most the share `fpr` of the pictures at or above it, per condition.
    from_ = max(float(np.nextafter(p[len(p) - 1 - int(fpr * len(p))], 1)) for p in reals)
    below = min(float(p[int(fpr * len(p))]) for p in ais)
    n_real, n_ai = min(map(len, reals)), min(map(len, ais))
    worst = max(float((p >= from_).mean()) for p in reals)
    low, high = wilson(round(worst * n_real), n_real)
    return Threshold(fpr, from_, min(below, from_), n_real, n_ai, round(low, 5), round(high, 5))


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927).

    Args:
        hits: 0 to n.
        n: At least 1.
        z: Quantile of the normal distribution.
    """
    share = hits / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))
