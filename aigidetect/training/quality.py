"""Would temperature and bias that depend on the picture's quality calibrate better? Measures it; nothing shipped uses it.

Quality is the blockiness of the pixels: it exists for every input, decoded or not, and needs no file. A published
calibration stays one temperature and one bias until this finds a gain that is worth a measurement for every picture.

References:
    | Blind measurement of blocking artifacts in images (Wang, Bovik and Evans, ICIP 2000): differences across block borders
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import GroupKFold

from ..calibration import Calibration
from ..images import load_image
from .augment import HEADLINE_CONDITIONS, Pixels, apply_condition
from .calibrate import balanced_weights, platt
from .datasets import AI, Sample
from .evaluate import Score

Array = NDArray[np.float64]
LEAST = 25  # pictures of each class in a bin; fewer do not fix a temperature


@dataclass(frozen=True)
class Bins:
    """A temperature and a bias for each range of blockiness.

    Attributes:
        edges: Ascending borders between the bins, one fewer than bins; a value on a border belongs to the upper bin.
        temperatures: Positive, never falling from bin to bin: the blockier a picture, the less a logit says.
        biases: As many as temperatures.
    """

    edges: tuple[float, ...]
    temperatures: tuple[float, ...]
    biases: tuple[float, ...]

    def logits(self, pooled: Array, blockiness: Array) -> Array:
        """Calibrated logits (N,) of pooled logits (N,) and blockiness (N,)."""
        index = np.searchsorted(self.edges, blockiness, side="right")
        temperatures, biases = (np.array(values, dtype=np.float64) for values in (self.temperatures, self.biases))
        calibrated: Array = pooled / temperatures[index] + biases[index]
        return calibrated


@dataclass(frozen=True)
class Comparison:
    """Cross-validated cross entropy in nats, both classes weighing the same.

    Attributes:
        plain: With one temperature and bias.
        by_quality: With those of bins of blockiness.
        low: Lower end of the 95 % interval of by_quality - plain, over groups.
        high: Its upper end.
        bins: Fitted on everything.
    """

    plain: float
    by_quality: float
    low: float
    high: float
    bins: Bins

    @property
    def helps(self) -> bool:
        """Whether the whole interval lies below zero, and there is more than one bin."""
        return self.high < 0 and len(self.bins.temperatures) > 1


def blockiness(pixels: Pixels) -> float:
    """How much more neighbours differ across the borders of 8x8 blocks than elsewhere, as a natural logarithm.

    Takes the strongest of the eight possible phases along each axis, since a picture may have been cropped, and the mean of
    the two axes.

    Args:
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        About 0 without a grid, and larger with a stronger one; 0 if both sides are below 24 pixels.
    """
    grey = pixels.astype(np.float64).mean(axis=2)
    found = [_grid(grey.T if axis == 0 else grey) for axis in (0, 1) if grey.shape[axis] >= 24]
    return float(np.mean(found)) if found else 0.0


def _grid(grey: Array) -> float:
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=0)
    phases = np.array([steps[phase::8].mean() for phase in range(8)])
    strongest = int(phases.argmax())
    # One grey level in 20 keeps flat pictures, whose steps are all rounding, near zero.
    return float(np.log((phases[strongest] + 0.05) / (np.delete(phases, strongest).mean() + 0.05)))


def measure_blockiness(samples: Sequence[Sample]) -> dict[tuple[str, str], float]:
    """(file name, condition) -> blockiness of each picture under the headline conditions.

    Raises:
        ImageError: A picture does not decode.
        ValueError: Two pictures have the same file name, by which scores and pictures are joined.
    """
    if len({sample.path.name for sample in samples}) < len(samples):
        raise ValueError("Quality needs pictures whose file names differ.")
    found = {}
    for sample in samples:
        image = Image.fromarray(load_image(sample.path)[0].permute(1, 2, 0).numpy())
        for condition in HEADLINE_CONDITIONS:
            shown = apply_condition(image, condition, is_ai=sample.label == AI)
            found[sample.path.name, condition] = blockiness(np.asarray(shown))
    return found


def fit_bins(logits: Array, labels: Array, quality: Array, *, count: int = 3) -> Bins:
    """Fits a temperature and a bias in each of `count` equally full bins.

    Neighbouring bins are joined, down to a single one, while one of them has fewer than `LEAST` pictures of a class or the
    temperature falls from one to the next.

    Args:
        logits: (N,) pooled.
        labels: (N,) of 0 and 1.
        quality: (N,) blockiness.
        count: Bins to start from, at least 1.

    Raises:
        ValueError: One class is missing.
    """
    edges = list(dict.fromkeys(float(e) for e in np.quantile(quality, np.arange(1, count) / count)))
    while True:
        index = np.searchsorted(edges, quality, side="right")
        members = [index == i for i in range(len(edges) + 1)]
        small = [min((labels[m] == 1).sum(), (labels[m] == 0).sum()) < LEAST for m in members]
        if edges and any(small):
            # A bin has a border below it, but for the first.
            edges.pop(max(0, small.index(True) - 1))
            continue
        fits = [platt(logits[m], labels[m]) for m in members]
        falls = [i for i in range(len(edges)) if fits[i + 1][0] < fits[i][0]]
        if not falls:
            return Bins(tuple(edges), tuple(t for t, _ in fits), tuple(b for _, b in fits))
        edges.pop(falls[0])


def compare_by_quality(
    scores: Sequence[Score], quality: dict[tuple[str, str], float], *, folds: int = 5, draws: int = 1000
) -> Comparison:
    """Cross-validates bins of quality against the plain calibration; groups of pictures stay together.

    Args:
        scores: Of the validation split; those under headline conditions are used.
        quality: See `measure_blockiness`.
        folds: Folds of the cross-validation.
        draws: Bootstrap samples of groups for the interval.

    Raises:
        ValueError: A picture has no quality, or there are fewer groups than folds.
    """
    chosen = [s for s in scores if s.condition in HEADLINE_CONDITIONS]
    if missing := sorted({s.file for s in chosen if (s.file, s.condition) not in quality}):
        raise ValueError(f"No picture to {len(missing)} scores, for instance {missing[0]}; give the data they were made of.")
    logits, labels = np.array([s.logit for s in chosen]), np.array([float(s.label) for s in chosen])
    measured = np.array([quality[s.file, s.condition] for s in chosen])
    groups = np.unique([s.group for s in chosen], return_inverse=True)[1]
    losses = np.zeros((2, len(chosen)))
    for fitted, held in GroupKFold(folds).split(logits, labels, groups):
        temperature, bias = platt(logits[fitted], labels[fitted])
        bins = fit_bins(logits[fitted], labels[fitted], measured[fitted])
        losses[0, held] = _losses(logits[held] / temperature + bias, labels[held])
        losses[1, held] = _losses(bins.logits(logits[held], measured[held]), labels[held])
    weights = balanced_weights(labels)
    plain, by_quality = (float((weights * row).mean()) for row in losses)
    # A ratio of sums over groups, so that a group counts with all its pictures.
    gain, total = (np.bincount(groups, weights * values) for values in (losses[1] - losses[0], np.ones(len(chosen))))
    drawn = np.random.default_rng(0).integers(len(gain), size=(draws, len(gain)))
    low, high = np.percentile(gain[drawn].sum(axis=1) / total[drawn].sum(axis=1), [2.5, 97.5])
    return Comparison(plain, by_quality, float(low), float(high), fit_bins(logits, labels, measured))


def describe(result: Comparison, calibration: Calibration) -> str:
    """The comparison as Markdown, with what follows from it."""
    edges = ["", *(f"{edge:.3f}" for edge in result.bins.edges), ""]
    lines = ["| blockiness from | to | temperature | bias |", "|---|---|---|---|"]
    lines.append(f"| any | any | {calibration.temperature:.3f} | {calibration.bias:+.3f} |")
    for i, (temperature, bias) in enumerate(zip(result.bins.temperatures, result.bins.biases)):
        lines.append(f"| {edges[i]} | {edges[i + 1]} | {temperature:.3f} | {bias:+.3f} |")
    change = result.by_quality - result.plain
    verdict = "It helps." if result.helps else "It does not help, so one temperature and one bias are right."
    lines += [
        "",
        f"Cross-validated cross entropy {result.plain:.4f} without and {result.by_quality:.4f} with bins of blockiness: "
        f"{change:+.4f} ({result.low:+.4f} to {result.high:+.4f}). {verdict} The stored calibration is the plain one.",
    ]
    return "\n".join(lines)


def _losses(logits: Array, labels: Array) -> Array:
    return np.asarray(np.logaddexp(0, np.where(labels == 1, -logits, logits)), dtype=np.float64)
