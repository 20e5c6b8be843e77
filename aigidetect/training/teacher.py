"""Opinions of training pictures by heads that do not know where they come from.

A head that has seen a picture repeats its label. So the logits come from heads that saw neither the picture's model line
nor, for photographs, its source (`heads.out_of_fold`): they say how generated a picture looks to somebody who does not
know. A smaller network can learn from them beside the labels, and a calibration can take account of them.

References:
    | Distilling the Knowledge in a Neural Network (Hinton et al., 2015)
    | https://arxiv.org/abs/1503.02531
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, tensor

from .datasets import Sample
from .features import FeatureCache
from .heads import HeadConfig, features_for, out_of_fold
from .metrics import expit

Key = tuple[str, str, str]
_COLUMNS = ("source", "group", "file", "label", "logits")


def key_of(sample: Sample) -> Key:
    """What names a picture in the file: source, group and file name."""
    return sample.source, sample.group, Path(sample.path).name


@dataclass(frozen=True)
class Opinion:
    """What the heads say of one picture.

    Attributes:
        label: 1 AI-generated, 0 real; not known to them.
        logits: One for each view.
    """

    label: int
    logits: tuple[float, ...]

    def pooled(self, views: int) -> Opinion:
        """Means of so many views each, as a detector has them that pools as many; views left over are left out.

        Raises:
            ValueError: There are fewer views.
        """
        if not 1 <= views <= len(self.logits):
            raise ValueError(f"Expected 1 to {len(self.logits)} views, as there are, but got {views}.")
        starts = range(0, len(self.logits) - views + 1, views)
        return Opinion(self.label, tuple(sum(self.logits[i : i + views]) / views for i in starts))


def teach(
    caches: Sequence[FeatureCache], samples: Sequence[Sequence[Sample]], config: HeadConfig, *, folds: int = 5
) -> dict[Key, Opinion]:
    """Opinions of the pictures of the first cache, from heads that saw no picture of their line or source.

    Args:
        caches: Caches of train; those after the first hold aligned fakes, which the heads also see where `config.aligned` is
            not 0.
        samples: The pictures of each, in its order.
        config: How each head is fitted.
        folds: See `out_of_fold`.

    Raises:
        ValueError: Two pictures have the same key.
    """
    used = len(caches) if config.aligned else 1
    cut = [features_for(cache, config) for cache in caches[:used]]
    logits = out_of_fold(cut[0], samples[0], config, folds=folds, aligned=list(zip(cut[1:], samples[1:used])))
    result = {key_of(s): Opinion(s.label, tuple(map(float, own))) for s, own in zip(samples[0], logits.T)}
    if len(result) < len(samples[0]):
        raise ValueError(f"{len(samples[0]) - len(result)} pictures share source, group and file name with another.")
    return result


def write_teacher(path: str | Path, opinions: Mapping[Key, Opinion]) -> None:
    """Writes the opinions as CSV, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for key, opinion in opinions.items():
            writer.writerow([*key, opinion.label, " ".join(f"{logit:.5g}" for logit in opinion.logits)])
    os.replace(temporary, path)


def read_teacher(path: str | Path) -> dict[Key, Opinion]:
    """Reads what `write_teacher` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has other columns.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise ValueError(f"Expected the columns {list(_COLUMNS)} in {path}, but found {reader.fieldnames}.")
        return {
            (row["source"], row["group"], row["file"]): Opinion(int(row["label"]), tuple(map(float, row["logits"].split())))
            for row in reader
        }


def soft_targets(samples: Sequence[Sample], opinions: Mapping[Key, Opinion], share: float) -> Tensor:
    """Targets between label and teacher.

    Args:
        samples: Training pictures.
        opinions: One for each of them; the teacher's probability is that of the mean logit.
        share: Weight of the teacher's probability, in [0, 1]; the rest is the label's.

    Returns:
        (N,) float32 in [0, 1].

    Raises:
        ValueError: Pictures without an opinion; the message counts them and names one.
    """
    if missing := [sample for sample in samples if key_of(sample) not in opinions]:
        raise ValueError(
            f"The teacher has no opinion of {len(missing)} of {len(samples)} pictures, the first being {missing[0].path}; "
            "make its file on the same data."
        )
    probabilities = expit(np.array([np.mean(opinions[key_of(sample)].logits) for sample in samples]))
    return tensor(share * probabilities + (1 - share) * np.array([sample.label for sample in samples])).float()
