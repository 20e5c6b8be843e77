"""Tables 4 to 8 of the report that this library implements, from stored scores, with the report's own numbers beside ours.

The report's numbers are facts in `report/*.csv`; `report/notes.csv` says what each of them is and is not. A column `source`
is added to the report's columns: `report`, or the detector whose scores the row was computed from.

References:
    | AI-Generated Image Detection (course report, HKUST, 2025)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np

from .calibrate import balanced_weights
from .datasets import AI, REAL
from .evaluate import Score
from .metrics import measure

Row = dict[str, str]
TITLES = {
    4: "ViT variants",
    5: "ResNet-50 variants",
    6: "SPAI",
    7: "NPR ablation",
    8: "NPR, per generator",
}
# What the report's file list lost in table 4.
_LEFT_OUT = "adm"
_EMPTY = "-"


@dataclass(frozen=True)
class Table:
    """One table of the report.

    Attributes:
        number: Its number in the report, 4 to 8.
        columns: Names in order.
        rows: Column -> text; a missing or empty value is shown as `-`.
        notes: What a reader has to know, as sentences.
    """

    number: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """The table with its title and numbered notes."""
        lines = [
            f"### Table {self.number}: {TITLES[self.number]}",
            "",
            "| " + " | ".join(self.columns) + " |",
            "|---" * len(self.columns) + "|",
        ]
        lines += ["| " + " | ".join(row.get(column) or _EMPTY for column in self.columns) + " |" for row in self.rows]
        lines += ["", *(f"{number}. {note}" for number, note in enumerate(self.notes, start=1))]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Head and rows, without the notes."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()


def report_table(number: int) -> Table:
    """The report's own rows of one table.

    Raises:
        KeyError: There is no such table.
    """
    if number not in TITLES:
        raise KeyError(f"No table {number}; the report's results are the tables {', '.join(map(str, TITLES))}.")
    rows = _read(f"table{number}.csv")
    notes = tuple(row["note"] for row in _read("notes.csv") if str(number) in row["tables"])
    return Table(number, tuple(rows[0]), tuple(rows), notes)


def report_tables(
    evaluations: Mapping[str, Sequence[Score]],
    condition: str = "as-is",
    *,
    numbers: Sequence[int] = tuple(TITLES),
    missing: Mapping[str, str] | None = None,
) -> list[Table]:
    """The report's tables with rows of ours.

    Args:
        evaluations: Detector -> scores of one split, which may be of several conditions.
        condition: The one that the tables show.
        numbers: Which tables.
        missing: Detectors that could not be measured -> why; they get a row without figures, and a note, in table 7.

    Raises:
        KeyError: See `report_table`.
        ValueError: A detector has no scores under `condition`.
    """
    chosen = {name: [s for s in scores if s.condition == condition] for name, scores in evaluations.items()}
    for name, scores in chosen.items():
        if not scores:
            raise ValueError(f"{name} has no scores under {condition!r}; evaluate it with --conditions {condition}.")
    tables = []
    for number in numbers:
        table = report_table(number)
        rows = [{**row, "source": name} for name, scores in chosen.items() for row in _ROWS[number](name, scores)]
        notes = [*table.notes, f"Rows of ours: condition `{condition}`, called AI-generated from the probability 0.5 on."]
        if number != 4:
            notes.append("Both classes weigh the same in rows of ours, as if each generator had as many real pictures.")
        if number == 7 and missing:
            rows += [{"version": name, "source": "no weights"} for name in missing]
            notes += [f"`{name}` was not measured: {why}" for name, why in missing.items()]
        tables.append(replace(table, rows=(*table.rows, *rows), notes=tuple(notes)))
    return tables


def by_generator(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Scores of each generator's pictures and of the real ones beside them.

    Tiny-GenImage has its own real pictures for every generator. A source of generated pictures without any is put beside
    all real pictures.

    Args:
        scores: Of one condition.
    """
    real: dict[str, list[Score]] = {}
    generated: dict[str, list[Score]] = {}
    for s in scores:
        (generated if s.label == AI else real).setdefault(s.source, []).append(s)
    everything = [s for part in real.values() for s in part]
    return {name: [*real.get(name, everything), *part] for name, part in sorted(generated.items())}


def figures(scores: Sequence[Score]) -> dict[str, float]:
    """The figures of `measure` of scores of one condition, both classes weighing the same in all of them.

    Where there are as many real as generated pictures, as for each generator of Tiny-GenImage, these are the report's.
    Elsewhere accuracy and AP would mostly tell which class has more pictures.
    """
    labels = np.array([s.label for s in scores], dtype=float)
    weights = balanced_weights(labels) if 0 < labels.mean() < 1 else None
    return measure(labels, np.array([s.probability for s in scores]), 0.5, weights)


def mean_figures(scores: Sequence[Score]) -> dict[str, float]:
    """Mean of `figures` over generators; NaN without generated pictures."""
    each = [figures(part) for part in by_generator(scores).values()]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]} if each else figures(scores)


def _table4(name: str, scores: Sequence[Score]) -> list[Row]:
    kept = [s for s in scores if (s.label, s.source) != (AI, _LEFT_OUT)]
    right = sum((s.probability >= 0.5) == (s.label == AI) for s in kept)
    row = {"model": name, "accuracy": _number(right / len(kept) if kept else float("nan"), 4)}
    for label, title in ((REAL, "nature"), (AI, "ai")):
        called = [s for s in kept if (s.probability >= 0.5) == (label == AI)]
        own = [s for s in kept if s.label == label]
        hits = sum(s.label == label for s in called)
        for figure, total in (("precision", len(called)), ("recall", len(own))):
            row[f"{title}_{figure}"] = _number(hits / total if total else float("nan"), 4)
    return [row]


def _table5(name: str, scores: Sequence[Score]) -> list[Row]:
    mean = mean_figures(scores)
    columns = {
        "avg_acc_pct": "balanced_accuracy",
        "real_acc_pct_approx": "real_accuracy",
        "fake_acc_pct_approx": "ai_accuracy",
    }
    return [{"model": name, **{column: _percent(mean[figure]) for column, figure in columns.items()}}]


def _table6(name: str, scores: Sequence[Score]) -> list[Row]:
    pooled = figures(scores)
    metrics = {"overall_accuracy": "balanced_accuracy", "average_precision": "ap", "auc": "auroc"}
    metrics["minimum_validation_loss"] = "nll"
    return [{"metric": metric, "value": _number(pooled[figure], 4)} for metric, figure in metrics.items()]


def _table7(name: str, scores: Sequence[Score]) -> list[Row]:
    mean = mean_figures(scores)
    return [{"version": name, "overall_acc_pct": _percent(mean["balanced_accuracy"]), **_rest(mean)}]


def _table8(name: str, scores: Sequence[Score]) -> list[Row]:
    rows = []
    for generator, part in by_generator(scores).items():
        one = figures(part)
        rows.append(
            {"generator": generator, "acc_pct": _percent(one["balanced_accuracy"]), **_rest(one), "samples": str(len(part))}
        )
    return rows


_ROWS = {4: _table4, 5: _table5, 6: _table6, 7: _table7, 8: _table8}


def _rest(one: Mapping[str, float]) -> Row:
    columns = {"ap_pct": "ap", "real_acc_pct": "real_accuracy", "fake_acc_pct": "ai_accuracy"}
    return {column: _percent(one[figure]) for column, figure in columns.items()}


def _number(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return _number(100 * value, 2)


def _read(name: str) -> list[Row]:
    text = (files(__package__) / "report" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))
