"""How well a number tells which verdicts are wrong: AUROC of the errors, and risk against coverage.

Every figure is computed for several bootstrap samples at once. A row of weights says how often each picture is in a sample.

References:
    | On the Foundations of Noise-free Selective Classification (El-Yaniv & Wiener, JMLR 2010): the risk-coverage curve
    | Selective Classification for Deep Neural Networks (Geifman & El-Yaniv, NeurIPS 2017)
    | https://arxiv.org/abs/1705.08500
    | Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers (Geifman et al., ICLR 2019): the area under the curve
    | https://arxiv.org/abs/1805.08206
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .augment import HEADLINE_CONDITIONS
from .datasets import AI
from .evaluate import Score, picture
from .metrics import Array

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """A detector's verdicts at a probability of 0.5 on N pictures under the C headline conditions.

    Attributes:
        is_ai: (N,) the label.
        wrong: (C, N) whether the verdict is wrong.
        probabilities: (C, N) calibrated, in [0, 1].
        deviations: (C, N) standard deviation of the probability over draws of random weights; None where there is none.
        weights: (1 + draws, N) how often each picture counts: once, then as often as it is in each bootstrap sample.
    """

    is_ai: Flags
    wrong: Flags
    probabilities: Array
    deviations: Array | None
    weights: Array


def answers(scores: Sequence[Score], *, draws: int = 200) -> Answers:
    """Verdicts, and the bootstrap samples that `headline_draws` takes too.

    Args:
        scores: Of one part of the data, under the headline conditions and others.
        draws: Bootstrap samples.

    Raises:
        ValueError: A picture was not measured under all headline conditions, or only some scores have a deviation.
    """
    table = {(picture(s), s.condition): s for s in scores}
    names = list(dict.fromkeys(picture(s) for s in scores))
    if missing := [(name, c) for c in HEADLINE_CONDITIONS for name in names if (name, c) not in table]:
        raise ValueError(
            f"The picture {missing[0][0]} has no score under {missing[0][1]!r}; evaluate with the conditions "
            f"{', '.join(HEADLINE_CONDITIONS)}."
        )
    chosen = [[table[name, condition] for name in names] for condition in HEADLINE_CONDITIONS]
    probabilities = np.array([[s.probability for s in row] for row in chosen])
    is_ai = np.array([s.label == AI for s in chosen[0]])
    groups, index = np.unique([s.group for s in chosen[0]], return_inverse=True)
    rng, count = np.random.default_rng(0), len(groups)
    times = [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(draws)]
    weights = np.array([np.ones(count), *times], dtype=np.float64)[:, index]
    return Answers(is_ai, (probabilities >= 0.5) != is_ai, probabilities, _deviations(chosen), weights)


def _deviations(chosen: Sequence[Sequence[Score]]) -> Array | None:
    values = [[s.deviation for s in row] for row in chosen]
    missing = sum(value is None for row in values for value in row)
    if missing == sum(map(len, values)):
        return None
    if missing:
        raise ValueError(f"{missing} of {sum(map(len, values))} scores have no deviation; evaluate the whole split again.")
    return np.array(values, dtype=np.float64)


def class_accuracy(own: Answers, *, ai: bool) -> Array:
    """(1 + draws,) share of right verdicts among AI-generated or among real pictures, mean over conditions."""
    weights = own.weights * (own.is_ai == ai)  # (1 + draws, N)
    return _ratio(weights @ (~own.wrong).mean(axis=0), weights.sum(axis=1))


def closeness(probabilities: Array) -> Array:
    """`1 - |2p - 1|`, of any shape: 0 for a certain probability, 1 at 0.5."""
    return np.asarray(1 - np.abs(2 * probabilities - 1))


def entropy(probabilities: Array) -> Array:
    """`-p ln p - (1 - p) ln(1 - p)` in nats, of any shape: 0 for a certain probability, ln 2 at 0.5."""
    clipped = np.clip(probabilities, 1e-300, 1)
    other = np.clip(1 - probabilities, 1e-300, 1)
    return np.asarray(-clipped * np.log(clipped) - other * np.log(other))


def equal_bins(values: Array, bins: int = 5) -> NDArray[np.intp]:
    """(N,) number of the bin of each value, from 0 on: quantile bins, which hold about as many values each.

    Args:
        values: (N,) finite.
        bins: How many.
    """
    return np.searchsorted(np.quantile(values, np.arange(1, bins) / bins), values, side="right")


def error_auroc(uncertainty: Array, wrong: Flags, weights: Array, strata: NDArray[np.intp] | None = None) -> Array:
    """Probability that a wrong verdict is less certain than a right one; a tie counts half.

    Args:
        uncertainty: (N,) larger where the verdict is less certain.
        wrong: (N,) whether the verdict is wrong.
        weights: (D, N) non-negative.
        strata: (N,) whole numbers; only pictures of one stratum are compared, and a stratum weighs as much as it has pairs
            of a wrong and a right verdict. None compares all.

    Returns:
        (D,) in [0, 1], 0.5 for a number that knows nothing; NaN where there is nothing to compare.
    """
    strata = np.zeros(len(wrong), dtype=np.intp) if strata is None else strata
    before = pairs = np.zeros(len(weights))
    for stratum in (strata == number for number in np.unique(strata)):
        lost = _blocks(uncertainty[stratum], weights[:, stratum] * wrong[stratum])
        kept = _blocks(uncertainty[stratum], weights[:, stratum] * ~wrong[stratum])
        before = before + (lost * (np.cumsum(kept, axis=1) - kept / 2)).sum(axis=1)
        pairs = pairs + lost.sum(axis=1) * kept.sum(axis=1)
    return _ratio(before, pairs)


def selective_risk(uncertainty: Array, wrong: Flags, weights: Array, coverages: Sequence[float]) -> Array:
    """Share of wrong verdicts among the most certain pictures.

    Of pictures that are equally certain, the same share is taken of the wrong as of the right ones: the risk is the expected
    one if their order is left to chance.

    Args:
        uncertainty: See `error_auroc`; so is `wrong`.
        wrong: (N,).
        weights: (D, N) non-negative, no row all zero.
        coverages: K shares of the pictures in (0, 1].

    Returns:
        (D, K) in [0, 1].
    """
    kept, errors = _curves(uncertainty, wrong, weights)
    at = kept[:, -1:] * np.asarray(coverages)  # (D, K)
    return np.asarray(np.array([np.interp(*row) for row in zip(at, kept, errors)]) / at)


def aurc(uncertainty: Array, wrong: Flags, weights: Array) -> Array:
    """Area under the risk-coverage curve: mean risk of the k most certain pictures, k from 1 to all.

    Args:
        uncertainty: See `selective_risk`.
        wrong: (N,).
        weights: (D, N) whole numbers, no row all zero.

    Returns:
        (D,) in [0, 1], smaller is better. A number that knows nothing gives the share of wrong verdicts.
    """
    areas = []
    for kept, errors in zip(*_curves(uncertainty, wrong, weights)):
        count = np.arange(1, round(kept[-1]) + 1)
        areas.append(np.mean(np.interp(count, kept, errors) / count))
    return np.array(areas)


def _ratio(part: Array, whole: Array) -> Array:
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _curves(uncertainty: Array, wrong: Flags, weights: Array) -> tuple[Array, Array]:
    """(D, 1 + B) pictures and errors up to each of B different uncertainties, from (0, 0) on."""
    both = (_blocks(uncertainty, weights), _blocks(uncertainty, weights * wrong))
    pictures, errors = (np.pad(np.cumsum(blocks, axis=1), ((0, 0), (1, 0))) for blocks in both)
    return pictures, errors


def _blocks(values: Array, weights: Array) -> Array:
    """(D, N) weights -> (D, B): their sums over equal values, values rising."""
    order = np.argsort(values, kind="stable")
    starts = np.unique(values[order], return_index=True)[1]
    return np.asarray(np.add.reduceat(weights[:, order], starts, axis=1))
