"""The public promise: one record for each input, in order, and the same score however it comes in."""

import io
import json
import pickle
import random
import threading
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from aigidetect import Calibration, Detector, Failure, ImageError, Prediction, Tiles, WeightsError

from .conftest import array, encoded

PICTURES = [array(30 + 7 * i, 25 + 11 * i, seed=i) for i in range(6)]


def test_every_kind_of_input_of_one_picture_gets_one_score(detector, tmp_path):
    pixels = array()
    data = encoded(pixels, "png")
    (tmp_path / "x.png").write_bytes(data)
    kinds = [
        tmp_path / "x.png", str(tmp_path / "x.png"), data, bytearray(data), io.BytesIO(data), Image.fromarray(pixels),
        pixels, np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]), pixels / 255,
        torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(pixels / 255).permute(2, 0, 1).float(),
    ]  # fmt: skip
    scores = [detector.predict(kind).probability for kind in kinds]
    assert max(scores) - min(scores) < 1e-6


def test_a_prediction_says_everything_about_itself(detector):
    record = detector.predict(encoded(array(), "jpg", quality=83), fpr=0.01)
    assert isinstance(record, Prediction) and record.ok
    assert (record.detector, record.fpr, record.threshold) == ("toy@1", 0.01, 0.9)
    assert record.label == record.verdict in ("real", "ai", "unsure")
    assert len(record.view_logits) == 4 and record.image.jpeg_quality == 83
    assert record.probability == pytest.approx(1 / (1 + np.exp(-record.logit)))
    assert record.logit == pytest.approx(np.mean(record.view_logits) / 0.05)
    assert json.loads(json.dumps(record.to_dict()))["image"]["width"] == 90
    with pytest.raises(FrozenInstanceError):
        record.probability = 0.0
    assert pickle.loads(pickle.dumps(record)) == record


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(6)), batch_size=st.integers(1, 20), workers=st.integers(1, 4))
def test_scores_do_not_depend_on_batch_size_workers_order_or_neighbours(detector, order, batch_size, workers):
    alone = [detector.predict(picture).view_logits for picture in PICTURES]
    records = detector.stream([PICTURES[i] for i in order], batch_size=batch_size, workers=workers)
    for i, record in zip(order, records, strict=True):
        assert record.view_logits == pytest.approx(alone[i], abs=1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(good=st.lists(st.booleans(), max_size=30), batch_size=st.integers(1, 9))
def test_any_mix_of_good_and_bad_gives_one_record_each_in_order(detector, good, batch_size):
    data = encoded(PICTURES[0], "png")
    inputs = [data if is_good else data[: len(data) // 2] for is_good in good]
    assert [record.ok for record in detector.stream(inputs, batch_size=batch_size)] == good
    assert [record.ok for record in detector.predict(inputs)] == good


def test_a_folder_is_scored_in_sorted_order_with_failures_in_place(detector, folder):
    records = detector.predict_folder(folder)
    assert [Path(record.source).name for record in records] == ["a.jpg", "b.png", "c.png", "d.webp"]
    assert [record.ok for record in records] == [True, True, False, True]
    assert isinstance(records[2], Failure) and records[2].error == "ImageTruncated" and records[2].message


def test_recursion_can_be_switched_off(detector, folder):
    assert len(list(detector.stream(folder, recursive=False))) == 3


def test_single_bad_inputs_raise_and_lists_record(detector, folder):
    with pytest.raises(ImageError):
        detector.predict(folder / "c.png")
    with pytest.raises(TypeError):
        detector.predict(3.5)
    records = detector.predict([folder / "a.jpg", 3.5, "https://example.org/cat.jpg", folder / "missing.jpg"])
    assert [record.ok for record in records] == [True, False, False, False]
    assert records[1].error == "TypeError" and "download" in records[2].message


def test_on_error_raise_yields_what_came_before(detector, folder):
    seen = []
    with pytest.raises(ImageError):
        for record in detector.stream(folder, on_error="raise", batch_size=1):
            seen.append(record)
    assert [Path(record.source).name for record in seen] == ["a.jpg", "b.png"]


def test_streams_are_lazy_and_leave_no_threads(detector):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield PICTURES[len(taken) % 6]

    stream = detector.stream(endless(), batch_size=4, workers=2)
    assert not taken
    for _ in range(10):
        assert next(stream).ok
    assert len(taken) < 40
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aigidetect")]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}, {"on_error": "ignore"}, {"fpr": 0.3}])
def test_wrong_options_are_refused_at_the_call(detector, options):
    with pytest.raises(ValueError):
        detector.stream([], **options)


def test_an_empty_source_gives_no_records(detector, tmp_path):
    assert list(detector.stream([])) == [] and list(detector.stream(tmp_path)) == [] and detector.predict([]) == []


def test_progress_is_reported_to_a_function(detector):
    counts = []
    list(detector.stream(PICTURES, progress=counts.append))
    assert counts == [1, 2, 3, 4, 5, 6]


def test_a_logit_that_is_not_finite_is_an_error_and_not_a_score(detector):
    with torch.no_grad():
        detector.network.fc.bias.fill_(float("nan"))
    with pytest.raises(WeightsError, match="not finite"):
        detector.predict(PICTURES[0])


def test_anyone_may_build_a_detector_from_parts():
    class Brightness(torch.nn.Module):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3))[:, None]

    detector = Detector(Brightness(), Tiles(size=16), Calibration(), device="cpu")
    records = detector.predict([np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)])
    assert [record.verdict for record in records] == ["real", "ai"]
    assert records[0].fpr is None and records[0].weights_sha256 is None


def test_half_precision_agrees_with_single_precision(detector):
    half = Detector(detector.network, detector.preprocess, detector.calibration, device="cpu", dtype=torch.bfloat16)
    reference = [array(seed=s) for s in range(3)]
    low = [record.view_logits for record in half.predict(reference)]
    high = [record.view_logits for record in detector.predict(reference)]
    np.testing.assert_allclose(low, high, atol=0.02)


def test_the_order_survives_many_threads(detector):
    sizes = [random.Random(i).randint(8, 60) for i in range(60)]
    records = detector.stream((array(n, n + 1) for n in sizes), workers=8, batch_size=5)
    assert [record.image.height for record in records] == sizes
