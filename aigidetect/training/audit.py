"""How far a label can be told without looking at the picture: the shortcuts of a data set.

A detector trained on data whose file format, quality or size predicts the label learns these, and is worthless outside. The
audit fits a small model on each group of such facts and reports its AUROC under cross-validation by group. It also lists
groups and near-duplicates that lie in several splits.

References:
    | Fake or JPEG? Revealing Common Biases in Generated Image Detection Datasets (Grommelt et al., 2024)
    | https://arxiv.org/abs/2403.17608
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from ..errors import ImageError
from ..images import load_image
from ..prediction import ImageInfo
from .datasets import Sample, shared_groups

DEFAULT_LIMIT = 0.6
_FORMATS = ("JPEG", "PNG", "WEBP", "MPO", "GIF", "BMP", "TIFF", "AVIF")
_EDGE_BYTES = 24
_NEAR = 3  # bits of 64 in which the hashes of near-duplicates differ at most


@dataclass(frozen=True)
class Audit:
    """Result of `audit`.

    Attributes:
        pictures: Number that decoded.
        undecodable: One line for each that did not.
        auroc: Group of facts -> cross-validated AUROC of the label; 0.5 is none of it, 1 is all.
        shared_groups: Groups in more than one split.
        near_duplicates: Pairs of files in different splits that look the same.
        limit: AUROC from which a group of facts is a shortcut.
    """

    pictures: int
    undecodable: tuple[str, ...]
    auroc: dict[str, float]
    shared_groups: tuple[str, ...]
    near_duplicates: tuple[tuple[str, str], ...]
    limit: float

    @property
    def shortcuts(self) -> list[str]:
        """Groups of facts whose AUROC exceeds the limit."""
        return [name for name, value in self.auroc.items() if value > self.limit]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready facts."""
        return {**asdict(self), "shortcuts": self.shortcuts}

    def table(self) -> str:
        """The result as Markdown."""
        lines = ["| facts | AUROC of the label | |", "|---|---|---|"]
        for name, value in self.auroc.items():
            lines.append(f"| {name} | {value:.3f} | {'SHORTCUT' if value > self.limit else ''} |")
        lines += [
            "",
            f"{self.pictures} pictures, {len(self.undecodable)} undecodable; {len(self.shared_groups)} groups and "
            f"{len(self.near_duplicates)} pairs of near-duplicates lie in several splits.",
        ]
        return "\n".join(lines)


def audit(samples: Sequence[Sample], *, limit: float = DEFAULT_LIMIT) -> Audit:
    """Measures the shortcuts of labelled pictures.

    Args:
        samples: Pictures of both classes, at least 10 groups of each.
        limit: AUROC in (0.5, 1].

    Raises:
        ValueError: One class is missing, or there are too few groups to cross-validate.
    """
    facts: list[dict[str, list[float]]] = []
    good: list[Sample] = []
    hashes: list[int] = []
    failures: list[str] = []
    for sample in samples:
        try:
            pixels, info = load_image(sample.path)
        except ImageError as error:
            failures.append(f"{sample.path}: {type(error).__name__}: {error}")
            continue
        good.append(sample)
        facts.append(_facts(sample.path, info))
        hashes.append(_difference_hash(pixels.permute(1, 2, 0).numpy()))
    labels = np.array([sample.label for sample in good])
    groups = np.unique([sample.group for sample in good], return_inverse=True)[1]
    for label in (0, 1):
        if len(np.unique(groups[labels == label])) < 10:
            raise ValueError("An audit needs at least 10 groups of real and 10 of AI-generated pictures.")
    auroc = {name: _predictability(np.array([fact[name] for fact in facts]), labels, groups) for name in facts[0]}
    together = np.array([list(itertools.chain(*fact.values())) for fact in facts])
    auroc["all of these"] = _predictability(together, labels, groups)
    leaks = tuple(sorted(shared_groups(good)))
    return Audit(len(good), tuple(failures), auroc, leaks, _near_duplicates(good, hashes), limit)


def _facts(path: Path, info: ImageInfo) -> dict[str, list[float]]:
    data = path.read_bytes()
    edges = data[:_EDGE_BYTES].ljust(_EDGE_BYTES, b"\0") + data[-4:].rjust(4, b"\0")
    size = info.width * info.height
    return {
        "format": [float(_FORMATS.index(info.format)) if info.format in _FORMATS else -1.0],
        "JPEG quality": [float(info.jpeg_quality or -1)],
        "size": [float(info.width), float(info.height)],
        "aspect": [info.width / info.height],
        "file size": [float(len(data)), len(data) / size],
        "first and last bytes": [float(byte) for byte in edges],
    }


def _predictability(values: NDArray[np.float64], labels: NDArray[Any], groups: NDArray[Any]) -> float:
    leaf = max(2, min(10, len(labels) // 20))
    model = RandomForestClassifier(n_estimators=40, min_samples_leaf=leaf, random_state=0)
    folds = GroupKFold(n_splits=5)
    predicted = cross_val_predict(model, values, labels, groups=groups, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(labels, predicted))


def _difference_hash(pixels: NDArray[np.uint8]) -> int:
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=int)
    return int(np.packbits(small[:, 1:] > small[:, :-1]).view(">u8")[0])


def _near_duplicates(samples: Sequence[Sample], hashes: Sequence[int]) -> tuple[tuple[str, str], ...]:
    codes = np.array(hashes, dtype=np.uint64)
    splits = np.unique([sample.split for sample in samples], return_inverse=True)[1]
    pairs = []
    for i in range(len(samples)):
        # A flat picture has an almost empty hash, which says nothing.
        if not 8 <= int(codes[i]).bit_count() <= 56:
            continue
        near = np.bitwise_count(codes[i + 1 :] ^ codes[i]) <= _NEAR
        others = np.flatnonzero(near & (splits[i + 1 :] != splits[i])) + i + 1
        pairs += [(samples[i].path.name, samples[j].path.name) for j in others.tolist()]
    return tuple(pairs)
