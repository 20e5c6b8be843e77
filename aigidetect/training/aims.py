"""What a detector was meant to reach, beside what it reached: a shortfall stands in the results and on the card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .evaluate import headline, subsets
from .metrics import shown
from .score_folders import read_evaluation

_TEXT = """## Aims

What the headline figures were meant to reach, fixed before training. What was tried is in the
[training log](training-log.md).
"""
_NAMES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "ece": "ECE", "tpr_at_5_fpr": "TPR at 5 % FPR"}


@dataclass(frozen=True)
class Aim:
    """One bound on one headline figure.

    Attributes:
        detector: Name without version.
        part: Part of the data, such as `"test_unseen strict"`.
        figure: Name of a metric, see `aigidetect.training.metrics`.
        at_least: Lower bound, or None.
        at_most: Upper bound, or None.
    """

    detector: str
    part: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def reached(self, value: float) -> bool:
        """Whether a value keeps the bounds."""
        return not (
            (self.at_least is not None and value < self.at_least) or (self.at_most is not None and value > self.at_most)
        )

    def __str__(self) -> str:
        both = (("at least", self.at_least), ("at most", self.at_most))
        bounds = [f"{word} {bound:g}" for word, bound in both if bound is not None]
        return f"{_NAMES.get(self.figure, self.figure)} {' and '.join(bounds)}"


@dataclass(frozen=True)
class Outcome:
    """An aim, the detector that was measured, and its figure: (value, low, high)."""

    aim: Aim
    detector: str
    measured: tuple[float, float, float]

    @property
    def reached(self) -> bool:
        """Whether the value, not the interval, keeps the bounds."""
        return self.aim.reached(self.measured[0])

    def __str__(self) -> str:
        verdict = "reached" if self.reached else "not reached"
        return f"{self.aim.part}: {self.aim}, measured {shown(self.measured)}, {verdict}"


def outcomes(path: str | Path, folders: Sequence[Path], *, draws: int = 200) -> list[Outcome]:
    """The aims of a JSON file, a list of the fields of `Aim`, for the detectors that were measured.

    Args:
        path: The file.
        folders: Folders that `evaluate` wrote.
        draws: Bootstrap samples.

    Raises:
        TypeError: An unknown field.
        ValueError: An aim is on a part that its detector was not measured on.
    """
    aims = [Aim(**fields) for fields in json.loads(Path(path).read_text(encoding="utf-8"))]
    found = []
    for folder in folders:
        facts, scores = read_evaluation(folder)
        own = [aim for aim in aims if aim.detector == facts["detector"].partition("@")[0]]
        parts = subsets(scores, frozenset(facts["train_lines"])) if own else {}
        if missing := {aim.part for aim in own} - set(parts):
            raise ValueError(f"{facts['detector']} has aims on {sorted(missing)}, and {folder} has scores of {list(parts)}.")
        rows = {part: headline(part, parts[part], draws=draws)[0] for part in {aim.part: None for aim in own}}
        found += [Outcome(aim, facts["detector"], rows[aim.part][aim.figure]) for aim in own]
    return found


def aims_section(found: Sequence[Outcome]) -> str:
    """The section, as Markdown."""
    lines = [_TEXT, "| detector | part | aim | measured | reached |", "|---" * 5 + "|"]
    for outcome in found:
        cells = (outcome.detector, outcome.aim.part, str(outcome.aim), shown(outcome.measured))
        lines.append(f"| {' | '.join(cells)} | {'yes' if outcome.reached else '**no**'} |")
    return "\n".join(lines) + "\n"


def write_shortfalls(manifest: Path, found: Sequence[Outcome]) -> None:
    """Stores with each published detector which of its aims it does not reach, for its card.

    Args:
        manifest: weights_manifest.json.
        found: See `outcomes`.
    """
    book = json.loads(manifest.read_text(encoding="utf-8"))
    for detector in {outcome.detector for outcome in found} & set(book["detectors"]):
        missed = [str(outcome) for outcome in found if outcome.detector == detector and not outcome.reached]
        book["detectors"][detector]["provenance"]["aims_not_reached"] = missed
    manifest.write_text(json.dumps(book, indent=1) + "\n", encoding="utf-8")
