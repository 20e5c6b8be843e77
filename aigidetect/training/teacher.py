"""A teacher's opinion of each training picture, for a smaller network to learn beside the labels.

A teacher that has seen a picture repeats its label. So the logits come from heads that saw neither the picture's model line
nor, for photographs, its source (`heads.out_of_fold`): they say how generated a picture looks to somebody who does not know.

References:
    | Distilling the Knowledge in a Neural Network (Hinton et al., 2015)
    | https://arxiv.org/abs/1503.02531
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, tensor

from .datasets import Sample
from .features import FeatureCache
from .heads import HeadConfig, out_of_fold

Key = tuple[str, str, str]
_COLUMNS = ("source", "group", "file", "logit")


def key_of(sample: Sample) -> Key:
    """What names a picture in the file: source, group and file name."""
    return sample.source, sample.group, Path(sample.path).name


def teach(
    caches: Sequence[FeatureCache], samples: Sequence[Sequence[Sample]], config: HeadConfig, *, folds: int = 5
) -> dict[Key, float]:
    """Mean logit of each picture over its views, from heads that saw no picture of its line or source.

    Args:
        caches: Caches of train, with equally many complete views; the more of them counts as the number for all.
        samples: The pictures of each, in its order.
        config: How each head is fitted.
        folds: See `out_of_fold`.

    Raises:
        ValueError: Two pictures have the same key.
    """
    views = min(cache.complete for cache in caches)
    features = np.concatenate([cache.features[:views, :, cache.columns(config.blocks)] for cache in caches], axis=1)
    pictures = [sample for part in samples for sample in part]
    logits: NDArray[np.float32] = out_of_fold(features, pictures, config, folds=folds).mean(axis=0)
    result = {key_of(sample): float(logit) for sample, logit in zip(pictures, logits)}
    if len(result) < len(pictures):
        raise ValueError(f"{len(pictures) - len(result)} pictures share source, group and file name with another.")
    return result


def write_teacher(path: str | Path, logits: Mapping[Key, float]) -> None:
    """Writes the logits as CSV, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([*key, f"{logit:.5f}"] for key, logit in logits.items())
    os.replace(temporary, path)


def read_teacher(path: str | Path) -> dict[Key, float]:
    """Reads what `write_teacher` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has other columns.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise ValueError(f"Expected the columns {list(_COLUMNS)} in {path}, but found {reader.fieldnames}.")
        return {(row["source"], row["group"], row["file"]): float(row["logit"]) for row in reader}


def soft_targets(samples: Sequence[Sample], logits: Mapping[Key, float], share: float) -> Tensor:
    """Targets between label and teacher.

    Args:
        samples: Training pictures.
        logits: The teacher's, for each of them.
        share: Weight of the teacher's probability, in [0, 1]; the rest is the label's.

    Returns:
        (N,) float32 in [0, 1].

    Raises:
        ValueError: Pictures without a logit; the message counts them and names one.
    """
    if missing := [sample for sample in samples if key_of(sample) not in logits]:
        raise ValueError(
            f"The teacher has no logit for {len(missing)} of {len(samples)} pictures, the first being {missing[0].path}; "
            "make its file on the same data."
        )
    opinion = 1 / (1 + np.exp(-np.clip([logits[key_of(sample)] for sample in samples], -50, 50)))
    return tensor(share * opinion + (1 - share) * np.array([sample.label for sample in samples])).float()
