"""The training package on a tiny data set: equal pipelines, resumable runs, metrics, calibration, export."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from aigidetect.calibration import Calibration, sigmoid
from aigidetect.preprocess import Tiles
from aigidetect.registry import entry_calibration, entry_preprocess
from aigidetect.training.__main__ import main
from aigidetect.training.augment import CONDITIONS, Augment, apply_condition, pad_reflect
from aigidetect.training.batches import Batches
from aigidetect.training.calibrate import calibrate, wilson
from aigidetect.training.datasets import Sample, load_pixels, read_index, take_split
from aigidetect.training.evaluate import Score, read_scores, score, subsets, summarise, swap_gap, write_scores
from aigidetect.training.fit import Run, fit
from aigidetect.training.metrics import bootstrap, expected_calibration_error, measure
from aigidetect.training.recipe import RECIPES, Recipe, load_recipe
from aigidetect.training.tables import results_page
from aigidetect.training.teacher import Opinion

from .conftest import array

TINY = Recipe(
    name="tiny", architecture="npr_resnet", config={"fusion": "multi"}, steps=6, batch_size=8,
    sizes=((0.5, 16), (0.5, 24)), label_smoothing=0.02, consistency=0.5,
)  # fmt: skip
COLUMNS = ("file", "label", "source", "line", "split", "group", "style")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 pictures of 6 sources; the generated ones have a grid that NPR sees."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(60):
        label = "ai" if i % 2 else "real"
        pixels = array(48, 56, seed=i)
        if label == "ai":
            pixels = pixels.repeat(2, axis=0).repeat(2, axis=1)[:48, :56]
        name = f"{label}-{i}.png"
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / name)
        split = ("train", "train", "train", "val", "test_unseen")[i // 2 % 5]
        line = f"line{i % 3}" if label == "ai" else "real"
        rows.append((name, label, f"{label}{i % 3}", line, split, f"g{i}", "photo" if i % 4 < 2 else "art"))
    text = "\n".join("\t".join(row) for row in [COLUMNS, *rows])
    (root / "index.tsv").write_text(text + "\n")
    return root


def test_an_index_is_read_and_a_group_never_crosses_towards_a_test(data, tmp_path):
    samples = read_index(data)
    assert len(samples) == 60 and sum(s.label for s in samples) == 30
    leaking = [*samples, Sample(data / "real-0.png", 0, "real0", "g0", "test_unseen")]
    assert len(take_split(leaking, "train")) == len(take_split(samples, "train")) - 1
    assert len(take_split(leaking, "test_unseen")) == len(take_split(samples, "test_unseen")) + 1
    with pytest.raises(ValueError, match="test_unseen"):
        take_split(samples, "tset")
    (tmp_path / "index.tsv").write_text("\t".join(COLUMNS) + "\nx.png\tfake\ts\tl\ttrain\tg\tphoto\n")
    with pytest.raises(ValueError, match="Line 2"):
        read_index(tmp_path)


def test_undecodable_files_are_listed_and_not_replaced(data, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((data / "real-0.png").read_bytes()[:-500])
    samples = [*read_index(data)[:3], Sample(broken, 0, "s", "g", "train")]
    good, pixels, failures = load_pixels(samples)
    assert (len(good), len(pixels), len(failures)) == (3, 3, 1) and "broken.png" in failures[0]


@pytest.mark.parametrize("mirror", [False, True])
def test_views_have_the_asked_size_whatever_the_picture(mirror):
    augment = Augment(mirror=mirror, blur=0.5, noise=0.5, colour=0.5, webp=0.5)
    for i, shape in enumerate([(1, 1), (5, 80), (40, 40), (200, 300)] * 4):
        view = augment(array(*shape, seed=i), 32, np.random.default_rng(i))
        assert view.shape == (32, 32, 3) and view.dtype == np.uint8


def test_the_pipeline_never_sees_the_label():
    pixels = [array(60, 60, seed=i) for i in range(4)]
    as_real = [Sample(None, i % 2, f"s{i % 2}", f"g{i}", "train") for i in range(4)]
    swapped = [Sample(None, 1 - i % 2, f"s{i % 2}", f"g{i}", "train") for i in range(4)]
    a, labels = Batches(TINY, as_real, pixels).batch(3)
    order = [1, 0, 3, 2]
    b, _ = Batches(TINY, swapped, [pixels[i] for i in order]).batch(3)
    assert torch.equal(a, b) and labels.sum() == len(labels) / 2


def test_batches_are_functions_of_seed_and_step_and_pairs_share_a_picture(data):
    samples, pixels, _ = load_pixels(take_split(read_index(data), "train"))
    batches = Batches(TINY, samples, pixels)
    views, labels = batches.batch(2)
    again, _ = batches.batch(2)
    other, _ = batches.batch(1)
    assert torch.equal(views, again) and not torch.equal(views, other)
    assert torch.equal(labels[:4], labels[4:]) and not torch.equal(views[:4], views[4:])
    for (a, _), step in zip(batches.iterate(1, 5), range(1, 5)):
        assert torch.equal(a, batches.batch(step)[0])


def test_a_run_that_was_interrupted_ends_bit_equal_to_one_that_was_not(data, tmp_path):
    samples = take_split(read_index(data), "train")
    whole = fit(TINY, samples, tmp_path / "whole")
    for steps in (2, 1, None):
        resumed = fit(TINY, samples, tmp_path / "resumed", max_steps=steps)
    a, b = load_file(whole), load_file(resumed)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(ValueError, match="another recipe"):
        fit(Recipe(name="x", architecture="npr_resnet"), samples, tmp_path / "whole")


def test_a_step_lowers_the_loss_of_its_own_batch(data):
    samples, pixels, _ = load_pixels(take_split(read_index(data), "train"))
    run, (views, labels) = Run(TINY, torch.device("cpu")), Batches(TINY, samples, pixels).batch(0)
    losses = [run.update(views, labels) for _ in range(6)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(RECIPES[name].to_json())
    assert load_recipe(str(path)) == RECIPES[name] == load_recipe(name)
    assert abs(sum(share for share, _ in RECIPES[name].sizes) - 1) < 1e-9


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="npr-ms-ca"):
        load_recipe("nope")


def test_conditions_treat_both_classes_alike_but_for_swap():
    image = Image.fromarray(array())
    for condition in CONDITIONS:
        real, ai = (np.asarray(apply_condition(image, condition, is_ai=flag)) for flag in (False, True))
        assert np.array_equal(real, ai) == (condition != "swap")
    assert np.array_equal(apply_condition(image, "swap", is_ai=True), apply_condition(image, "q96", is_ai=False))
    assert apply_condition(image, "half+q80", is_ai=False).size == (45, 35)
    with pytest.raises(ValueError, match="webp80"):
        apply_condition(image, "q0", is_ai=True)


def test_padding_continues_the_picture():
    pixels = array(3, 5)
    padded = pad_reflect(pixels, 8)
    assert padded.shape == (8, 8, 3) and np.array_equal(padded[:3, :5], pixels)
    assert np.array_equal(padded[3], padded[2])


def test_metrics_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 300).astype(float), rng.random(300)
    figures = measure(labels, p)
    pairs = [(a > b) + 0.5 * (a == b) for a in p[labels == 1] for b in p[labels == 0]]
    assert figures["auroc"] == pytest.approx(np.mean(pairs))
    assert figures["real_accuracy"] == pytest.approx((p[labels == 0] < 0.5).mean())
    assert figures["balanced_accuracy"] == pytest.approx((figures["real_accuracy"] + figures["ai_accuracy"]) / 2)
    weights = rng.integers(0, 3, 300)
    repeated = measure(labels.repeat(weights), p.repeat(weights))
    assert measure(labels, p, weights=weights.astype(float)) == pytest.approx(repeated)


def test_calibration_error_is_zero_for_a_calibrated_score_and_large_for_a_confident_wrong_one():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    labels = (rng.random(200_000) < p).astype(float)
    assert expected_calibration_error(labels, p, np.ones(200_000)) < 0.01
    assert expected_calibration_error(np.zeros(10), np.full(10, 0.99), np.ones(10)) == pytest.approx(0.99)


def test_bootstrap_intervals_hold_the_value_and_widen_with_larger_groups():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 400).astype(float), rng.random(400)
    single = bootstrap(labels, p, [f"g{i}" for i in range(400)], draws=200)
    blocks = bootstrap(labels, p, [f"g{i // 40}" for i in range(400)], draws=200)
    for name in ("auroc", "balanced_accuracy"):
        value, low, high = single[name]
        assert low <= value <= high
    assert measure(np.ones(4), np.ones(4))["ai_accuracy"] == 1 and np.isnan(measure(np.ones(4), np.ones(4))["auroc"])
    assert blocks["auroc"][0] == single["auroc"][0]


def scores_of(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Score(f"{i}.png", "val", i % 2, f"s{i % 5}", f"l{i % 3}", f"g{i}", "photo", condition,
              float(4 * (i % 2) - 1 + 3 * rng.normal()), 0.5)
        for i in range(n) for condition in CONDITIONS
    ]  # fmt: skip


def test_thresholds_keep_the_rate_under_every_condition():
    scores = scores_of()
    calibration = calibrate(scores)
    for point in calibration.thresholds:
        for condition in CONDITIONS:
            chosen = [s for s in scores if s.condition == condition and s.label == 0]
            called = sum(sigmoid(calibration.logit([s.logit])) >= point.probability for s in chosen)
            assert called / len(chosen) <= point.fpr
        assert point.low <= point.fpr <= point.high or point.high < point.fpr
    probabilities = np.array([sigmoid(calibration.logit([s.logit])) for s in scores])
    assert measure(np.array([float(s.label) for s in scores]), probabilities)["ece"] < 0.05


def test_a_calibration_across_sources_keeps_the_rate_there_too_and_claims_less():
    scores, rng = scores_of(), np.random.default_rng(3)
    # Elsewhere the classes lie closer together, and real pictures higher.
    across = [Opinion(i % 2, tuple(float(z) for z in i % 2 + 2 + 3 * rng.normal(size=2))) for i in range(300)]
    plain, wide = calibrate(scores), calibrate(scores, across=across)
    assert wide.temperature > plain.temperature
    for point, before in zip(wide.thresholds, plain.thresholds):
        reals = [z for opinion in across if opinion.label == 0 for z in opinion.logits]
        assert np.mean([sigmoid(wide.logit([z])) >= point.probability for z in reals]) <= point.fpr
        assert np.mean([sigmoid(plain.logit([z])) >= before.probability for z in reals]) > before.fpr
        of_scores = [s.logit for s in scores if s.label == 0]
        assert np.mean([sigmoid(wide.logit([z])) >= point.probability for z in of_scores]) <= point.fpr
    # Many opinions weigh no more than few.
    many = calibrate(scores, across=across * 5)
    assert (many.temperature, many.bias) == pytest.approx((wide.temperature, wide.bias), rel=1e-3)


def test_calibration_needs_the_headline_conditions_and_both_classes():
    with pytest.raises(ValueError, match="half"):
        calibrate([s for s in scores_of(20) if s.condition != "half+q80"])
    with pytest.raises(ValueError, match="both"):
        calibrate([s for s in scores_of(20) if s.label])


def test_the_interval_of_a_share_holds_it():
    assert wilson(0, 10)[0] == pytest.approx(0) and wilson(10, 10)[1] == pytest.approx(1)
    low, high = wilson(50, 1000)
    assert low < 0.05 < high and high - low < 0.03


def test_summaries_give_the_parts_the_headline_and_the_gap(tmp_path):
    scores = [Score(**{**vars(s), "split": "test_unseen"}) for s in scores_of(60)]
    write_scores(scores, tmp_path / "test_unseen.csv")
    again = read_scores(tmp_path / "test_unseen.csv", Calibration())
    assert [(s.file, s.condition, s.label) for s in again] == [(s.file, s.condition, s.label) for s in scores]
    assert [s.logit for s in again] == pytest.approx([s.logit for s in scores], rel=1e-5)
    strict = subsets(scores, frozenset({"l0"}))["test_unseen strict"]
    assert {s.line for s in strict if s.label} == {"l1", "l2"} and {s.label for s in strict} == {0, 1}
    rows = summarise(scores, frozenset({"l0"}), draws=20)
    head = next(r for r in rows if r["condition"] == "headline" and r["part"] == "test_unseen")
    each = [r["auroc"][0] for r in rows if r["part"] == "test_unseen" and r["condition"] in ("q96", "q75", "half+q80")]
    assert head["auroc"][0] == pytest.approx(np.mean(each))
    accuracy = {r["condition"]: r["balanced_accuracy"][0] for r in rows if r["part"] == "test_unseen"}
    # The toy scores differ in their reals too, which real data do not: the real half is compared apart.
    real = {r["condition"]: r["real_accuracy"][0] for r in rows if r["part"] == "test_unseen"}
    gap, low, high = swap_gap(scores, draws=50)
    assert gap == pytest.approx(accuracy["as-is"] - accuracy["swap"] - (real["as-is"] - real["swap"]) / 2)
    assert low <= gap <= high


def test_the_whole_way_from_data_to_a_shipped_detector(data, tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(TINY.to_json())
    run, preprocess = tmp_path / "run", json.dumps(Tiles(size=32, max_tiles=2).to_dict())
    common = ["--data", str(data)]
    assert main(["fit", "--recipe", str(recipe), "--out", str(run), *common]) == 0
    evaluate = ["evaluate", "--run", str(run), "--preprocess", preprocess, *common]
    assert main([*evaluate, "--splits", "val"]) == 0
    assert main(["calibrate", "--run", str(run)]) == 0
    stored = [json.loads((run / name).read_text()) for name in ("evaluation.json", "calibration.json")]
    assert stored[0]["calibration"] == stored[1]
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"schema": 1, "detectors": {}}')
    export = ["export", "--run", str(run), "--name", "tiny", "--version", "1", *common]
    export += ["--weights-folder", str(tmp_path), "--manifest", str(manifest)]
    assert main(export) == 0
    assert main(export) == 2  # a published version never changes
    from aigidetect.manifest import load_manifest
    from aigidetect.registry import build_network, verify_detector
    from aigidetect.state import load_into
    from aigidetect.weights import load_state_dict

    entry = load_manifest(manifest).get("tiny")
    state, sha256 = load_state_dict(entry, weights=tmp_path / "tiny-1.safetensors")
    network = build_network(entry)
    load_into(network, state, origin="test")
    from aigidetect import Detector

    detector = Detector(network, entry_preprocess(entry), entry_calibration(entry), name="tiny@1", device="cpu")
    assert sha256 == entry.weights.sha256 and verify_detector(detector, entry) <= 1e-4
    scores = score(detector, take_split(read_index(data), "val"), ["q96"])
    assert [s.logit for s in scores] == pytest.approx(
        [s.logit for s in read_scores(run / "val.csv", Calibration()) if s.condition == "q96"], rel=1e-4, abs=1e-4
    )
    assert main(["results", str(run), "--out", str(tmp_path / "results.md"), "--draws", "10"]) == 0
    page = (tmp_path / "results.md").read_text()
    assert page == results_page([run], draws=10) and "### val" in page
    capsys.readouterr()
