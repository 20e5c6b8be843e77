"""The comparison of heads (see `head_report`) as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .metrics import shown

_TITLES = {
    "blocks": "Blocks of the tower, logistic layer",
    "penalty": "L2 penalty, blocks {plain}",
    "hidden": "A hidden layer, blocks {plain}",
    "seed": "Seeds of the widest hidden layer",
    "pictures": "Number of training pictures",
    "views": "Random views of each training picture",
    "views, hidden layer": "Random views of each training picture, hidden layer",
    "aligned": "Weight of aligned fakes, see [aligned.md](aligned.md)",
    "attention": "Blocks weighed against each other (Koutlis & Papadopoulos, 2024)",
    "contrast": "A supervised contrastive loss beside the cross entropy",
    "class tokens": "Class tokens alone, or with mean and deviation of the patches",
    "pooling": "Every patch of a view read by itself, and pooled afterwards",
}
_INTRODUCTION = """## Heads on the frozen tower of `vit-clip`

Written from the comparison that `python -m aigidetect.training head --val` stored. `val` is the headline on {n_val};
`across` is measured within the training pictures, on random views of {n_across}: every logit comes from a head that saw
neither the model line nor, for real pictures, the source. Features were computed in bfloat16, accuracy is taken at a logit
of 0, intervals are over groups. Test splits play no part.
"""


def head_section(*paths: str | Path) -> str:
    """The section, from files that `head --report` wrote.

    Raises:
        ValueError: The files are of different pictures.
    """
    report, *others = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    if any((other["val"], other["across"]) != (report["val"], report["across"]) for other in others):
        raise ValueError("The comparisons of heads are of different pictures; compare all heads on the same data.")
    report["rows"] += [row for other in others for row in other["rows"]]
    pages = [_INTRODUCTION.format(n_val=report["val"], n_across=report["across"])]
    for what, title in _TITLES.items():
        rows = [row for row in report["rows"] if row["what"] == what]
        if rows:
            pages.append(f"### {title.format(plain=report['plain'])}\n\n{_table(rows)}")
    return "\n".join(pages)


def _table(rows: list[Mapping[str, Any]]) -> str:
    head = (
        "blocks",
        "settings",
        "pictures",
        "views",
        "val balanced accuracy",
        "val AUROC",
        "across: accuracy",
        "across: AUROC",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [", ".join(map(str, row["blocks"])), row["config"], str(row["pictures"]), str(row["views"])]
        for part in ("val", "across"):
            figures = row.get(part)
            for name in ("balanced_accuracy", "auroc"):
                cells.append(shown(figures[name]) if figures else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
