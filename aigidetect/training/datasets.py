"""Labelled pictures: from an index to a list of samples, and from samples to pixels.

Splits are by group, never by file (`take_split`). Files that do not decode are counted and listed, never replaced by zeros.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ImageError
from ..images import load_image
from .augment import Pixels

REAL, AI = 0, 1


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        path: The file.
        label: 0 real, 1 AI-generated.
        source: Generator or picture set it comes from.
        group: Pictures of one scene, prompt or original; a group lies in one split.
        split: `"train"`, `"val"`, `"test_seen"`, `"test_unseen"`, ...
        line: Model line of the generator; `"real"` for real pictures.
        style: `"photo"`, `"face"`, `"art"`, ...
    """

    path: Path
    label: int
    source: str
    group: str
    split: str
    line: str = ""
    style: str = ""


def read_index(folder: str | Path) -> list[Sample]:
    """Samples of a folder with an `index.tsv`: columns file, label, source, line, split, group and style.

    Raises:
        FileNotFoundError: There is no `index.tsv`.
        ValueError: A label that is neither `ai` nor `real`, or a missing column.
    """
    folder = Path(folder)
    with open(folder / "index.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    labels = {"real": REAL, "ai": AI}
    needed = {"file", "label", "source", "line", "split", "group", "style"}
    if rows and (missing := needed - rows[0].keys()):
        raise ValueError(f"{folder / 'index.tsv'} lacks the columns {sorted(missing)}.")
    samples = []
    for number, row in enumerate(rows, start=2):
        if row["label"] not in labels:
            raise ValueError(f"Line {number} of {folder / 'index.tsv'}: label {row['label']!r} is not 'ai' or 'real'.")
        samples.append(
            Sample(
                folder / row["file"],
                labels[row["label"]],
                row["source"],
                row["group"],
                row["split"],
                row["line"],
                row["style"],
            )
        )
    return samples


def shared_groups(samples: Iterable[Sample]) -> dict[str, set[str]]:
    """Groups that lie in more than one split, with those splits."""
    splits: dict[str, set[str]] = {}
    for sample in samples:
        splits.setdefault(sample.group, set()).add(sample.split)
    return {group: found for group, found in splits.items() if len(found) > 1}


def take_split(samples: Sequence[Sample], split: str) -> list[Sample]:
    """Samples of one split, less those whose group also lies in a split nearer to the final measurement.

    The order is train, val, then everything else: a group that is in `train` and in `test_unseen` is dropped from
    `train`, so that no test picture has a sibling among the pictures that a detector was fitted or chosen on.

    Raises:
        ValueError: No sample is left; the message lists the splits that exist.
    """
    rank = {"train": 0, "val": 1}
    leaking = {
        group
        for group, splits in shared_groups(samples).items()
        if any(rank.get(other, 2) > rank.get(split, 2) for other in splits)
    }
    taken = [sample for sample in samples if sample.split == split and sample.group not in leaking]
    if not taken:
        raise ValueError(f"No samples in split {split!r}; splits: {sorted({sample.split for sample in samples})}.")
    return taken


def load_pixels(samples: list[Sample], *, workers: int = 2) -> tuple[list[Sample], list[Pixels], list[str]]:
    """Decodes all samples into memory.

    Returns:
        The samples that decoded, their pixels (H, W, 3) uint8 in the same order, and one line for each that did not.
    """

    def decode(sample: Sample) -> Pixels | str:
        try:
            return np.ascontiguousarray(load_image(sample.path)[0].permute(1, 2, 0).numpy())
        except ImageError as error:
            return f"{sample.path}: {type(error).__name__}: {error}"

    with ThreadPoolExecutor(workers) as pool:
        decoded = list(pool.map(decode, samples))
    failures = [item for item in decoded if isinstance(item, str)]
    good = [(sample, item) for sample, item in zip(samples, decoded) if not isinstance(item, str)]
    return [sample for sample, _ in good], [item for _, item in good], failures


def digest(samples: Iterable[Sample]) -> str:
    """SHA-256 over file names, labels and file contents in the given order: names a data set in a model card."""
    total = hashlib.sha256()
    for sample in samples:
        content = hashlib.sha256(sample.path.read_bytes()).hexdigest()
        total.update(f"{sample.path.name}\t{sample.label}\t{content}\n".encode())
    return total.hexdigest()
