"""Stored scores -> Markdown tables. docs/results.md is written by this file, never typed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..calibration import Calibration
from .evaluate import read_scores, summarise, swap_gap

_PARTS = ("val", "test_seen", "test_unseen", "test_unseen strict", "test_unseen photo-like")
_COLUMNS = {
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "ap": "AP",
    "real_accuracy": "real accuracy",
    "ai_accuracy": "AI accuracy",
    "tpr_at_5_fpr": "TPR at 5 % FPR",
    "ece": "ECE",
}
_INTRODUCTION = """# Results

Written by `python -m aigidetect.training results` from stored scores; do not edit.

Each figure is followed by its 95 % interval: a bootstrap over groups of pictures that share a scene, prompt or original.
Balanced accuracy, real and AI accuracy are taken at the calibrated probability 0.5, which was fixed on `val`. `test_seen`
holds other pictures of the sources in training, `test_unseen` generators and photo sets that training never saw; its strict
part holds generators of model lines that training never saw, its photo-like part photographs and faces only. Conditions:
`qNN` every picture as JPEG of that quality; `half+q80` both sides halved, then JPEG 80; `swap` generated pictures as JPEG 96
and real ones as they are. The headline is the mean over q96, q75 and half+q80.
"""


def results_page(folders: Sequence[Path], *, draws: int = 300) -> str:
    """The whole page.

    Args:
        folders: Folders written by `evaluate`: `<split>.csv` files and `evaluation.json`.
        draws: Bootstrap samples.
    """
    evaluations = [(_read_facts(folder), _rows(folder, draws)) for folder in folders]
    pages = [_INTRODUCTION, _comparison(evaluations)]
    for facts, rows in evaluations:
        pages.append(f"## {facts['detector']}\n\nWeights sha256 `{facts['weights_sha256']}`.\n")
        pages += [_part_table(part, rows) for part in _PARTS if any(row["part"] == part for row in rows)]
    return "\n".join(pages)


def _read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return facts


def _rows(folder: Path, draws: int) -> list[dict[str, Any]]:
    facts = _read_facts(folder)
    calibration = Calibration.from_dict(facts["calibration"])
    scores = [score for split in facts["splits"] for score in read_scores(folder / f"{split}.csv", calibration)]
    return summarise(scores, frozenset(facts["train_lines"]), draws=draws)


def _comparison(evaluations: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]) -> str:
    lines = [
        "## Headline",
        "",
        "| detector | part | real / AI pictures | balanced accuracy | AUROC | TPR at 5 % FPR | format-swap gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for facts, rows in evaluations:
        for row in sorted((r for r in rows if r["condition"] == "headline"), key=lambda r: _PARTS.index(r["part"])):
            figures = " | ".join(_figure(row[name]) for name in ("balanced_accuracy", "auroc", "tpr_at_5_fpr"))
            gap = f"{swap_gap(rows, row['part']):+.3f}"
            lines.append(f"| {facts['detector']} | {row['part']} | {row['n_real']} / {row['n_ai']} | {figures} | {gap} |")
    return "\n".join(lines) + "\n"


def _part_table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    chosen = [row for row in rows if row["part"] == part]
    lines = [
        f"### {part}: {chosen[0]['n_real']} real, {chosen[0]['n_ai']} AI-generated",
        "",
        "| condition | " + " | ".join(_COLUMNS.values()) + " |",
        "|---" * (len(_COLUMNS) + 1) + "|",
    ]
    for row in chosen:
        lines.append(f"| {row['condition']} | " + " | ".join(_figure(row[name]) for name in _COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def _figure(triple: tuple[float, float, float]) -> str:
    value, low, high = triple
    return f"{value:.3f} ({low:.3f}-{high:.3f})"
