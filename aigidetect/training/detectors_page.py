"""weights_manifest.json -> docs/detectors.md, which is written by this file, never typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..manifest import Manifest, ManifestEntry, WeightsFile

_INTRODUCTION = """# Detectors

Written by `python -m aigidetect.training detectors` from `weights_manifest.json`; do not edit.

A bare name means the newest version of this release, a full one such as `{example}` always the same file. What stands behind
the names is in [Weights](weights.md#the-names), how good they are and what they cost in [Results](results.md#all-detectors).

## With weights

`"ai"` and `"real"` are the probabilities from which on, and below which, a picture gets that verdict, at a false-positive
rate of 5 % and of 1 %; between them it is `"unsure"`. Thresholds were fixed on the stated number of real and generated
pictures. AUROC is the headline on `test_unseen`, with its 95 % interval. MB counts all files, also one that detectors share.
"""
_MISSING = """
## Without weights

`load_detector(NAME, weights=FILE)` takes a checkpoint of these networks, and a note says how to get or make one.
"""
_HEAD = (
    "detector",
    "views",
    "parameters",
    "MB",
    "AUROC",
    '`"ai"` from, 5 % / 1 %',
    '`"real"` below, 5 % / 1 %',
    "real / AI",
    "licence",
)
_RATES = (0.05, 0.01)


def detectors_page(book: Manifest) -> str:
    """The page, as Markdown.

    Args:
        book: The detectors. All versions with weights are listed, and the newest of each name without any.

    Raises:
        ValueError: No detector has weights.
    """
    published = [(entry, entry.weights) for entry in book if entry.weights]
    if not published:
        raise ValueError(f"{book.path} has no detector with weights; export one first.")
    named = {entry.name for entry, _ in published}
    missing = [book.get(name) for name in book.names() if name not in named]
    lines = [_INTRODUCTION.format(example=published[0][0].full_name), f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    lines += [_row(entry, weights) for entry, weights in published]
    lines += ["", "| detector | file | SHA-256 |", "|---|---|---|"]
    for entry, weights in published:
        for file in filter(None, (weights, entry.backbone)):
            lines.append(f"| `{entry.full_name}` | {_place(file)} | `{file.sha256}` |")
    if missing:
        lines += [_MISSING, "| detector | parameters | note |", "|---|---|---|"]
        lines += [f"| `{entry.name}` | {_millions(entry)} | {entry.note} |" for entry in missing]
    return "\n".join(lines) + "\n"


def _row(entry: ManifestEntry, weights: WeightsFile) -> str:
    points = {point["fpr"]: point for point in (entry.calibration or {}).get("thresholds", ())}
    stated = [points[rate] for rate in _RATES if rate in points]
    provenance = entry.provenance or {}
    figure = provenance.get("metrics", {}).get("test_unseen", {}).get("headline", {}).get("auroc")
    size = weights.bytes + (entry.backbone.bytes if entry.backbone else 0)
    cells = [
        f"`{entry.full_name}`",
        _views(entry.preprocess),
        _millions(entry),
        f"{size / 1e6:.1f}",
        "{:.3f} ({:.3f}-{:.3f})".format(*figure) if figure else "not measured",
        " / ".join(f"{point['probability']:.3f}" for point in stated),
        " / ".join(f"{point['real_below']:.3f}" for point in stated if "real_below" in point),
        f"{stated[0]['n_real']} / {stated[0]['n_ai']}" if stated and "n_real" in stated[0] else "",
        provenance.get("licence", ""),
    ]
    return f"| {' | '.join(cells)} |"


def _views(preprocess: Mapping[str, Any]) -> str:
    if preprocess["kind"] == "tiles":
        count = preprocess.get("max_tiles")
        return f"native tiles of {preprocess['size']}" + (f", at most {count}" if count else "")
    # A kind of its own is shown as it stands rather than not at all.
    return f"`{json.dumps(dict(preprocess))}`"


def _millions(entry: ManifestEntry) -> str:
    return f"{entry.parameters / 1e6:.1f} M"


def _place(file: WeightsFile) -> str:
    if file.file:
        return f"`{file.file}`, in the package"
    return f"`{file.filename}` of `{file.repo_id}` at `{file.revision}`"
