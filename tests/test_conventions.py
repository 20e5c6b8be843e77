"""The shapes that users of transformers, scikit-learn, pandas and torchvision expect."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from aigidetect import Failure, ImageError, Prediction

from .conftest import array


@pytest.fixture
def pipe(detector):
    return detector.as_pipeline()


def test_one_picture_gives_a_list_of_labels_by_falling_score(detector, pipe):
    for seed in range(4):
        picture = array(seed=seed)
        answer = pipe(picture)
        assert [answer[0]["score"], answer[1]["score"]] == sorted((label["score"] for label in answer), reverse=True)
        scores = {label["label"]: label["score"] for label in answer}
        assert scores.keys() == {"ai", "real"} and scores["ai"] + scores["real"] == pytest.approx(1)
        assert scores["ai"] == detector.predict(picture).probability
        assert all(list(label) == ["label", "score"] for label in answer)
        assert pipe(picture, top_k=1) == answer[:1] and pipe(picture, top_k=None) == answer


def test_a_list_gives_a_list_of_lists_whatever_the_batch_size(pipe):
    pictures = [array(seed=seed) for seed in range(5)]
    answers = pipe(pictures, batch_size=8)
    assert len(answers) == 5 and all(isinstance(answer, list) for answer in answers)
    for size in (1, 2):
        for found, expected in zip(pipe(pictures, batch_size=size), answers):
            assert [label["label"] for label in found] == [label["label"] for label in expected]
            assert found[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
    assert pipe([]) == []


def test_a_generator_is_answered_as_it_goes(pipe):
    taken = []

    def pictures():
        for seed in range(6):
            taken.append(seed)
            yield array(seed=seed)

    answers = pipe(pictures(), batch_size=2)
    assert taken == []
    assert next(answers) == pipe(array(seed=0))
    assert taken == [0, 1]
    assert len(list(answers)) == 5


def test_an_input_without_a_score_raises_or_is_recorded_in_its_place(pipe, folder):
    paths = [str(folder / name) for name in ("a.jpg", "c.png", "b.png")]
    with pytest.raises(ImageError):
        pipe(paths)
    with pytest.raises(ImageError):
        pipe(str(folder))
    answers = pipe(paths, batch_size=3, on_error="record")
    assert [isinstance(answer, Failure) for answer in answers] == [False, True, False]
    assert answers[1].source == paths[1]
    assert isinstance(pipe(paths[1], on_error="record"), Failure)
    for wrong in ({"batch_size": 0}, {"top_k": 0}, {"on_error": "ignore"}):
        with pytest.raises(ValueError, match="Expected"):
            pipe(paths, **wrong)


def test_scores_are_arrays_of_what_was_scored_and_name_what_was_not(detector, folder):
    paths = sorted(folder.rglob("*.*"))
    scores = detector.scores(folder)
    records = [detector.predict(path) for i, path in enumerate(paths) if i != 2]
    assert scores.index.tolist() == [0, 1, 3] and list(scores.failures) == [2]
    assert scores.failures[2].source == str(paths[2])
    np.testing.assert_allclose(scores.probability, [record.probability for record in records], atol=1e-5)
    assert scores.verdict.tolist() == [record.verdict for record in records]
    assert scores.sources == tuple(record.source for record in records)
    assert np.isfinite(scores.probability).all() and scores.probability.dtype == np.float64
    labels = np.array([0, 1, 1, 1])
    assert 0 <= roc_auc_score(labels[scores.index], scores.probability) <= 1
    empty = detector.scores([])
    assert empty.probability.shape == empty.index.shape == (0,) and not empty.failures


def test_a_frame_has_a_row_for_every_record_and_always_the_same_columns(detector, folder):
    pytest.importorskip("pandas", reason="pandas is needed for frames")
    frame = detector.to_frame(folder)
    records = detector.predict_folder(folder)
    assert frame["source"].tolist() == [record.source for record in records]
    assert frame["ok"].tolist() == [True, True, False, True]
    for i, record in enumerate(records):
        row = frame.iloc[i]
        if isinstance(record, Prediction):
            assert (row["verdict"], row["format"], row["width"]) == (record.verdict, record.image.format, record.image.width)
            assert row["probability"] == pytest.approx(record.probability, abs=1e-5)
        else:
            assert np.isnan(row["probability"]) and (row["error"], row["message"]) == (record.error, record.message)
    assert list(detector.to_frame([]).columns) == list(frame.columns)
    assert {"uncertainty_std", "stability_flips"} <= set(frame.columns) and frame.columns.is_unique


def test_a_missing_pandas_says_what_to_install(detector, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aigidetect\[pandas\]'"):
        detector.to_frame([])


def test_transforms_make_the_views_that_the_network_sees(detector):
    picture = array(50, 40)
    views = detector.transforms(Image.fromarray(picture))
    pixels = torch.from_numpy(picture).permute(2, 0, 1)
    assert views.shape == (4, 3, 32, 32) and views.dtype == torch.float32
    assert torch.equal(views, detector.transforms(pixels)) and torch.equal(views, detector.preprocess(pixels))
    assert detector.view_logits([views]) == [detector.predict(picture).view_logits]
    # As a data set in other processes needs it, and without the network.
    copied = pickle.dumps(detector.transforms)
    assert torch.equal(pickle.loads(copied)(picture), views) and len(copied) < 1000
