"""Folders of stored scores: one for each detector and data set, written once, read by every table."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..calibration import Calibration
from ..detector import Detector
from ..uncertainty import Sampled
from .augment import CONDITIONS
from .datasets import Sample, take_split
from .evaluate import Score, read_scores, score, write_scores

log = logging.getLogger(__name__)


def evaluate(
    detector: Detector,
    samples: Sequence[Sample],
    splits: Sequence[str],
    out: str | Path,
    conditions: Iterable[str] = CONDITIONS,
    *,
    shift: tuple[int, int] = (0, 0),
    seed: int | None = None,
    progress: bool = False,
) -> None:
    """Scores splits and stores what the tables need: `<split>.csv` and `evaluation.json`.

    Args:
        detector: The detector.
        samples: Labelled pictures of all splits.
        splits: Which of them to score.
        out: Folder of the scores; made if there is none.
        conditions: See `score`.
        shift: See `score`.
        seed: Seed of the training, where it is known.
        progress: See `Detector.stream`.

    Raises:
        ValueError: A split holds no pictures.
    """
    chosen = {split: take_split(list(samples), split) for split in splits}
    (folder := Path(out)).mkdir(parents=True, exist_ok=True)
    for split, part in chosen.items():
        write_scores(score(detector, part, conditions, shift=shift, progress=progress), folder / f"{split}.csv")
    trained = take_split(list(samples), "train") if any(s.split == "train" for s in samples) else []
    facts: dict[str, Any] = {
        "detector": detector.name,
        "seed": seed,
        "weights_sha256": detector.weights_sha256,
        "calibration": detector.calibration.to_dict(),
        "preprocess": detector.preprocess.to_dict(),
        "dtype": str(detector.dtype).removeprefix("torch."),
        "splits": list(splits),
        "train_lines": sorted({sample.line for sample in trained}),
    }
    if any(shift):
        facts["shift"] = list(shift)
    if isinstance(detector.network, Sampled):
        facts["draws"] = {**dataclasses.asdict(detector.draws), "calibration": facts["calibration"]}
    (folder / "evaluation.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_evaluation(folder: str | Path) -> tuple[dict[str, Any], list[Score]]:
    """What `evaluate` stored: the facts of `evaluation.json`, and the scores of all splits under its calibration.

    Deviations come from draws that are not stored. Where `calibrate` has changed the calibration since, they are left out,
    with a warning.
    """
    folder = Path(folder)
    facts: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    calibration = Calibration.from_dict(facts["calibration"])
    scores = [score for split in facts["splits"] for score in read_scores(folder / f"{split}.csv", calibration)]
    if facts.get("draws", {}).get("calibration", facts["calibration"]) != facts["calibration"]:
        log.warning("%s: its deviations are of another calibration and are left out; evaluate it again.", folder)
        scores = [dataclasses.replace(score, deviation=None) for score in scores]
    return facts, scores
