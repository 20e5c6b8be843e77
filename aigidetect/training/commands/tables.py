"""`tables`: the report's tables from stored scores, the report's own numbers beside ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..augment import CONDITIONS
from .common import Commands

if TYPE_CHECKING:  # it imports scikit-learn, which only running needs
    from ..evaluate import Score


def add(commands: Commands) -> None:
    """Adds the parser."""
    tables = commands.add_parser("tables", help="the report's tables 4-8 from stored scores, its own numbers beside ours")
    tables.set_defaults(run=_tables)
    tables.add_argument("scores", nargs="+", type=Path, help="folders that evaluate wrote")
    tables.add_argument("--split", default="val", help="default: val, the report's")
    tables.add_argument("--condition", default="as-is", choices=CONDITIONS)
    tables.add_argument("--numbers", nargs="+", type=int, default=range(4, 9), choices=range(4, 9), metavar="N")
    tables.add_argument("--out", type=Path, default=None, help="folder for table<N>.csv and tables.md; default: stdout")
    tables.add_argument("--radar", type=Path, default=None, help="also draw the radar chart, a PNG file; needs matplotlib")


def _tables(options: argparse.Namespace) -> None:
    from ..report_tables import report_tables

    evaluations = _read(options.scores, options.split)
    tables = report_tables(evaluations, options.condition, numbers=options.numbers)
    page = "\n".join(table.markdown() for table in tables)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "tables.md").write_text(page, encoding="utf-8")
        for table in tables:
            (options.out / f"table{table.number}.csv").write_text(table.csv(), encoding="utf-8")
    else:
        print(page)
    if options.radar:
        from ..radar import draw_radar

        shown = {name: [s for s in scores if s.condition == options.condition] for name, scores in evaluations.items()}
        draw_radar(shown, options.radar)


def _read(folders: list[Path], split: str) -> dict[str, list[Score]]:
    from ..score_folders import read_evaluation

    evaluations: dict[str, list[Score]] = {}
    for folder in folders:
        facts, scores = read_evaluation(folder)
        if split not in facts["splits"]:
            raise ValueError(f"{folder} has no scores of {split!r}, only of {facts['splits']}; choose one with --split.")
        # Two seeds of one detector share its name, but not their folder's.
        name = facts["detector"] if facts["detector"] not in evaluations else f"{facts['detector']} ({folder.name})"
        evaluations[name] = [s for s in scores if s.split == split]
    return evaluations
