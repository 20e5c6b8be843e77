"""Probability, thresholds and verdict."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigidetect.calibration import Calibration, Threshold, sigmoid

POINTS = (Threshold(0.01, 0.9, 0.05, 100, 100, 0.0, 0.03), Threshold(0.05, 0.7, 0.2, 100, 100, 0.02, 0.09))
CALIBRATION = Calibration(temperature=2.0, bias=0.5, thresholds=POINTS)
finite = st.floats(-1e3, 1e3)


@given(a=finite, b=finite)
def test_probability_is_monotone_in_the_logit(a, b):
    low, high = sorted((a, b))
    assert 0 <= sigmoid(CALIBRATION.logit([low])) <= sigmoid(CALIBRATION.logit([high])) <= 1


@given(st.lists(finite, min_size=1, max_size=9))
def test_pooling_does_not_depend_on_the_order_of_the_views(logits):
    for pool in ("mean", "max", "median"):
        calibration = Calibration(pool=pool)
        assert calibration.pooled(logits) == calibration.pooled(logits[::-1])
        assert min(logits) - 1e-9 <= calibration.pooled(logits) <= max(logits) + 1e-9


def test_pools_are_what_their_names_say():
    logits = [1.0, 2.0, 6.0, 3.0]
    assert [Calibration(pool=p).pooled(logits) for p in ("mean", "max", "median")] == [3.0, 6.0, 2.5]
    assert Calibration(pool="median").pooled([5.0, 1.0, 2.0]) == 2.0


def test_logit_is_divided_by_the_temperature_before_the_bias_is_added():
    assert CALIBRATION.logit([3.0, 5.0]) == 2.5


@pytest.mark.parametrize(
    ("probability", "fpr", "verdict"),
    [
        (0.69, None, "unsure"), (0.70, None, "ai"), (0.2, None, "unsure"), (0.19, None, "real"),
        (0.8, 0.01, "unsure"), (0.9, 0.01, "ai"), (0.04, 0.01, "real"), (0.1, 0.01, "unsure"),
    ],
)  # fmt: skip
def test_verdict_is_unsure_between_the_two_points(probability, fpr, verdict):
    assert CALIBRATION.verdict(probability, fpr) == verdict


def test_a_rate_that_was_not_measured_is_refused_with_those_that_were():
    with pytest.raises(ValueError, match=r"0\.01, 0\.05"):
        CALIBRATION.threshold(0.02)
    with pytest.raises(ValueError, match="never calibrated"):
        Calibration().threshold(0.05)


def test_without_calibration_the_verdict_compares_with_one_half_at_an_unknown_rate():
    assert Calibration().threshold() == (0.5, 0.5, None)
    assert [Calibration().verdict(p) for p in (0.49, 0.5)] == ["real", "ai"]


def test_facts_make_an_equal_calibration():
    assert Calibration.from_dict(CALIBRATION.to_dict()) == CALIBRATION


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"bias": math.inf},
        {"pool": "min"},
        {"thresholds": [{"fpr": 1}]},
    ],
)
def test_broken_facts_are_refused(change):
    with pytest.raises((ValueError, TypeError)):
        Calibration.from_dict({**CALIBRATION.to_dict(), **change})


@pytest.mark.parametrize("change", [{"fpr": 0.0}, {"real_below": 0.8}, {"n_real": 0}, {"low": 0.5, "high": 0.1}])
def test_impossible_thresholds_are_refused(change):
    with pytest.raises(ValueError, match="threshold needs"):
        Threshold(**{**vars(POINTS[1]), **change})


def test_no_views_are_an_error_and_not_a_probability():
    with pytest.raises(ValueError, match="at least one"):
        CALIBRATION.logit([])


def test_sigmoid_does_not_overflow():
    assert sigmoid(-1e4) == 0.0 and sigmoid(1e4) == 1.0 and sigmoid(0) == 0.5
