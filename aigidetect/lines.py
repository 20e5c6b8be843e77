"""Records -> lines of text: JSON, CSV, or a table for people."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TextIO

from .prediction import Failure, Prediction, Stability
from .provenance import Provenance

Format = Literal["jsonl", "csv", "table"]
Record = Prediction | Failure

_COLUMNS = (
    "source",
    "verdict",
    "probability",
    "threshold",
    "fpr",
    "probability_mean",
    "probability_std",
    "probability_low",
    "probability_high",
    "format",
    "width",
    "height",
    "jpeg_quality",
    "detector",
    "weights_sha256",
    "error",
    "message",
)
_STABILITY_COLUMNS = ("stability_min", "stability_max", "stability_variants", "stability_flips")
_PROVENANCE_COLUMNS = ("provenance_kinds", "provenance_statements", "provenance_notes")
_RED, _YELLOW, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[0m"
_COLOURS = {"ai": _RED, "unsure": _YELLOW, "failed": _YELLOW}


@dataclass(frozen=True)
class Layout:
    """How records are written.

    Attributes:
        format: `"jsonl"`, all fields as a JSON object; `"csv"`, the most important ones; `"table"`, for people.
        stability: Whether CSV has columns for `Prediction.stability`.
        provenance: Whether what files say of their origin is shown beside each record.
        colour: Whether the verdicts of a table are coloured.
    """

    format: Format
    stability: bool = False
    provenance: bool = False
    colour: bool = False

    def header(self) -> str:
        """What comes before the first record: the row of column names in CSV, else nothing."""
        return ",".join(self._columns()) + "\n" if self.format == "csv" else ""

    def line(self, record: Record, provenance: Provenance | None = None) -> str:
        """One record, with its newline; one line, except that the table adds a line for each thing asked for.

        Args:
            record: What a detector's `stream` yields.
            provenance: What the file says of itself, if that is shown.
        """
        if self.format == "csv":
            return self._csv(record, provenance)
        if self.format == "table":
            return self._table(record, provenance)
        facts = record.to_dict()
        if provenance is not None:
            facts["provenance"] = provenance.to_dict()
        # ASCII escapes keep names in odd encodings writable on every terminal and readable again.
        return json.dumps(facts) + "\n"

    def _columns(self) -> tuple[str, ...]:
        more = (_STABILITY_COLUMNS if self.stability else ()) + (_PROVENANCE_COLUMNS if self.provenance else ())
        return _COLUMNS + more

    def _csv(self, record: Record, provenance: Provenance | None) -> str:
        facts = record.to_dict()
        row = {**facts, **facts.get("image", {})}
        for key, name in (("uncertainty", "probability"), ("stability", "stability")):
            row |= {f"{name}_{part}": value for part, value in (facts.get(key) or {}).items()}
        if provenance is not None:
            row["provenance_kinds"] = " ".join(dict.fromkeys(claim.kind for claim in provenance.claims))
            row["provenance_statements"] = " ".join(claim.statement for claim in provenance.claims)
            row["provenance_notes"] = " ".join(provenance.notes)
        if str(row["source"]).startswith(("=", "+", "-", "@")):
            row["source"] = f"./{row['source']}"  # the same file, but no formula for a spreadsheet
        out = io.StringIO()
        writer = csv.DictWriter(out, self._columns(), restval="", extrasaction="ignore", lineterminator="\n")
        writer.writerow({key: printable(value) if isinstance(value, str) else value for key, value in row.items()})
        return out.getvalue()

    def _table(self, record: Record, provenance: Provenance | None) -> str:
        verdict: str
        if isinstance(record, Prediction):
            verdict, rest = record.verdict, f"{record.probability:6.3f}  {printable(record.source)}"
        else:
            verdict, rest = "failed", f"{'':6}  {printable(record.source)}: {printable(record.message)}"
        word = f"{verdict:<7}"
        if self.colour and verdict in _COLOURS:
            word = f"{_COLOURS[verdict]}{word}{_PLAIN}"
        more = [_stable(record.stability)] if isinstance(record, Prediction) and record.stability else []
        if provenance is not None:
            more += [claim.statement for claim in provenance.claims] or ["The file says nothing of its origin."]
            more += provenance.notes
        return "\n".join([word + rest, *(f"{'':15}- {printable(text)}" for text in more)]) + "\n"


def _stable(found: Stability) -> str:
    outcome = "the verdict changes" if found.flips else "the verdict stays"
    return f"Re-encoded and rescaled in {found.variants} ways: {found.min:.3f} to {found.max:.3f}; {outcome}."


def wants_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether colours are wanted on a stream: on a terminal that has them, unless NO_COLOR is set (https://no-color.org)."""
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" or not stream.isatty():
        return False
    return os.name != "nt" or "WT_SESSION" in environ  # the older console of Windows would show the codes


def printable(text: str) -> str:
    """Text without what a terminal would obey or could not encode: control characters and half surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
