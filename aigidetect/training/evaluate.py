"""Measures a detector through its public interface, under every condition of compression and scale.

Scores are stored as CSV, and every table is computed from these files.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..calibration import Calibration, sigmoid
from ..detector import Detector
from ..images import load_image
from ..prediction import Failure
from .augment import CONDITIONS, HEADLINE_CONDITIONS, apply_condition
from .datasets import AI, Sample
from .metrics import bootstrap, measure


@dataclass(frozen=True)
class Score:
    """One picture under one condition.

    Attributes:
        file: File name.
        split: See `Sample`; so are label, source, line, group and style.
        condition: See `apply_condition`.
        logit: Pooled logit before calibration.
        probability: Calibrated.
        deviation: Standard deviation of the calibrated probability over the draws of random weights, >= 0; None for a
            network without them. See `aigidetect.prediction.Uncertainty`.
    """

    file: str
    split: str
    label: int
    source: str
    line: str
    group: str
    style: str
    condition: str
    logit: float
    probability: float
    deviation: float | None = None


def score(
    detector: Detector,
    samples: Sequence[Sample],
    conditions: Iterable[str] = CONDITIONS,
    *,
    shift: tuple[int, int] = (0, 0),
    progress: Callable[[int], None] | bool = False,
) -> list[Score]:
    """Scores of all samples under all conditions; a sample that does not decode raises its ImageError.

    Args:
        detector: The detector.
        samples: Labelled pictures.
        conditions: Some of `CONDITIONS`.
        shift: Columns and rows in pixels that the detector does not see, at the left and at the top. They move the grids
            that a network lays over the picture, of NPR and of its strides.
        progress: See `Detector.stream`.
    """
    wanted = list(conditions)
    # swap shows a real picture as-is and a generated one under q96; where those are measured too, once is enough.
    alias = {(label, "swap"): other for label, other in ((0, "as-is"), (AI, "q96")) if other in wanted}
    work = [(i, c) for i, sample in enumerate(samples) for c in wanted if (sample.label, c) not in alias]

    def pictures() -> Iterator[Image.Image]:
        for i, group in itertools.groupby(work, key=lambda item: item[0]):
            image = Image.fromarray(load_image(samples[i].path)[0].permute(1, 2, 0).numpy())
            for _, condition in group:
                shown = apply_condition(image, condition, is_ai=samples[i].label == AI)
                yield shown.crop((*shift, *shown.size)) if any(shift) else shown

    found: dict[tuple[int, str], Score] = {}
    for (i, condition), record in zip(work, detector.stream(pictures(), on_error="raise", progress=progress)):
        assert not isinstance(record, Failure)
        facts = {name: getattr(samples[i], name) for name in ("split", "label", "source", "line", "group", "style")}
        logit = detector.calibration.pooled(record.view_logits)
        spread = record.uncertainty.std if record.uncertainty else None
        found[i, condition] = Score(
            samples[i].path.name, **facts, condition=condition, logit=logit, probability=record.probability, deviation=spread
        )
    return [
        dataclasses.replace(found[i, alias.get((sample.label, condition), condition)], condition=condition)
        for i, sample in enumerate(samples)
        for condition in wanted
    ]


def picture(score: Score) -> tuple[str, ...]:
    """What names a picture among the scores of a data set: split, source, group and file."""
    return score.split, score.source, score.group, score.file


_FACTS = ("file", "split", "label", "source", "line", "group", "style")
_DEVIATION = "deviation {}"  # column of a condition


def write_scores(scores: Sequence[Score], path: str | Path) -> None:
    """Writes scores as CSV: a row a picture, a column a condition that holds the pooled logit to 6 significant digits.

    If any score has a deviation, the columns `deviation <condition>` hold them, empty for a score without one.
    Groups are written as hashes: tables need to know which pictures belong together, and not what they show.
    """
    conditions = list(dict.fromkeys(score.condition for score in scores))
    deviations = [_DEVIATION.format(c) for c in conditions if any(score.deviation is not None for score in scores)]
    rows: dict[tuple[str, ...], dict[str, object]] = {}
    for item in scores:
        # A file name alone may come up in several folders.
        row = rows.setdefault(picture(item), {name: getattr(item, name) for name in _FACTS})
        row["group"] = hashlib.sha256(item.group.encode()).hexdigest()[:12]
        row[item.condition] = f"{item.logit:.6g}"
        if item.deviation is not None:
            row[_DEVIATION.format(item.condition)] = f"{item.deviation:.6g}"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*_FACTS, *conditions, *deviations], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


def read_scores(path: str | Path, calibration: Calibration) -> list[Score]:
    """Reads what `write_scores` wrote, also before there were deviations.

    Args:
        path: CSV file.
        calibration: Makes the probabilities from the logits. Deviations are as stored, under the calibration of the time.
    """
    scores = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            facts: dict[str, Any] = {name: row[name] for name in _FACTS if name != "label"}
            facts["label"] = int(row["label"])
            for condition in CONDITIONS:
                if row.get(condition):
                    logit = float(row[condition])
                    probability = sigmoid(logit / calibration.temperature + calibration.bias)
                    spread = float(text) if (text := row.get(_DEVIATION.format(condition))) else None
                    own = {"condition": condition, **facts}
                    scores.append(Score(logit=logit, probability=probability, deviation=spread, **own))
    return scores


def subsets(scores: Sequence[Score], train_lines: frozenset[str]) -> dict[str, list[Score]]:
    """The parts of which figures are given.

    `test_unseen` has two parts beside the whole. strict: generators of model lines that training never saw, against all its
    real pictures. photo-like: only photographs and faces of both classes.

    Args:
        scores: Any scores.
        train_lines: Model lines of the training split.
    """
    parts: dict[str, list[Score]] = {}
    for item in scores:
        parts.setdefault(item.split, []).append(item)
    if unseen := parts.get("test_unseen"):
        parts["test_unseen strict"] = [s for s in unseen if s.label != AI or s.line not in train_lines]
        parts["test_unseen photo-like"] = [s for s in unseen if s.style in ("photo", "face")]
    return parts


def summarise(scores: Sequence[Score], train_lines: frozenset[str], *, draws: int = 200) -> list[dict[str, Any]]:
    """One row for each part and condition, and one `headline` row for each part.

    The headline is the mean over q96, q75 and half+q80. Its interval comes from drawing groups once for all three. The
    format-swap gap of a part is its balanced accuracy as-is minus that of swap.

    Returns:
        Dictionaries: part, condition, n_real, n_ai, then for each metric a triple (value, low, high).
    """
    rows: list[dict[str, Any]] = []
    for part, chosen in subsets(scores, train_lines).items():
        for condition in CONDITIONS:
            if here := [s for s in chosen if s.condition == condition]:
                rows.append(_row(part, condition, here, draws))
        rows += headline(part, chosen, draws=draws)
    return rows


def headline(part: str, scores: Sequence[Score], *, draws: int = 200) -> list[dict[str, Any]]:
    """The headline row of one part, see `summarise`; empty if one of its conditions was not measured."""
    head = [s for s in scores if s.condition in HEADLINE_CONDITIONS]
    complete = {s.condition for s in head} == set(HEADLINE_CONDITIONS)
    return [_headline(part, head, draws)] if complete else []


def _arrays(scores: Sequence[Score]) -> tuple[Any, Any, list[str]]:
    labels = np.array([s.label for s in scores], dtype=float)
    return labels, np.array([s.probability for s in scores]), [s.group for s in scores]


def _row(part: str, condition: str, scores: Sequence[Score], draws: int) -> dict[str, Any]:
    labels, probabilities, groups = _arrays(scores)
    figures = bootstrap(labels, probabilities, groups, draws=draws)
    ai = int(labels.sum())
    return {"part": part, "condition": condition, "n_real": len(scores) - ai, "n_ai": ai, **figures}


def headline_draws(
    scores: Sequence[Score], draws: int = 200, conditions: Sequence[str] = HEADLINE_CONDITIONS
) -> list[dict[str, float]]:
    """Means over conditions: first those of the pictures as they are, then those of each bootstrap sample of groups.

    Two detectors on the same pictures get the same samples, so that their figures can be compared pair by pair.

    Args:
        scores: Scores of one part, under all of the conditions and no other.
        draws: Bootstrap samples.
        conditions: Which; those of the headline if not said otherwise.
    """
    by_condition = [[s for s in scores if s.condition == c] for c in conditions]
    names = np.unique([s.group for s in scores])
    index = [np.searchsorted(names, [s.group for s in part_scores]) for part_scores in by_condition]
    arrays = [_arrays(part_scores)[:2] for part_scores in by_condition]

    def mean(counts: Any) -> dict[str, float]:
        each = [measure(*a, 0.5, None if counts is None else counts[i] * 1.0) for a, i in zip(arrays, index)]
        return {name: float(np.mean([figures[name] for figures in each])) for name in each[0]}

    rng = np.random.default_rng(0)
    times = (np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names)) for _ in range(draws))
    return [mean(None), *map(mean, times)]


def _headline(part: str, scores: Sequence[Score], draws: int) -> dict[str, Any]:
    point, *drawn = headline_draws(scores, draws)
    figures = {
        name: (value, *(float(v) for v in np.nanpercentile([d[name] for d in drawn], [2.5, 97.5])))
        for name, value in point.items()
    }
    labels = [s.label for s in scores if s.condition == HEADLINE_CONDITIONS[0]]
    return {"part": part, "condition": "headline", "n_real": len(labels) - sum(labels), "n_ai": sum(labels), **figures}


def swap_gap(scores: Sequence[Score], *, draws: int = 200) -> tuple[float, float, float]:
    """Balanced accuracy as-is minus that under swap, with its 95 % interval over groups.

    Only generated pictures differ between the two, so the gap is half the difference of the AI accuracies.

    Args:
        scores: Scores of one part under both conditions.
        draws: Bootstrap samples.

    Returns:
        (value, low, high); NaN where a condition was not measured.
    """
    pairs: dict[tuple[str, ...], dict[str, bool]] = {}
    group_of = {}
    for s in scores:
        if s.label == AI and s.condition in ("as-is", "swap"):
            pairs.setdefault(picture(s), {})[s.condition] = s.probability >= 0.5
            group_of[picture(s)] = s.group
    files = [file for file, called in pairs.items() if len(called) == 2]
    if not files:
        return float("nan"), float("nan"), float("nan")
    gap = np.array([(pairs[f]["as-is"] - pairs[f]["swap"]) / 2 for f in files])
    index = np.unique([group_of[f] for f in files], return_inverse=True)[1]
    rng, count = np.random.default_rng(0), index.max() + 1
    drawn = []
    for _ in range(draws):
        times = np.bincount(rng.integers(count, size=count), minlength=count)[index]
        drawn.append(float((gap * times).sum() / max(1, times.sum())))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(gap.mean()), float(low), float(high)
