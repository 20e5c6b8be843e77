"""Figures of the documentation, from synthetic scores and small pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigidetect import SquashCrop
from aigidetect.manifest import load_manifest
from aigidetect.training.figures import draw_calibration, draw_robustness, reliability, shipped_scores
from aigidetect.training.picture_figures import draw_pipeline, draw_residuals
from aigidetect.training.plotting import COLOURS, new_figure, save_png

from .conftest import array
from .test_tables import scores_of, write_folder

MANIFEST = Path(__file__).parent.parent / "weights_manifest.json"
BOOK = load_manifest()
ENTRY = BOOK.get("npr-ms-ca")


def opinions(probability, shares, n=200):
    """Scores of one probability, as many as `shares` says of the generated ones and of the real ones."""
    base = scores_of(1.0, split="test_unseen", conditions=("q75",), generators=("a",), n=n)
    counts = {label: round(share * n) for label, share in enumerate(shares)}
    kept = [s for s in base if int(s.file.split("-")[2].split(".")[0]) < counts[s.label]]
    return [type(s)(**{**vars(s), "probability": probability}) for s in kept]


def store(folder, name=None, sha256=None, **options):
    scores = scores_of(0.8, split="test_unseen", n=30, conditions=("q96", "q75"), generators=("a", "b"), **options)
    facts = {"weights_sha256": sha256 or ENTRY.weights.sha256}
    return write_folder(folder, name or ENTRY.full_name, scores, **facts)


def size_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_only_the_newest_version_of_what_has_weights_is_shown(tmp_path):
    store(tmp_path / "scores" / "a")
    store(tmp_path / "scores" / "b", "npr-ms-ca-reference")
    facts = json.loads(MANIFEST.read_text(encoding="utf-8"))
    facts["detectors"]["vit-clip@1"] = facts["detectors"][BOOK.get("vit-clip").full_name]
    (tmp_path / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
    store(tmp_path / "scores" / "c", "vit-clip@1", BOOK.get("vit-clip").weights.sha256)
    assert list(shipped_scores(tmp_path / "scores", load_manifest(tmp_path / "manifest.json"))) == [ENTRY.full_name]


def test_scores_of_other_weights_are_refused_and_none_at_all_too(tmp_path):
    with pytest.raises(ValueError, match="evaluate"):
        shipped_scores(tmp_path, BOOK)
    store(tmp_path / "a", sha256="0" * 64)
    with pytest.raises(ValueError, match="other weights"):
        shipped_scores(tmp_path, BOOK)


def test_reliability_weighs_both_classes_alike():
    # 10 of 100 real and 30 of 100 generated pictures at 0.75: three quarters, if both classes are as frequent.
    scores = [*opinions(0.75, (0.1, 0.3)), *opinions(0.05, (0.9, 0.7))]
    low, high = sorted(reliability(scores, draws=20))
    assert high[:2] == pytest.approx((0.75, 0.75)) and low[:2] == pytest.approx((0.05, 0.7 / 1.6))
    assert all(below <= share <= above for _, share, below, above in (low, high))


def test_reliability_leaves_out_bins_of_few_pictures():
    scores = [*opinions(0.75, (0.5, 0.5)), *opinions(0.95, (0.02, 0.02))]
    assert [point[0] for point in reliability(scores, draws=5)] == pytest.approx([0.75])


def test_figures_of_scores_are_small_and_the_same_every_time(tmp_path):
    evaluations = {"a@1": scores_of(0.8, split="test_unseen", n=30, conditions=("q96", "q75")), "b@1": []}
    for place in ("1.png", "2.png"):
        draw_robustness(evaluations, tmp_path / place, draws=5)
    draw_calibration(evaluations, tmp_path / "3.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert all((tmp_path / f"{i}.png").stat().st_size < 150_000 for i in (1, 3))


def test_colours_survive_the_palette_and_the_ground_is_white(tmp_path):
    figure = new_figure(2, 2)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.axvspan(0, 0.5, color=COLOURS[0])
    save_png(figure, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        seen = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {(255, 255, 255), tuple(bytes.fromhex(COLOURS[0][1:]))} <= seen


def test_the_way_of_a_picture_and_its_residuals_are_drawn(tmp_path, detector):
    for name, shape in (("large", (70, 90)), ("small", (20, 20))):
        Image.fromarray(array(*shape)).save(tmp_path / f"{name}.png")
    draw_pipeline(detector, tmp_path / "large.png", tmp_path / "way.png")
    draw_pipeline(detector, tmp_path / "small.png", tmp_path / "one-view.png")
    draw_residuals(tmp_path / "large.png", tmp_path / "large.png", tmp_path / "npr.png")
    assert size_of(tmp_path / "way.png") == size_of(tmp_path / "one-view.png")
    assert (tmp_path / "way.png").read_bytes() != (tmp_path / "one-view.png").read_bytes()
    with pytest.raises(ValueError, match="64"):
        draw_residuals(tmp_path / "small.png", tmp_path / "large.png", tmp_path / "x.png")
    detector.preprocess = SquashCrop()
    with pytest.raises(ValueError, match="npr-ms-ca"):
        draw_pipeline(detector, tmp_path / "large.png", tmp_path / "x.png")


def test_the_page_of_detectors_lists_all_of_them_and_their_files():
    from aigidetect.training.detectors_page import detectors_page

    page = detectors_page(BOOK)
    with_weights, without = page.split("## Without weights")
    for entry in BOOK:
        if entry.weights:
            assert f"| `{entry.full_name}` |" in with_weights and entry.weights.sha256 in with_weights
    missing = {entry.name for entry in BOOK} - {entry.name for entry in BOOK if entry.weights}
    assert all(f"| `{name}` |" in without and BOOK.get(name).note in without for name in missing)


def test_a_manifest_without_weights_makes_no_page(tmp_path):
    from aigidetect.training.__main__ import main

    document = json.loads(BOOK.path.read_text(encoding="utf-8"))
    kept = {name: facts for name, facts in document["detectors"].items() if not facts["weights"]}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**document, "detectors": kept}), encoding="utf-8")
    assert main(["detectors", "--manifest", str(path)]) == 2


@pytest.mark.slow
def test_the_command_draws_every_figure_of_the_documentation(tmp_path, monkeypatch):
    from aigidetect.training.__main__ import main

    from .test_documentation import ROOT

    monkeypatch.chdir(ROOT)
    assert main(["figures", "--out", str(tmp_path / "figures")]) == 0
    made = {path.name: size_of(path) for path in (tmp_path / "figures").iterdir()}
    assert made == {path.name: size_of(path) for path in (ROOT / "docs" / "figures").iterdir()}
