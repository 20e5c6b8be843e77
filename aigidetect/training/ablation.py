"""Which differences between variants of a detector exceed what another seed does to one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .augment import HEADLINE_CONDITIONS
from .evaluate import Score, headline_draws, picture
from .metrics import shown
from .score_folders import read_evaluation

FIGURES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
_PARTS = ("test_seen", "test_unseen")
Draws = NDArray[np.float64]  # (1 + draws, figures): the figures of all pictures, then of each bootstrap sample
Triple = tuple[float, float, float]
_INTRODUCTION = """## Ablation

Headline figures of variants that were trained with several seeds and measured on the same pictures. A difference is that of
the means over seeds, variant minus `{baseline}`; its 95 % interval comes from drawing the same groups of pictures for both,
and knows nothing of seeds. The seed spread is the largest minus the smallest figure among the seeds of one variant, and the
largest of these counts. A difference within it may be the luck of a seed, whatever its interval says.
"""


@dataclass(frozen=True)
class _Run:
    """One trained network: its variant, its seed, and the draws of each part."""

    variant: str
    seed: str
    draws: Mapping[str, Draws]


def compare(a: Sequence[Sequence[Score]], b: Sequence[Sequence[Score]], *, draws: int = 200) -> dict[str, Triple]:
    """Headline of `a` minus that of `b`, by a bootstrap that draws the same groups of pictures for both.

    Args:
        a: Scores of one part of the data for each seed of a detector; figures are averaged over seeds.
        b: The same of another detector, for the same pictures.
        draws: Bootstrap samples.

    Returns:
        `balanced_accuracy` and `auroc` -> (difference, low, high), the ends those of a 95 % interval.

    Raises:
        ValueError: The pictures are not the same, or a headline condition is missing.
    """
    _check_same([*a, *b])
    return _difference([_draw(run, draws) for run in a], [_draw(run, draws) for run in b])


def ablation_section(folders: Sequence[Path], *, draws: int = 200) -> str:
    """The section "Ablation" of the results, as Markdown.

    Args:
        folders: Folders that `evaluate` wrote, one for each variant and seed. A variant is what the detector is called, and
            that of the first folder is the baseline. The seed is the stored one, or the number at the end of the folder's
            name.
        draws: Bootstrap samples.

    Raises:
        ValueError: No test split is in all folders, their pictures differ, or a variant comes twice with one seed.
    """
    parts, runs = _read(folders, draws)
    variants: dict[str, list[_Run]] = {}
    for run in runs:
        variants.setdefault(run.variant, []).append(run)
    baseline, *others = variants
    spreads = {part: _spread(variants, part) for part in parts}
    sentences, rows = [], []
    for variant in others:
        verdicts: dict[bool, list[str]] = {True: [], False: []}
        for part in parts:
            difference = _difference(*([run.draws[part] for run in variants[name]] for name in (variant, baseline)))
            for figure, title in FIGURES.items():
                value, interval = difference[figure][0], shown(difference[figure], signed=True)
                spread = spreads[part][figure]
                spread_shown = "unknown" if np.isnan(spread) else f"{spread:.3f}"
                rows.append(f"| {variant} | {part} {title} | {interval} | {spread_shown} |")
                verdicts[abs(value) > spread].append(f"{part} {title}")
        sentences.append(_sentence(variant, verdicts, known=any(len(seeds) > 1 for seeds in variants.values())))
    lines = [_INTRODUCTION.format(baseline=baseline), *_run_table(variants, parts), ""]
    lines += [f"| variant | figure | difference to {baseline} | seed spread |", "|---|---|---|---|", *rows, "", *sentences]
    return "\n".join(lines) + "\n"


def _read(folders: Sequence[Path], draws: int) -> tuple[list[str], list[_Run]]:
    stored = [(folder, *read_evaluation(folder)) for folder in folders]
    parts = [part for part in _PARTS if all(part in facts["splits"] for _, facts, _ in stored)]
    if not parts:
        raise ValueError(f"An ablation needs {' or '.join(_PARTS)} in every folder; evaluate all on one of them.")
    for part in parts:
        _check_same([[s for s in scores if s.split == part] for _, _, scores in stored])
    runs = []
    for folder, facts, scores in stored:
        number = re.search(r"-(\d+)$", folder.name)
        seed = facts.get("seed")
        seed = seed if seed is not None else number[1] if number else "not stored"
        drawn = {part: _draw([s for s in scores if s.split == part], draws) for part in parts}
        runs.append(_Run(facts["detector"], str(seed), drawn))
    names = [(run.variant, run.seed) for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"These variants come twice with the same seed: {twice}; give each folder once.")
    return parts, runs


def _draw(scores: Sequence[Score], draws: int) -> Draws:
    head = [s for s in scores if s.condition in HEADLINE_CONDITIONS]
    if missing := set(HEADLINE_CONDITIONS) - {s.condition for s in head}:
        raise ValueError(f"A comparison needs scores under {sorted(missing)} too; evaluate with these conditions.")
    return np.array([[figures[name] for name in FIGURES] for figures in headline_draws(head, draws)])


def _check_same(runs: Sequence[Sequence[Score]]) -> None:
    first, *others = ({picture(s) for s in run if s.condition in HEADLINE_CONDITIONS} for run in runs)
    for other in others:
        if other != first:
            raise ValueError(
                f"Expected scores of the same pictures, but {len(first ^ other)} are on one side only; evaluate both on the "
                "same data."
            )


def _difference(a: Sequence[Draws], b: Sequence[Draws]) -> dict[str, Triple]:
    difference = np.mean(a, axis=0) - np.mean(b, axis=0)
    low, high = np.nanpercentile(difference[1:], [2.5, 97.5], axis=0)
    return {name: (float(difference[0, i]), float(low[i]), float(high[i])) for i, name in enumerate(FIGURES)}


def _spread(variants: Mapping[str, Sequence[_Run]], part: str) -> dict[str, float]:
    """Largest seed spread of each figure; NaN if no variant has two seeds."""
    each = [np.ptp([run.draws[part][0] for run in runs], axis=0) for runs in variants.values() if len(runs) > 1]
    largest = np.max(each, axis=0) if each else np.full(len(FIGURES), np.nan)
    return {name: float(largest[i]) for i, name in enumerate(FIGURES)}


def _run_table(variants: Mapping[str, Sequence[_Run]], parts: Sequence[str]) -> list[str]:
    titles = [f"{part} {title}" for part in parts for title in FIGURES.values()]
    lines = ["| variant | seed | " + " | ".join(titles) + " |", "|---" * (2 + len(titles)) + "|"]
    for variant, runs in variants.items():
        for run in runs:
            cells = [f"{value:.3f}" for part in parts for value in run.draws[part][0]]
            lines.append(f"| {variant} | {run.seed} | {' | '.join(cells)} |")
    return lines


def _sentence(variant: str, verdicts: Mapping[bool, Sequence[str]], *, known: bool) -> str:
    if not known:
        return f"- `{variant}`: no variant has two seeds, so whether it exceeds the seed spread is unknown."
    words = {True: "exceeds", False: "does not exceed"}
    said = [f"{words[large]} the seed spread in {', '.join(verdicts[large])}" for large in (True, False) if verdicts[large]]
    return f"- `{variant}` {'; it '.join(said)}."
