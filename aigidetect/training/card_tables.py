"""The measured parts of a model card: results, verdicts and the audit, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..calibration import Calibration
from ..errors import ManifestError
from ..manifest import ManifestEntry
from .augment import HEADLINE_CONDITIONS

_LABELS = {"auroc": "AUROC"}
_PARTS = {
    "val": "pictures that fixed the calibration, so that its figures flatter",
    "test_seen": "other pictures of the sources in training",
    "test_unseen": "generators and photo sets that training never saw",
    "test_unseen strict": "of these, only generators of model lines that training never saw",
    "test_unseen photo-like": "of these, only photographs and faces",
}
_CONDITIONS = (
    "Conditions: `as-is` files as they came; `qNN` every picture as JPEG of quality NN, `webpNN` as WebP of that quality; "
    "`half+qNN` both sides halved, then JPEG; `swap` generated pictures as JPEG of high quality and real ones as they are; "
    f"`headline` the mean over {', '.join(HEADLINE_CONDITIONS)}. Each figure is followed by its 95 % interval, "
    "from a bootstrap over groups of pictures that share a scene, prompt or original."
)


@dataclass(frozen=True)
class Row:
    """Figures of one part of the measurement under one condition.

    Attributes:
        part: Such as `"test_unseen"`.
        condition: See `apply_condition`; or `"headline"`.
        n_real: Real pictures.
        n_ai: Generated pictures.
        figures: Metric -> (value, low, high), with the ends of the 95 % interval.
    """

    part: str
    condition: str
    n_real: int
    n_ai: int
    figures: dict[str, tuple[float, float, float]]


def read_rows(entry: ManifestEntry) -> list[Row]:
    """The metrics in an entry's provenance, in their order; empty if it has none.

    Raises:
        ManifestError: They are not what `results --manifest` writes.
    """
    metrics = (entry.provenance or {}).get("metrics") or {}
    try:
        return [
            Row(part, condition, int(facts["n_real"]), int(facts["n_ai"]), _figures(facts))
            for part, conditions in metrics.items()
            for condition, facts in conditions.items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"Detector {entry.full_name!r}: provenance.metrics is not what `python -m aigidetect.training results "
            f"--manifest` writes ({type(error).__name__}: {error}). Run it again."
        ) from error


def _figures(facts: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    figures = {}
    for name, triple in facts.items():
        if name not in ("n_real", "n_ai"):
            value, low, high = map(float, triple)
            figures[name] = (value, low, high)
    return figures


def results_section(rows: Sequence[Row]) -> str:
    """A table with a row for each part and condition; without rows, the plain statement that nothing was measured."""
    if not rows:
        return (
            "## Measured results\n\nNothing was measured for this detector. Do not rely on it before you have measured it."
        )
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [f"| part | condition | real / AI pictures | {' | '.join(map(label, names))} |", "|---" * (3 + len(names)) + "|"]
    for row in rows:
        cells = [_figure(row.figures[name]) if name in row.figures else "not measured" for name in names]
        lines.append(f"| {row.part} | {row.condition} | {row.n_real} / {row.n_ai} | {' | '.join(cells)} |")
    present = {row.part for row in rows}
    parts = "; ".join(f"`{part}` {text}" for part, text in _PARTS.items() if part in present)
    opening = f"Parts: {parts}.\n\n{_CONDITIONS}" if parts else _CONDITIONS
    return f"## Measured results\n\n{opening}\n\n" + "\n".join(lines)


def verdicts_section(calibration: Calibration) -> str:
    """The operating points, each with its counts and the interval of its rate."""
    if not calibration.thresholds:
        return (
            "## Verdicts\n\nNo threshold was measured: the verdict is a plain comparison of the probability with one half."
        )
    lines = [
        "| stated rate | `ai` from | `real` below | real / AI pictures | measured rate, 95 % interval |",
        "|---" * 5 + "|",
    ]
    for point in calibration.thresholds:
        limits = f"{point.probability:.3f} | {point.real_below:.3f}"
        lines.append(f"| {point.fpr:g} | {limits} | {point.n_real} / {point.n_ai} | {point.low:.3f}-{point.high:.3f} |")
    opening = (
        "A verdict belongs to a stated rate of false positives: `ai` where at most this share of real pictures lay, `real` "
        "where at most this share of generated ones lay, under every condition of the calibration pictures; else `unsure`."
    )
    return f"## Verdicts\n\n{opening}\n\n" + "\n".join(lines)


def audit_section(rows: Sequence[Row], audit: Mapping[str, Any] | None) -> str:
    """Whether file format and the like help the detector, and what they tell of the labels of its training data.

    Args:
        rows: See `read_rows`.
        audit: What `audit --out` stored, or None.

    Raises:
        ValueError: The audit is something else.
    """
    accuracy = {(r.part, r.condition): r.figures["balanced_accuracy"][0] for r in rows if "balanced_accuracy" in r.figures}
    parts = [part for part, condition in accuracy if condition == "as-is" and (part, "swap") in accuracy]
    paragraphs = ["## Bias audit"]
    if parts:
        gaps = "; ".join(f"{part} {accuracy[part, 'as-is'] - accuracy[part, 'swap']:+.3f}" for part in parts)
        paragraphs.append(
            "A detector that reads the file format does better on files as they came than with the formats swapped between "
            f"the classes. Balanced accuracy `as-is` minus that under `swap`: {gaps}."
        )
    without = "No stored audit of the training data was given with these weights."
    return "\n\n".join([*paragraphs, without if audit is None else _audit(audit)])


def _audit(audit: Mapping[str, Any]) -> str:
    try:
        shortcuts = list(audit["shortcuts"])
        undecodable, groups, pairs = (len(audit[key]) for key in ("undecodable", "shared_groups", "near_duplicates"))
        lines = ["| facts of the file | AUROC of the label | |", "|---|---|---|"]
        for name, value in audit["auroc"].items():
            lines.append(f"| {name} | {value:.3f} | {'shortcut' if name in shortcuts else ''} |")
        opening = (
            f"How far the label of {audit['pictures']:,} training pictures can be told without looking at them, by a small "
            f"model under cross-validation; above {audit['limit']:g} it is called a shortcut."
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "The audit is not what `python -m aigidetect.training audit --out` stores "
            f"({type(error).__name__}: {error}). Run it again."
        ) from error
    found = f"Shortcuts of the files as they are: {', '.join(shortcuts)}." if shortcuts else "No shortcut was found."
    leaks = f"Undecodable files: {undecodable}. In several splits: {groups} groups, {pairs} pairs of near-duplicates."
    return f"{opening}\n\n" + "\n".join(lines) + f"\n\n{found} {leaks}"


def label(name: str) -> str:
    """A metric or fact as people write it."""
    return _LABELS.get(name, name.replace("_", " "))


def _figure(triple: tuple[float, float, float]) -> str:
    value, low, high = triple
    return f"{value:.3f} ({low:.3f}-{high:.3f})"
