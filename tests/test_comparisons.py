"""Sections that set measured settings side by side, from synthetic scores."""

import json

import numpy as np
import pytest

from aigidetect.training.augment import HEADLINE_CONDITIONS
from aigidetect.training.comparisons import comparison_sections, mixture

from .test_tables import markdown_rows, scores_of, write_folder

CONDITIONS = ("as-is", *HEADLINE_CONDITIONS)


def described(tmp_path, rows, parts=("val",), conditions=("as-is", "headline")):
    section = {"title": "T", "text": "Words.", "parts": list(parts), "conditions": list(conditions), "rows": rows}
    path = tmp_path / "comparisons.json"
    path.write_text(json.dumps([section]), encoding="utf-8")
    return path


def folder(tmp_path, name, accuracy, **options):
    scores = [
        s for split in ("val", "test_seen") for s in scores_of(accuracy, split=split, conditions=CONDITIONS, **options)
    ]
    write_folder(tmp_path / name, name, scores)
    return {"name": name, "scores": name}


def test_each_row_is_compared_with_the_first_on_each_part_and_condition(tmp_path):
    rows = [folder(tmp_path, "a", 0.6), folder(tmp_path, "b", 0.9), folder(tmp_path, "c", 0.6)]
    text = comparison_sections(described(tmp_path, rows, ("val", "test_seen")), draws=10)
    found = [row for row in markdown_rows(text, "|") if row[0] in "abc"]
    assert [row[:3] for row in found[:4]] == [[n, "val", "as-is"] for n in "abc"] + [["a", "val", "headline"]]
    assert len(found) == 12 and {row[1] for row in found} == {"val", "test_seen"}
    for first, better, same in zip(found[::3], found[1::3], found[2::3]):
        assert first[3].startswith("0.600") and first[5] == first[6] == ""
        assert better[3].startswith("0.900") and better[5].startswith("+0.300")
        assert same[5] == same[6] == "+0.000 (+0.000 to +0.000)"


def test_other_pictures_and_missing_conditions_are_refused(tmp_path):
    rows = [folder(tmp_path, "a", 0.6), folder(tmp_path, "fewer", 0.6, n=5)]
    with pytest.raises(ValueError, match="'fewer' of 'T' was measured on other pictures"):
        comparison_sections(described(tmp_path, rows), draws=2)
    with pytest.raises(ValueError, match="not measured on val under q50"):
        comparison_sections(described(tmp_path, rows[:1], conditions=("q50",)), draws=2)


def test_a_mixture_with_no_weight_on_the_second_orders_pictures_as_the_first(tmp_path):
    a, b = scores_of(0.9, conditions=CONDITIONS), scores_of(0.7, conditions=CONDITIONS, seed=1)
    alone = mixture([a, b], (1.0, 0.0))
    assert np.array_equal(np.argsort([s.logit for s in alone]), np.argsort([s.logit for s in a]))
    both = mixture([a, b], (0.5, 0.5))
    expected = 0.5 * np.array([s.logit for s in a]) + 0.5 * np.array([s.logit for s in b])
    np.testing.assert_allclose([s.logit for s in both], expected, rtol=1e-6)
    # Another calibration of one of them, be it of its slope or its offset, is undone by the calibration of the mixture.
    calibrated = [s.probability for s in mixture([a, b], (1.0, 0.0))]
    np.testing.assert_allclose([s.probability for s in mixture([a, b], (3.0, 0.0))], calibrated, atol=1e-3)


def test_a_row_may_mix_two_detectors(tmp_path):
    folder(tmp_path, "a", 0.9)
    folder(tmp_path, "b", 0.9, seed=1)
    rows = [{"name": "a", "scores": "a"}, {"name": "mix", "scores": ["a", "b"], "weights": [0.5, 0.5]}]
    text = comparison_sections(described(tmp_path, rows), draws=5)
    assert [row[0] for row in markdown_rows(text, "|")][2:] == ["a", "mix", "a", "mix"]
    write_folder(tmp_path / "test-only", "t", scores_of(0.9, split="test_seen", conditions=CONDITIONS))
    rows[1]["scores"] = ["test-only", "test-only"]
    with pytest.raises(ValueError, match="Calibration needs scores"):
        comparison_sections(described(tmp_path, rows, ("test_seen",)), draws=2)
