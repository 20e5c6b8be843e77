"""Sections of the results that set a few measured settings side by side, each against the first by paired differences.

A JSON file says what is compared, so that a question, its rows and the words around it stand in one place:

    [{"title": "...", "text": "...", "parts": ["val"], "conditions": ["q75"],
      "rows": [{"name": "one tile", "scores": "scores/a"}, {"name": "four tiles", "scores": "scores/b"}]}]

`scores` are folders that `evaluate` wrote, relative to the file; the condition `headline` is the mean over q96, q75 and
half+q80. A row with a list of folders is the mixture of their calibrated logits, by `weights`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration import sigmoid
from .augment import HEADLINE_CONDITIONS
from .calibrate import calibrate
from .evaluate import Score, headline_draws, picture, subsets
from .metrics import shown
from .score_folders import read_evaluation

_FIGURES = ("balanced_accuracy", "auroc")
_HEAD = "| {title} | part | condition | balanced accuracy | AUROC | difference of accuracy | difference of AUROC |"
_INTERVALS = "Differences are to the first row, on the same pictures; intervals come from drawing the same groups for both."


def comparison_sections(path: str | Path, *, draws: int = 200) -> str:
    """The sections, as Markdown.

    Args:
        path: JSON file, see above.
        draws: Bootstrap samples.

    Raises:
        ValueError: Rows of a section were not measured on the same pictures, or not under its conditions.
    """
    path = Path(path)
    sections = json.loads(path.read_text(encoding="utf-8"))
    return "\n".join(_section(section, path.parent, draws) for section in sections)


def _section(section: Mapping[str, Any], folder: Path, draws: int) -> str:
    lines = [f"## {section['title']}", "", f"{section['text']} {_INTERVALS}", ""]
    lines += [_HEAD.format(title=section.get("column", "setting")), "|---" * 7 + "|"]
    rows = [(row["name"], _row_scores(row, folder)) for row in section["rows"]]
    for part in section["parts"]:
        for condition in section["conditions"]:
            first: NDArray[np.float64] | None = None
            pictures: set[tuple[str, ...]] = set()
            for name, parts in rows:
                chosen = _chosen(parts, part, condition, name)
                found = {picture(s) for s in chosen}
                if first is not None and found != pictures:
                    raise ValueError(f"The row {name!r} of {section['title']!r} was measured on other pictures of {part}.")
                drawn = _draws(chosen, condition, draws)
                cells = [shown(_interval(drawn[:, i])) for i in (0, 1)]
                cells += [
                    shown(_interval(drawn[:, i] - first[:, i]), signed=True) if first is not None else "" for i in (0, 1)
                ]
                lines.append(f"| {name} | {part} | {condition} | {' | '.join(cells)} |")
                if first is None:
                    first, pictures = drawn, found
    return "\n".join(lines) + "\n"


def _row_scores(row: Mapping[str, Any], folder: Path) -> dict[str, list[Score]]:
    if isinstance(row["scores"], str):
        facts, scores = read_evaluation(folder / row["scores"])
        return subsets(scores, frozenset(facts["train_lines"]))
    stored = [read_evaluation(folder / one) for one in row["scores"]]
    return subsets(mixture([scores for _, scores in stored], row["weights"]), frozenset(stored[0][0]["train_lines"]))


def mixture(scores: Sequence[Sequence[Score]], weights: Sequence[float]) -> list[Score]:
    """Scores of several detectors as those of one: the weighted sum of their calibrated logits, calibrated again.

    Args:
        scores: Of each detector, on the same pictures. What not all of them measured is left out.
        weights: One for each.

    Raises:
        ValueError: The headline conditions were not measured by all on `val`, on which the mixture is calibrated.
    """
    tables = [{(*picture(s), s.condition): s for s in one} for one in scores]
    keys = [key for key in tables[0] if all(key in table for table in tables)]
    logits = {key: sum(w * _logit(table[key].probability) for w, table in zip(weights, tables)) for key in keys}
    mixed = [dataclasses.replace(tables[0][key], logit=logits[key]) for key in keys]
    fitted = calibrate([s for s in mixed if s.split == "val"])
    return [dataclasses.replace(s, probability=sigmoid(s.logit / fitted.temperature + fitted.bias)) for s in mixed]


def _logit(probability: float) -> float:
    clipped = min(max(probability, 1e-12), 1 - 1e-12)
    return float(np.log(clipped / (1 - clipped)))


def _chosen(parts: Mapping[str, Sequence[Score]], part: str, condition: str, name: str) -> list[Score]:
    wanted = HEADLINE_CONDITIONS if condition == "headline" else (condition,)
    chosen = [s for s in parts.get(part, ()) if s.condition in wanted]
    if {s.condition for s in chosen} != set(wanted):
        raise ValueError(f"The row {name!r} was not measured on {part} under {' and '.join(wanted)}.")
    return chosen


def _draws(scores: Sequence[Score], condition: str, draws: int) -> NDArray[np.float64]:
    wanted = HEADLINE_CONDITIONS if condition == "headline" else (condition,)
    return np.array([[figures[name] for name in _FIGURES] for figures in headline_draws(scores, draws, wanted)])


def _interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return float(values[0]), float(low), float(high)
