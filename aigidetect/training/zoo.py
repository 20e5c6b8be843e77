"""One row for every detector that a name stands for: quality, cost, size and licence, or how to get weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..manifest import Manifest, ManifestEntry, load_manifest
from .metrics import shown

_PART = "test_unseen"
_HEAD = (
    "detector",
    "test_unseen balanced accuracy",
    "AUROC",
    "photo-like",
    "parameters",
    "MB",
    "ms a picture",
    "cost",
    "licence",
)
_TEXT = """## All detectors

What each name loads. Quality is the headline on `test_unseen` and its photo-like part, {pictures}. Cost was
measured by `python benchmarks/detectors.py --threads {threads}`: milliseconds from file to verdict on one picture, and as a
multiple of `npr-ms-ca`, which is what carries over to other machines. MB counts the files on disk. Where there are no
weights of ours, `load_detector` says what makes some, see [weights.md](weights.md).
"""


def zoo_section(manifest: str | Path | None, benchmark: str | Path) -> str:
    """The section, as Markdown.

    Args:
        manifest: weights_manifest.json with the metrics of `results --manifest`; None means the package's own.
        benchmark: What benchmarks/detectors.py printed.

    Raises:
        ValueError: No detector has figures of `test_unseen`.
    """
    book, costs = (
        load_manifest(Path(manifest) if manifest else None),
        json.loads(Path(benchmark).read_text(encoding="utf-8")),
    )
    entries = _best_first(book)
    facts = _metrics(entries[0], _PART)
    lines = [
        _TEXT.format(pictures=f"{facts['n_real']} real and {facts['n_ai']} AI-generated pictures", threads=costs["threads"])
    ]
    lines += [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    lines += [_row(entry, costs["detectors"].get(entry.full_name)) for entry in entries]
    return "\n".join(lines) + "\n"


def zoo_table(manifest: str | Path | None, benchmark: str | Path) -> str:
    """The detectors that have weights, with fewer columns, as Markdown; see `zoo_section`."""
    book, costs = (
        load_manifest(Path(manifest) if manifest else None),
        json.loads(Path(benchmark).read_text(encoding="utf-8")),
    )
    lines = ["| detector | balanced accuracy, unseen generators | AUROC | ms a picture | MB | licence |", "|---" * 6 + "|"]
    for entry in _best_first(book):
        if entry.weights:
            cells = _row(entry, costs["detectors"].get(entry.full_name)).strip("| ").split(" | ")
            lines.append(f"| {' | '.join([cells[0], cells[1], cells[2], cells[6], cells[5], cells[8]])} |")
    return "\n".join(lines) + "\n"


def _best_first(book: Manifest) -> list[ManifestEntry]:
    entries = [book.get(name) for name in book.names()]
    entries.sort(key=lambda entry: (-_accuracy(entry), entry.name))
    if not entries or _accuracy(entries[0]) < 0:
        raise ValueError(f"No detector has figures of {_PART}; measure some with evaluate, and store them with results.")
    return entries


def _metrics(entry: ManifestEntry, part: str) -> dict[str, Any]:
    metrics = (entry.provenance or {}).get("metrics", {})
    found: dict[str, Any] = metrics.get(part, {}).get("headline", {})
    return found


def _accuracy(entry: ManifestEntry) -> float:
    return float(_metrics(entry, _PART).get("balanced_accuracy", (-1.0,))[0])


def _row(entry: ManifestEntry, cost: dict[str, Any] | None) -> str:
    count = f"{entry.parameters / 1e6:.1f} M" if entry.parameters else ""
    if entry.weights is None:
        return f"| `{entry.name}` | no weights | | | {count} | | | | |"
    cells = [
        _figure(_metrics(entry, part), name)
        for part, name in ((_PART, "balanced_accuracy"), (_PART, "auroc"), (f"{_PART} photo-like", "balanced_accuracy"))
    ]
    files = [file for file in (entry.weights, entry.backbone) if file]
    size = f"{sum(file.bytes for file in files) / 1e6:.1f}"
    spent = [f"{cost['ms_per_picture']:.0f}", f"{cost['times_npr_ms_ca']:.1f}"] if cost else ["", ""]
    licence = (entry.provenance or {}).get("licence", "")
    return f"| `{entry.full_name}` | {' | '.join([*cells, count, size, *spent, licence])} |"


def _figure(metrics: dict[str, Any], name: str) -> str:
    return shown(metrics[name]) if name in metrics else ""
