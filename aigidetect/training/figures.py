"""Figures of the documentation from stored scores: reliability and robustness of the shipped detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..manifest import Manifest
from .augment import CONDITIONS, HEADLINE_CONDITIONS
from .evaluate import Score, summarise
from .plotting import COLOURS, MARKERS, new_figure, save_png
from .score_folders import read_evaluation

Evaluations = Mapping[str, Sequence[Score]]
_PARTS = ("test_seen", "test_unseen")
_FIGURES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
_BINS = 10
_LEAST = 20  # pictures a bin needs to be shown


def shipped_scores(folder: str | Path, book: Manifest) -> dict[str, list[Score]]:
    """Stored scores of the newest version of each detector with weights.

    Args:
        folder: Folder of folders that `evaluate` wrote. Those of detectors that are not in the manifest, or not the newest
            version, are passed over.
        book: The detectors.

    Returns:
        Full name -> scores of all splits and conditions, in the order of the names.

    Raises:
        ValueError: Scores were made with other weights than the manifest's, or there are none at all.
    """
    found: dict[str, list[Score]] = {}
    for path in sorted(Path(folder).glob("*/evaluation.json")):
        facts, scores = read_evaluation(path.parent)
        entry = book.entries.get(facts["detector"])
        if entry is None or entry.weights is None or book.get(entry.name) is not entry:
            continue
        # Scores are often those of the run from which the published file was exported.
        known = {entry.weights.sha256, (entry.provenance or {}).get("run_sha256")}
        if facts["weights_sha256"] not in known:
            raise ValueError(
                f"{path.parent} was measured with other weights than {entry.full_name} has; run evaluate again."
            )
        found[entry.full_name] = scores
    if not found:
        raise ValueError(f"{folder} has no scores of a detector in {book.path}; make some with evaluate.")
    return dict(sorted(found.items()))


def reliability(scores: Sequence[Score], *, draws: int = 200) -> list[tuple[float, float, float, float]]:
    """Points of a reliability diagram, both classes weighing the same (DeGroot and Fienberg, 1983).

    Args:
        scores: Of one split and condition, of both classes.
        draws: Bootstrap samples of groups, for the interval.

    Returns:
        For each of ten equal-width bins of at least 20 pictures: mean probability, share of generated pictures, and the
        lower and upper bound of its 95 % interval, all in [0, 1].
    """
    labels = np.array([s.label for s in scores], dtype=float)
    probabilities = np.array([s.probability for s in scores])
    group = np.unique([s.group for s in scores], return_inverse=True)[1]
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    shown = np.flatnonzero(np.bincount(bins, minlength=_BINS) >= _LEAST)

    def shares(times: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        weights = times * np.where(labels == 1, 1 / (times * labels).sum(), 1 / (times * (1 - labels)).sum())
        mass, ai, mean = (np.bincount(bins, weights * v, _BINS)[shown] for v in (1 + 0 * labels, labels, probabilities))
        with np.errstate(invalid="ignore"):
            return mean / mass, ai / mass

    rng, count = np.random.default_rng(0), group.max() + 1
    drawn = [shares(np.bincount(rng.integers(count, size=count), minlength=count)[group] * 1.0)[1] for _ in range(draws)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    means, share = shares(np.ones(len(labels)))
    return [(float(m), float(s), float(below), float(above)) for m, s, below, above in zip(means, share, low, high)]


def draw_calibration(evaluations: Evaluations, path: str | Path, condition: str = "q75") -> None:
    """Writes a reliability diagram for each test split, as PNG.

    Args:
        evaluations: See `shipped_scores`.
        path: File to write.
        condition: See `aigidetect.training.augment.apply_condition`.

    Raises:
        ModuleNotFoundError: See `new_figure`.
    """
    figure = new_figure(9, 5.4)
    for place, part in enumerate(_PARTS, start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        shown: list[Score] = []
        for index, (name, scores) in enumerate(evaluations.items()):
            chosen = [s for s in scores if (s.split, s.condition) == (part, condition)]
            if chosen:
                shown = chosen
                points = np.array(reliability(chosen)).T
                _draw_points(axes, index, name, points[0], points[1:], line="-")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=f"{part}, {condition}: {_counts(shown)}")
        axes.set_xlabel("mean stated probability of a bin")
        axes.set_ylabel("share of AI-generated pictures in it")
        _finish(axes)
    _finish_figure(figure, path)


def draw_robustness(evaluations: Evaluations, path: str | Path, *, draws: int = 200) -> None:
    """Writes balanced accuracy and AUROC on `test_unseen` under every measured condition, with 95 % intervals, as PNG.

    Args:
        evaluations: See `shipped_scores`.
        path: File to write.
        draws: Bootstrap samples.

    Raises:
        ModuleNotFoundError: See `new_figure`.
    """
    part = "test_unseen"
    chosen = {name: [s for s in scores if s.split == part] for name, scores in evaluations.items()}
    rows = {name: summarise(scores, frozenset(), draws=draws) for name, scores in chosen.items() if scores}
    figure = new_figure(9, 5.4)
    for place, (metric, title) in enumerate(_FIGURES.items(), start=1):
        axes = figure.add_subplot(1, 2, place)
        for index, name in enumerate(evaluations):
            values = {r["condition"]: r[metric] for r in rows.get(name, ()) if r["part"] == part}
            places = [i for i, c in enumerate(CONDITIONS) if c in values]
            if places:
                figures = np.array([values[CONDITIONS[i]] for i in places]).T
                # Side by side, so that no interval covers another.
                _draw_points(axes, index, name, np.array(places) + 0.14 * (index - (len(evaluations) - 1) / 2), figures)
        axes.axhline(0.5, color="0.6", linewidth=1)
        axes.set_xticks(range(len(CONDITIONS)), CONDITIONS, rotation=40, ha="right")
        for label in axes.get_xticklabels():
            label.set_fontweight("bold" if label.get_text() in HEADLINE_CONDITIONS else "normal")
        axes.set(ylim=(0.45, 1), ylabel=title, title=f"{part}: {_counts(next(filter(None, chosen.values()), []))}")
        _finish(axes)
    _finish_figure(figure, path)


def _draw_points(
    axes: Any, index: int, label: str, x: NDArray[np.float64], figures: NDArray[np.float64], line: str = "none"
) -> None:
    """Points with bars; `figures` is (3, N): values, lower and upper bounds."""
    value, low, high = figures
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    bars = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
    axes.errorbar(x, value, bars, label=label, color=colour, marker=marker, markersize=5, linestyle=line, linewidth=1.4)


def _counts(scores: Sequence[Score]) -> str:
    pictures = {(s.source, s.group, s.file): s.label for s in scores}
    ai = sum(pictures.values())
    return f"{len(pictures) - ai} real, {ai} AI"


def _finish(axes: Any) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.title.set_fontsize("medium")


def _finish_figure(figure: Any, path: str | Path) -> None:
    """Writes the figure with one legend above, where it covers no point."""
    named = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(named.values(), named, loc="outside upper center", ncols=4, frameon=False)
    save_png(figure, path)
