"""What a Bayesian head changes and what its spread knows of errors, from synthetic scores."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from aigidetect.calibration import Calibration, sigmoid
from aigidetect.training import uncertainty_tables as sections
from aigidetect.training.__main__ import main
from aigidetect.training.augment import HEADLINE_CONDITIONS
from aigidetect.training.error_detection import (
    answers,
    aurc,
    class_accuracy,
    closeness,
    entropy,
    equal_bins,
    error_auroc,
    selective_risk,
)
from aigidetect.training.evaluate import headline_draws
from aigidetect.training.uncertainty_report import read_detectors, uncertainty_page

from .test_tables import markdown_rows, scores_of, write_folder

DRAWS = {"samples": 50, "seed": 0, "calibration": Calibration().to_dict()}


def scored(deviation=None, *, accuracy=0.8, shift=0.0, split="val", n=10):
    """Scores under the headline conditions; `deviation` is a function of the score, `shift` is added to the logits."""
    scores = []
    for s in scores_of(accuracy, split=split, n=n, conditions=HEADLINE_CONDITIONS):
        s = dataclasses.replace(s, logit=s.logit + shift, probability=sigmoid(s.logit + shift))
        scores.append(dataclasses.replace(s, deviation=deviation(s) if deviation else None))
    return scores


def wrong(s):
    return (s.probability >= 0.5) != bool(s.label)


def knows(s):
    return 0.3 if wrong(s) else 0.1 * s.probability


def noise(seed=0):
    rng = np.random.default_rng(seed)
    return lambda s: float(rng.uniform(0, 0.5))


def cells(triple):
    return float(triple.split(" ")[0])


def test_a_number_that_knows_the_errors_has_an_auroc_of_1_and_a_risk_that_falls():
    own = answers(scored(knows), draws=20)
    np.testing.assert_array_equal(sections.error_aurocs(own, own.deviations), 1)
    np.testing.assert_array_equal(sections.error_aurocs(own, -own.deviations), 0)
    risks = selective_risk(own.deviations[0], own.wrong[0], own.weights, (1.0, 0.95, 0.9, 0.85, 0.8, 0.5))
    np.testing.assert_allclose(risks[0], [0.2, 0.15 / 0.95, 0.1 / 0.9, 0.05 / 0.85, 0, 0], atol=1e-12)
    assert (np.diff(risks, axis=1) <= 1e-12).all()


def test_the_interval_of_a_number_that_knows_nothing_covers_one_half():
    covered = 0
    for seed in range(20):
        _, low, high = sections.interval(
            sections.error_aurocs(own := answers(scored(noise(seed)), draws=100), own.deviations)
        )
        assert high - low < 0.5
        covered += low <= 0.5 <= high
    assert covered >= 17


def test_the_auroc_of_errors_is_that_of_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(0)
    values, errors = rng.integers(0, 8, 60).astype(float), rng.random(60) < 0.3
    weights = rng.integers(0, 3, (4, 60)).astype(float)
    expected = [roc_auc_score(errors, values, sample_weight=row) for row in weights]
    np.testing.assert_allclose(error_auroc(values, errors, weights), expected)


def test_within_strata_only_pictures_of_one_stratum_are_compared():
    # Across the strata the larger numbers are right, and within each of them wrong.
    values, errors = np.array([1.0, 2, 3, 11, 12, 13]), np.array([False, True, True, False, False, True])
    strata = np.array([0, 0, 0, 1, 1, 1])
    ones = np.ones((1, 6))
    assert error_auroc(values, errors, ones)[0] == pytest.approx(5 / 9)
    assert error_auroc(values, errors, ones, strata)[0] == 1
    assert np.isnan(error_auroc(values, np.zeros(6, dtype=bool), ones, strata)[0])


def test_bins_hold_equal_shares_and_leave_a_function_of_closeness_nothing_to_add():
    values = np.random.default_rng(0).random(50)
    assert np.bincount(equal_bins(values)).tolist() == [10] * 5
    own = answers(scored(lambda s: float(closeness(np.array(s.probability)) ** 2 / 4)), draws=20)
    for bins in (1, 5):
        difference = sections.error_aurocs(own, own.deviations, bins=bins) - sections.error_aurocs(
            own, closeness(own.probabilities), bins=bins
        )
        np.testing.assert_array_equal(difference, 0)


def test_entropy_orders_pictures_as_closeness_does_and_is_largest_at_one_half():
    p = np.linspace(0, 1, 201)
    assert entropy(p)[100] == pytest.approx(np.log(2)) and closeness(p)[100] == 1
    assert entropy(p)[[0, -1]] == pytest.approx(0) and closeness(p)[[0, -1]].tolist() == [0, 0]
    for half in (slice(0, 101), slice(200, 99, -1)):
        assert (np.diff(entropy(p)[half]) > 0).all() and (np.diff(closeness(p)[half]) > 0).all()


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([0, 1, 0, 1], (0 + 1 / 2 + 1 / 3 + 2 / 4) / 4),
        ([0, 0, 1, 1], (0 + 0 + 1 / 3 + 2 / 4) / 4),
        ([1, 1, 0, 0], (1 + 1 + 2 / 3 + 2 / 4) / 4),
    ],
)
def test_the_area_under_the_risk_coverage_curve_has_its_closed_form(order, expected):
    errors, uncertainty = np.array(order, dtype=bool), np.arange(4.0)
    assert aurc(uncertainty, errors, np.ones((1, 4)))[0] == pytest.approx(expected)
    # In what order the pictures are given does not matter.
    assert aurc(uncertainty[::-1], errors[::-1], np.ones((1, 4)))[0] == pytest.approx(expected)


def test_equally_certain_pictures_are_in_no_order_and_a_weight_is_a_repetition():
    errors = np.array([True, False, False, True, False])
    assert aurc(np.zeros(5), errors, np.ones((1, 5)))[0] == pytest.approx(0.4)
    np.testing.assert_allclose(selective_risk(np.zeros(5), errors, np.ones((1, 5)), (1.0, 0.5, 0.1)), 0.4)
    times, values = np.array([2, 0, 3, 1, 1]), np.array([0.1, 0.2, 0.3, 0.3, 0.5])
    repeated = (np.repeat(values, times), np.repeat(errors, times), np.ones((1, 7)))
    weighted = (values, errors, times[None].astype(float))
    for figure in (error_auroc, aurc, lambda *given: selective_risk(*given, (1.0, 0.6))):
        np.testing.assert_allclose(figure(*weighted), figure(*repeated))


def test_accuracies_and_their_samples_are_those_of_the_results():
    scores = scored(shift=0.8)
    own, expected = answers(scores, draws=3), headline_draws(scores, 3)
    for ai, figure in ((False, "real_accuracy"), (True, "ai_accuracy")):
        np.testing.assert_allclose(class_accuracy(own, ai=ai), [drawn[figure] for drawn in expected])


def balance(scores, other):
    text = sections.balance_section({"plain": scores, "bnn": other}, draws=10)
    return text, markdown_rows(text, "| bnn | val | before calibration")


def test_renaming_the_classes_turns_the_balance_round_and_keeps_the_accuracy():
    plain, leaning = scored(), scored(shift=0.8)
    text, (own, difference) = balance({"val": plain}, {"val": leaning})
    renamed = [
        [dataclasses.replace(s, label=1 - s.label, logit=-s.logit, probability=1 - s.probability) for s in scores]
        for scores in (plain, leaning)
    ]
    swapped_text, (swapped, swapped_difference) = balance(*({"val": scores} for scores in renamed))
    assert cells(own[6]) == -cells(swapped[6]) > 0 and own[3] == swapped[4] and own[5] == swapped[5]
    assert cells(difference[6]) == -cells(swapped_difference[6]) == pytest.approx(cells(own[4]) - cells(own[3]), abs=1e-3)
    assert "before calibration: leans more to AI in val" in text
    assert "before calibration: leans more to real in val" in swapped_text


def test_the_same_scores_make_no_difference_beyond_the_interval():
    text, (_, difference) = balance({"val": scored()}, {"val": scored()})
    assert set(difference[3:]) == {"+0.000 (+0.000 to +0.000)"}
    assert text.count(f"{sections.SAME} in val") == 4


def test_calibration_is_undone_for_the_balance_before_it():
    scores = [dataclasses.replace(s, probability=sigmoid(s.logit + 9)) for s in scored()]
    text = sections.balance_section({"plain": {"val": scores}, "bnn": {"val": scores}}, draws=5)
    rows = {row[2]: row for row in markdown_rows(text, "| plain | val")}
    assert cells(rows["before calibration"][3]) == cells(rows["before calibration"][4]) == 0.8
    assert cells(rows["after calibration"][3]) == 0 and cells(rows["after calibration"][4]) == 1


def test_the_reports_own_balance_is_shown_with_the_classes_named_rightly():
    rows = {(row[0], row[1]): row for row in markdown_rows(sections.report_section(), "| ResNet50")}
    assert rows["ResNet50+BNN", "report, corrected"][2:4] == ["80.83", "81.51"]
    assert rows["ResNet50+BNN", "report, corrected"][5:] == ["+0.68", "-12.03"]
    assert "-12.03 points for ResNet50+BNN and -8.14 points for ResNet50+Attn+BNN" in sections.report_section()


def test_findings_follow_the_intervals():
    nan = float("nan")
    found = {
        "a": (0.2, 0.1, 0.3),
        "b": (0.2, -0.1, 0.3),
        "c": (-0.2, -0.3, -0.1),
        "d": (nan, nan, nan),
        "e": (1.0, 0.5, 1.5),
    }
    said = sections.finding(found, "up", "down")
    assert re.fullmatch(
        rf"up in a \+0.2.*, e \+1.0.*; down in c -0.2.*; {sections.SAME} in b .*; {sections.UNKNOWN} in d\.", said
    )


def test_sections_say_what_the_spread_knows():
    found = {name: {"val": answers(scored(own), draws=30)} for name, own in (("knows", knows), ("noise", noise()))}
    errors, risk = sections.error_section(found), sections.risk_section(found)
    assert "`knows`, AUROC of deviation minus that of closeness: higher in val" in errors
    said = re.findall(r"more of errors than the score in ([^.]*)\.", errors)
    assert said == ["val", "no part"]
    rows = {(row[0], row[2]): row for row in markdown_rows(risk, "|")}
    assert [cells(c) for c in rows["knows", "deviation"][3:8]] == [0.8, 0.889, 1.0, 1.0, 1.0]
    assert cells(rows["noise", "deviation"][3]) == cells(rows["noise", "closeness"][3]) == 0.8
    assert "`knows`, AURC by deviation minus that by closeness: lower, so better, in val" in risk
    assert "`knows`, accuracy of the half that is kept by deviation minus that of all: higher in val +0.200" in risk
    assert "`noise`, AURC by deviation minus that by closeness: lower" not in risk


def test_a_spread_that_only_repeats_closeness_is_not_said_to_know_more():
    rng = np.random.default_rng(0)
    scores = []
    for s in scored(accuracy=1.0, n=100):
        near = rng.random()
        # The closer to 0.5, the likelier an error.
        called_ai = bool(s.label) != (rng.random() < near**3)
        p = 1 - near / 2 if called_ai else near / 2
        scores.append(dataclasses.replace(s, probability=p, deviation=near / 4))
    own = answers(scores, draws=30)
    overall, within = (sections.interval(sections.error_aurocs(own, own.deviations, bins=bins)) for bins in (1, 5))
    assert overall[1] > within[2] and within[1] > 0.5
    assert "than the score in no part." in sections.error_section({"repeats": {"val": own}})


def test_without_errors_nothing_is_said_to_be_known():
    text = sections.error_section({"perfect": {"val": answers(scored(noise(), accuracy=1.0), draws=5)}})
    assert text.count(f"{sections.UNKNOWN} in val") == 3 and "than the score in no part" in text


def folders(tmp_path, *named, **facts):
    return [write_folder(tmp_path / name, "net@1", scores, **facts) for name, scores in named]


def test_the_command_writes_a_page_with_its_figure(tmp_path):
    both = [scored(split="val") + scored(split="test_seen"), scored(noise(), split="val")]
    plain, bayesian = folders(tmp_path, ("plain", both[0]), ("bayesian", both[1]), draws=DRAWS)
    out = tmp_path / "uncertainty.md"
    assert main(["uncertainty", str(plain), str(bayesian), "--out", str(out), "--draws", "5"]) == 0
    page = out.read_text()
    assert "`val` 30 real and 30 AI-generated" in page and "not all detectors were evaluated on it: test_seen." in page
    assert [row[0] for row in markdown_rows(page, "| net@1") if row[1] == "val" and "after" in row[2]] == [
        "net@1", "net@1 (bayesian)", "net@1 (bayesian)",
    ]  # fmt: skip
    assert "| 50 draws |" in page and "](uncertainty.png)" in page
    with Image.open(tmp_path / "uncertainty.png") as image:
        assert image.format == "PNG" and image.width > 300


def test_deviations_of_another_calibration_are_not_used(tmp_path):
    plain, bayesian = folders(tmp_path, ("plain", scored()), ("bayesian", scored(noise())))
    facts = json.loads((bayesian / "evaluation.json").read_text())
    old = {**DRAWS, "calibration": Calibration(temperature=2).to_dict()}
    (bayesian / "evaluation.json").write_text(json.dumps({**facts, "draws": old}))
    uncertainty_page([plain, bayesian], tmp_path / "page.md", draws=2)
    page = (tmp_path / "page.md").read_text()
    assert "stored under another calibration: evaluate again" in page
    assert "deviation minus that" not in page and "| none stored |" in page


def test_folders_that_cannot_be_compared_are_refused(tmp_path, capsys):
    whole, part = scored(), scored(noise())
    named = [
        ("plain", whole),
        ("fewer", scored(n=5)),
        ("renamed", [dataclasses.replace(s, label=1 - s.label) for s in whole]),
        ("test", scored(split="test_seen")),
        ("half", [s for s in whole if s.condition != "half+q80"]),
        ("holes", [dataclasses.replace(part[0], deviation=None), *part[1:]]),
    ]
    plain, fewer, renamed, test, half, holes = folders(tmp_path, *named)
    for given, message in (
        ([plain], "at least two folders"),
        ([plain, fewer], "differ in 90 pictures"),
        ([plain, renamed], "labels"),
        ([plain, test], "No split is in all"),
    ):
        with pytest.raises(ValueError, match=message):
            read_detectors(given)
    assert main(["uncertainty", str(half), str(half), "--out", str(tmp_path / "x.md"), "--draws", "2"]) == 2
    assert "no score under 'half+q80'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="1 of 180 scores have no deviation"):
        uncertainty_page([plain, holes], tmp_path / "x.md", draws=2)
    assert not (tmp_path / "x.md").exists()


def test_without_matplotlib_the_page_says_which_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'aigidetect[plots]'")):
        uncertainty_page(folders(tmp_path, ("a", scored()), ("b", scored())), tmp_path / "x.md", draws=2)
