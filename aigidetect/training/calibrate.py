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

# The verdict must hold whatever happened to the file, so thresholds are fixed on all of these.
CALIBRATION_CONDITIONS = ("as-is", *HEADLINE_CONDITIONS, "q50", "webp80", "swap")


def calibrate(scores: Sequence[Score], *, fprs: Sequence[float] = (0.01, 0.05), pool: str = "mean") -> Calibration:
    """Fits a calibration on scores of pictures that the weights were not fitted on.

    Temperature and bias minimise the cross entropy over the headline conditions, classes and conditions weighing the same.
    So 0.5 is the point where both classes are equally likely if both are equally frequent.

    The threshold at a false-positive rate is the highest of those that each condition needs by itself: the rate is then
    kept under every condition. So is, from below, the point under which the verdict is "real".

    Args:
        scores: Scores under at least the headline conditions; others of `CALIBRATION_CONDITIONS` are used where present.
        fprs: Rates in (0, 1).
        pool: How the scores' logits were pooled.

    Raises:
        ValueError: A headline condition or a class is missing.
    """
    present = {s.condition for s in scores}
    if missing := set(HEADLINE_CONDITIONS) - present:
        raise ValueError(f"Calibration needs scores under {sorted(missing)} too.")
    head = [s for s in scores if s.condition in HEADLINE_CONDITIONS]
    temperature, bias = platt(np.array([s.logit for s in head]), np.array([float(s.label) for s in head]))
    conditions = [c for c in CALIBRATION_CONDITIONS if c in present]
    points = tuple(_threshold(scores, conditions, fpr, temperature, bias) for fpr in sorted(fprs))
    return Calibration(pool=pool, temperature=temperature, bias=bias, thresholds=points)  # type: ignore[arg-type]


def balanced_weights(labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (N,) with mean 1 under which both classes weigh the same; labels (N,) of 0 and 1, both present."""
    share = labels.mean()
    return np.asarray(np.where(labels == 1, 0.5 / share, 0.5 / (1 - share)), dtype=np.float64)


def platt(logits: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[float, float]:
    """Temperature and bias that minimise the cross entropy, classes weighing the same (Platt, 1999).

    Args:
        logits: (N,) pooled.
        labels: (N,) of 0 and 1.

    Raises:
        ValueError: One class is missing.
    """
    if not len(labels) or labels.min() == labels.max():
        raise ValueError("Calibration needs both real and AI-generated pictures.")
    return _minimise(*(torch.from_numpy(values) for values in (logits, labels, balanced_weights(labels))))


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


def _threshold(scores: Sequence[Score], conditions: Sequence[str], fpr: float, temperature: float, bias: float) -> Threshold:
    def probabilities(label: int, condition: str) -> NDArray[np.float64]:
        chosen = [s.logit for s in scores if s.label == label and s.condition == condition]
        return np.sort([sigmoid(logit / temperature + bias) for logit in chosen])

    reals = [probabilities(0, condition) for condition in conditions]
    ais = [probabilities(1, condition) for condition in conditions]
    # The smallest probability with at most the share `fpr` of the pictures at or above it, per condition.
    from_ = max(float(np.nextafter(p[len(p) - 1 - int(fpr * len(p))], 1)) for p in reals)
    below = min(float(p[int(fpr * len(p))]) for p in ais)
    n_real, n_ai = min(map(len, reals)), min(map(len, ais))
    worst = max(int((p >= from_).sum()) for p in reals)
    low, high = wilson(worst, n_real)
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
