"""View logits -> one probability, and a verdict at a stated false-positive rate. Belongs to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .prediction import Verdict

DEFAULT_FPR = 0.05


@dataclass(frozen=True)
class Threshold:
    """Two operating points fixed on held-out pictures.

    Attributes:
        fpr: Nominal rate in (0, 1) of real pictures called `"ai"`.
        probability: From this probability on, the verdict is `"ai"`.
        real_below: Below this probability, the verdict is `"real"`: of the generated pictures, at most the share `fpr`
            lay there. Never above `probability`.
        n_real: Real pictures that fixed `probability`.
        n_ai: Generated pictures that fixed `real_below`.
        low: Lower end of the 95 % interval of the false-positive rate on those pictures.
        high: Its upper end.
    """

    fpr: float
    probability: float
    real_below: float
    n_real: int
    n_ai: int
    low: float
    high: float

    def __post_init__(self) -> None:
        ordered = 0 <= self.real_below <= self.probability <= 1 and 0 <= self.low <= self.high <= 1
        if not (0 < self.fpr < 1 and ordered and self.n_real >= 1 and self.n_ai >= 1):
            raise ValueError(
                "A threshold needs 0 < fpr < 1, 0 <= real_below <= probability <= 1, 0 <= low <= high <= 1 and counts "
                f"of at least 1, but got {self}."
            )


@dataclass(frozen=True)
class Calibration:
    """`probability = sigmoid(pool(view logits) / temperature + bias)`, and thresholds on it.

    Without thresholds (a network of your own that was never calibrated) the verdict is `"ai"` from 0.5 on, at an unknown
    false-positive rate.

    Attributes:
        pool: How the logits of a picture's views become one.
        temperature: Positive divisor of the pooled logit (Guo et al., 2017, https://arxiv.org/abs/1706.04599).
        bias: Added after the division (Platt, 1999).
        thresholds: Operating points, one for each stated false-positive rate.
    """

    pool: Literal["mean", "max", "median"] = "mean"
    temperature: float = 1.0
    bias: float = 0.0
    thresholds: tuple[Threshold, ...] = ()

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "max", "median"):
            raise ValueError(f"Unknown pool {self.pool!r}; use 'mean', 'max' or 'median'.")
        if not (math.isfinite(self.temperature) and self.temperature > 0 and math.isfinite(self.bias)):
            raise ValueError(f"Expected temperature > 0 and a finite bias, but got {self.temperature} and {self.bias}.")

    def logit(self, view_logits: Sequence[float]) -> float:
        """Pooled, calibrated logit of one picture.

        Args:
            view_logits: At least one finite logit.
        """
        return self.pooled(view_logits) / self.temperature + self.bias

    def pooled(self, view_logits: Sequence[float]) -> float:
        """The views' logits as one, before temperature and bias."""
        if not view_logits:
            raise ValueError("Expected at least one view logit, but got none.")
        if self.pool == "max":
            return max(view_logits)
        if self.pool == "mean":
            return math.fsum(view_logits) / len(view_logits)
        ordered = sorted(view_logits)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    def threshold(self, fpr: float | None = None) -> tuple[float, float, float | None]:
        """Operating point at a false-positive rate: (ai from, real below, rate).

        Args:
            fpr: One of the stated rates; None takes 0.05 or, where that is not stated, the largest.

        Raises:
            ValueError: The rate is not among the stated ones; the message lists them.
        """
        if not self.thresholds and fpr is None:
            return 0.5, 0.5, None
        known = {point.fpr: point for point in self.thresholds}
        if fpr is None:
            fpr = DEFAULT_FPR if DEFAULT_FPR in known else max(known)
        if fpr not in known:
            rates = ", ".join(f"{rate:g}" for rate in sorted(known)) or "none (this detector was never calibrated)"
            raise ValueError(f"No threshold was measured at a false-positive rate of {fpr:g}; available: {rates}.")
        return known[fpr].probability, known[fpr].real_below, fpr

    def verdict(self, probability: float, fpr: float | None = None) -> Verdict:
        """`"ai"`, `"real"`, or `"unsure"` between the two operating points.

        Args:
            probability: Calibrated, in [0, 1].
            fpr: See `threshold`.

        Raises:
            ValueError: See `threshold`.
        """
        ai_from, real_below, _ = self.threshold(fpr)
        if probability >= ai_from:
            return "ai"
        return "real" if probability < real_below else "unsure"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready facts from which `from_dict` makes an equal object."""
        return {
            "pool": self.pool,
            "temperature": self.temperature,
            "bias": self.bias,
            "thresholds": [vars(point).copy() for point in self.thresholds],
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`.

        Raises:
            TypeError: Unknown or missing field.
            ValueError: A value out of its range.
        """
        points = tuple(Threshold(**point) for point in facts.get("thresholds", ()))
        return cls(**{**facts, "thresholds": points})


def sigmoid(logit: float) -> float:
    """`1 / (1 + exp(-logit))` without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))
