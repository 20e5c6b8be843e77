"""What `evaluate` stores of random weights: the deviation of each probability over their draws."""

import csv
import json
import logging

import pytest
import torch
from PIL import Image

from aigidetect import Calibration, Detector, Draws, Tiles
from aigidetect.calibration import sigmoid
from aigidetect.training.augment import apply_condition
from aigidetect.training.evaluate import read_scores
from aigidetect.training.score_folders import evaluate, read_evaluation

from .conftest import Toy
from .small_models.bayesian import build

CONDITIONS = ("as-is", "q75", "swap", "q96")
CALIBRATION = Calibration(temperature=0.5, bias=0.1)


def bayesian():
    torch.manual_seed(3)
    return Detector(build(), Tiles(size=16), CALIBRATION, name="toy@1", device="cpu", draws=Draws(samples=9, seed=4))


@pytest.fixture(scope="module")
def folder(samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("scores")
    evaluate(bayesian(), samples, ["train"], out, CONDITIONS)
    return out


def columns(path):
    with open(path, newline="") as file:
        return next(csv.reader(file))


def test_every_picture_and_condition_has_the_deviation_of_its_prediction(samples, folder):
    detector, (facts, scores) = bayesian(), read_evaluation(folder)
    assert facts["draws"] == {"samples": 9, "seed": 4, "calibration": CALIBRATION.to_dict()}
    assert len(scores) == len(samples) * len(CONDITIONS) and len({s.deviation for s in scores}) > len(samples)
    paths = {sample.path.name: sample for sample in samples}
    for score in scores[:16]:
        image = Image.open(paths[score.file].path).convert("RGB")
        record = detector.predict(apply_condition(image, score.condition, is_ai=score.label == 1))
        assert score.deviation == pytest.approx(record.uncertainty.std, rel=1e-4)
        assert score.probability == pytest.approx(record.probability, rel=1e-4)


def test_detectors_without_random_weights_have_neither_deviations_nor_columns(samples, tmp_path):
    evaluate(Detector(Toy(), Tiles(size=32), Calibration(), device="cpu"), samples, ["train"], tmp_path, ["as-is"])
    facts, scores = read_evaluation(tmp_path)
    assert "draws" not in facts and {score.deviation for score in scores} == {None}
    assert columns(tmp_path / "train.csv")[-1] == "as-is"


def test_a_shift_leaves_out_columns_and_rows_after_the_condition(samples, tmp_path):
    detector = Detector(Toy(), Tiles(size=32), Calibration(), device="cpu")
    evaluate(detector, samples[:3], ["train"], tmp_path, ["q75"], shift=(1, 2))
    facts, scores = read_evaluation(tmp_path)
    for sample, score in zip(samples, scores):
        seen = apply_condition(Image.open(sample.path).convert("RGB"), "q75", is_ai=sample.label == 1)
        assert score.probability == pytest.approx(detector.predict(seen.crop((1, 2, *seen.size))).probability, rel=1e-4)
        assert score.probability != pytest.approx(detector.predict(seen).probability, rel=1e-6)
    assert facts["shift"] == [1, 2]


def test_a_file_of_an_older_version_is_read_without_deviations(folder, tmp_path):
    with open(folder / "train.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if not k.startswith("deviation")} for row in csv.DictReader(file)]
    with open(tmp_path / "train.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    old, new = (read_scores(path / "train.csv", CALIBRATION) for path in (tmp_path, folder))
    assert {score.deviation for score in old} == {None} and None not in {score.deviation for score in new}
    assert [score.probability for score in old] == [score.probability for score in new]


def test_deviations_of_another_calibration_are_left_out_with_a_warning(folder, tmp_path, caplog):
    (tmp_path / "train.csv").write_text((folder / "train.csv").read_text())
    facts = json.loads((folder / "evaluation.json").read_text())
    facts["calibration"]["temperature"] = 2.0  # as `calibrate` does
    (tmp_path / "evaluation.json").write_text(json.dumps(facts))
    with caplog.at_level(logging.WARNING):
        _, scores = read_evaluation(tmp_path)
    assert "evaluate it again" in caplog.text and {score.deviation for score in scores} == {None}
    assert scores[0].probability == pytest.approx(sigmoid(scores[0].logit / 2 + 0.1))
