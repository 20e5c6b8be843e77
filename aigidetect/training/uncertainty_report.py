"""Stored scores of a detector and its variants with a Bayesian head -> one page.

Does the head shift the balance between real and AI-generated pictures, and does its uncertainty know the errors?

The page and its figure are written by this file, never typed. The figure needs matplotlib, an optional extra.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .augment import HEADLINE_CONDITIONS
from .error_detection import answers
from .evaluate import Score, picture
from .score_folders import read_evaluation
from .uncertainty_tables import Found, balance_section, error_section, orderings, risk_section, risks, table

_INTRODUCTION = """# Bayesian heads: balance and uncertainty

Written by `python -m aigidetect.training uncertainty` from stored scores; do not edit.

Figures are means over the conditions {conditions}. Each is followed by its 95 % interval: a bootstrap over groups of
pictures that share a scene, prompt or original. Differences are paired: both sides see the same pictures in each sample.
Intervals know nothing of seeds: another training of the same network may differ by more. Of many intervals, one in twenty
misses by chance.
`{first}` is the detector that the others are compared with. No spread over draws is stored of a detector
whose weights are not random; only the score itself can then be asked what it knows of errors.
"""


@dataclass(frozen=True)
class Evaluated:
    """What a folder of scores holds for the page.

    Attributes:
        name: Detector; with the folder's name where two folders hold the same one.
        facts: Content of `evaluation.json`.
        parts: Part of the data -> scores under the headline conditions.
    """

    name: str
    facts: Mapping[str, Any]
    parts: Mapping[str, Sequence[Score]]


def uncertainty_page(folders: Sequence[Path], out: Path, *, draws: int = 200) -> None:
    """Writes the page, and its figure beside it with the suffix `.png`.

    Args:
        folders: Folders that `evaluate` wrote, at least two; the first is of the detector without a Bayesian head.
        out: Markdown file.
        draws: Bootstrap samples of each interval.

    Raises:
        ModuleNotFoundError: matplotlib is missing; the message says how to get it.
        ValueError: Too few folders, no split is in all of them, or they are not of the same pictures and conditions.
    """
    new_figure = _matplotlib()
    detectors = read_detectors(folders)
    found = {one.name: {part: answers(s, draws=draws) for part, s in one.parts.items()} for one in detectors}
    scores = {one.name: one.parts for one in detectors}
    pages = [_introduction(detectors), balance_section(scores, draws=draws), error_section(found), risk_section(found)]
    figure = out.with_suffix(".png")
    _draw(new_figure, found, figure)
    pages.append(f"![Risk against coverage]({figure.name})\n")
    out.write_text("\n".join(pages), encoding="utf-8")


def read_detectors(folders: Sequence[Path]) -> list[Evaluated]:
    """The folders' detectors, with the splits that all of them have; see `uncertainty_page` for what is refused."""
    if len(folders) < 2:
        raise ValueError("Expected at least two folders: the detector without a Bayesian head, then those with one.")
    stored = [(folder, *read_evaluation(folder)) for folder in folders]
    splits = [split for split in stored[0][1]["splits"] if all(split in facts["splits"] for _, facts, _ in stored)]
    if not splits:
        raise ValueError("No split is in all folders; evaluate all detectors on one of them.")
    detectors: list[Evaluated] = []
    for folder, facts, scores in stored:
        taken = any(one.name == facts["detector"] for one in detectors)
        name = f"{facts['detector']} ({folder.name})" if taken else facts["detector"]
        head = [s for s in scores if s.condition in HEADLINE_CONDITIONS]
        detectors.append(Evaluated(name, facts, {split: [s for s in head if s.split == split] for split in splits}))
    for split in splits:
        first, *others = ({(picture(s), s.label, s.condition) for s in one.parts[split]} for one in detectors)
        for one, other in zip(detectors[1:], others):
            if other != first:
                raise ValueError(
                    f"{one.name} and {detectors[0].name} differ in {len(first ^ other)} pictures, labels or conditions of "
                    f"{split}; evaluate both on the same data."
                )
    return detectors


def _introduction(detectors: Sequence[Evaluated]) -> str:
    rows = []
    for one in detectors:
        preprocess = json.dumps({k: v for k, v in one.facts["preprocess"].items() if k not in ("mean", "std")})
        rows.append([one.name, f"`{one.facts['weights_sha256']}`", f"`{preprocess}`", _spread_known(one)])
    parts = []
    for part, scores in detectors[0].parts.items():
        labels = {picture(s): s.label for s in scores}
        parts.append(f"`{part}` {len(labels) - sum(labels.values())} real and {sum(labels.values())} AI-generated")
    missing = sorted({split for one in detectors for split in one.facts["splits"]} - set(detectors[0].parts))
    text = _INTRODUCTION.format(conditions=", ".join(HEADLINE_CONDITIONS), first=detectors[0].name)
    lines = [text, f"Pictures: {'; '.join(parts)}."]
    if missing:
        lines.append(f"Left out, since not all detectors were evaluated on it: {', '.join(missing)}.")
    return "\n".join([*lines, "", table(("detector", "weights sha256", "preprocessing", "spread over draws"), rows)])


def _spread_known(one: Evaluated) -> str:
    drawn = one.facts.get("draws")
    if any(s.deviation is not None for scores in one.parts.values() for s in scores):
        return f"{drawn['samples']} draws" if drawn else "stored"
    return "stored under another calibration: evaluate again" if drawn else "none stored"


def _matplotlib() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModuleNotFoundError("The figure of the page needs matplotlib: pip install 'aigidetect[plots]'.") from error
    return Figure


def _draw(new_figure: Any, found: Found, path: Path) -> None:
    """Risk against coverage: a panel for each part, a colour for each detector, a dashed line for closeness."""
    parts = list(next(iter(found.values())))
    coverages = np.linspace(0.05, 1, 96)
    figure = new_figure(figsize=(5 * len(parts), 4.2), layout="constrained")
    for index, part in enumerate(parts, start=1):
        axes = figure.add_subplot(1, len(parts), index)
        for colour, (name, answered) in enumerate(found.items()):
            own = answered[part]
            for way, values in orderings(own).items():
                style = "-" if way == "deviation" else "--"
                risk = risks(own, values, coverages.tolist())[0]
                axes.plot(coverages, risk, style, color=f"C{colour}", label=f"{name}, {way}")
        axes.set(title=part, xlabel="coverage", ylabel="risk: share of wrong verdicts", ylim=(0, None))
        axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=110)
