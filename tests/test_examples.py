"""The examples and the shipped weights, as a new user meets them."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import aigidetect
from aigidetect.cli import main
from aigidetect.manifest import load_manifest
from aigidetect.registry import PREFERRED, default_detector, verify_detector

from .conftest import array

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "examples" / "images"
MANIFEST = load_manifest()
SMALL = "npr-ms-ca"
PUBLISHED = [name for name in MANIFEST.versions() if MANIFEST.get(name).weights is not None]
BUNDLED = [name for name in PUBLISHED if MANIFEST.get(name).weights.file]


@pytest.fixture(scope="module")
def shipped():
    return aigidetect.load_detector(device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def scored(shipped):
    """Records of all examples, three at a time."""
    return tuple(shipped.predict_folder(IMAGES, batch_size=3))


def test_the_default_is_the_best_detector_that_is_here(tmp_path, monkeypatch, shipped):
    assert default_detector() in BUNDLED
    assert shipped.name == default_detector()
    first = [name for name in PREFERRED if any(full.startswith(f"{name}@") for full in BUNDLED)]
    assert default_detector().startswith(f"{first[0]}@")
    # Its file gone, the next best is taken.
    kept = tmp_path / "weights"
    kept.mkdir()
    last = MANIFEST.get(first[-1])
    (kept / last.weights.file).symlink_to(ROOT / "aigidetect" / "weights" / last.weights.file)
    monkeypatch.setattr(aigidetect.weights, "_BUNDLED", kept)
    monkeypatch.setenv("AIGIDETECT_WEIGHTS_DIR", str(kept))
    assert default_detector(cache_dir=tmp_path) == last.full_name


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_weights_are_the_published_ones_and_compute_the_golden_logits(name):
    entry = MANIFEST.get(name)
    detector = aigidetect.load_detector(name, device="cpu", local_files_only=True)
    assert detector.weights_sha256 == entry.weights.sha256
    assert verify_detector(detector, entry) <= entry.golden["tolerance"]
    assert {point.fpr for point in detector.calibration.thresholds} == {0.01, 0.05}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_entries_say_where_they_come_from(name):
    provenance = MANIFEST.get(name).provenance
    assert {"licence", "recipe", "data", "data_sha256", "metrics"} <= provenance.keys()
    for conditions in provenance["metrics"].values():
        for row in conditions.values():
            value, low, high = row["auroc"]
            assert low <= value <= high
            assert row["n_real"] > 0
            assert row["n_ai"] > 0


@pytest.mark.parametrize("name", [name for name in MANIFEST.versions() if MANIFEST.get(name).weights is None])
def test_a_detector_without_weights_says_how_to_get_them(name):
    with pytest.raises(aigidetect.WeightsError, match="training"):
        aigidetect.load_detector(name)


def test_weights_that_were_changed_are_refused(tmp_path, monkeypatch):
    entry = MANIFEST.get(SMALL)
    source = ROOT / "aigidetect" / "weights" / entry.weights.file
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    (tmp_path / entry.weights.file).write_bytes(data)
    monkeypatch.setenv("AIGIDETECT_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(aigidetect.WeightsError, match=entry.weights.sha256):
        aigidetect.load_detector(SMALL)


def test_verify_all_passes_on_this_machine(capsys):
    assert main(["verify", "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(BUNDLED)  # the package's files, then the detectors


def test_verify_fails_on_wrong_numbers(capsys, monkeypatch):
    load = aigidetect.registry.load_detector

    def broken(name, **options):
        detector = load(name, **options)
        detector.network.fc1.bias.data.add_(0.05)
        return detector

    monkeypatch.setattr(aigidetect.registry, "load_detector", broken)
    assert main(["verify", SMALL]) == 1
    assert "golden" in capsys.readouterr().out


def test_own_weights_are_named_custom_and_do_not_borrow_the_published_thresholds():
    entry = MANIFEST.get(SMALL)
    path = ROOT / "aigidetect" / "weights" / entry.weights.file
    detector = aigidetect.load_detector(SMALL, weights=path, device="cpu")
    record = detector.predict(array())
    assert record.detector.endswith("+custom")
    assert (record.threshold, record.fpr) == (0.5, None)


def test_the_shipped_detector_scores_all_examples(scored):
    assert len(scored) == 8
    assert all(record.ok and 0 <= record.probability <= 1 for record in scored)
    assert len({round(record.logit, 6) for record in scored}) == 8


def test_the_shipped_detector_scores_any_size(shipped):
    for shape in [(1, 1), (1, 500), (7, 3), (223, 225), (1500, 40)]:
        assert shipped.predict(array(*shape)).ok


def test_scores_of_the_shipped_detector_do_not_depend_on_the_batch(shipped, scored):
    # Every place of a whole batch, and both of the last one.
    for place in (3, 4, 5, 6, 7):
        alone = shipped.predict(sorted(IMAGES.glob("*.jpg"))[place])
        assert alone.source == scored[place].source
        np.testing.assert_allclose(scored[place].view_logits, alone.view_logits, atol=1e-4)


@pytest.mark.parametrize("script", ["score_folder.py", "own_network.py"])
def test_examples_run_and_are_short(script, capsys, monkeypatch):
    path = ROOT / "examples" / script
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert len(path.read_text().splitlines()) <= 40


def test_the_documentation_names_no_machine_and_no_missing_file():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text()
        assert not re.search(r"/(root|home|tmp)/", text), page
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readmes_figures_are_those_of_the_stored_scores():
    from aigidetect.training.evaluate import headline, subsets
    from aigidetect.training.score_folders import read_evaluation

    readme, rows = (ROOT / "README.md").read_text(), 0
    # Folders of the ablation lie deeper: they have a section of the results to themselves.
    for path in (ROOT / "docs" / "scores").glob("*/evaluation.json"):
        facts, scores = read_evaluation(path.parent)
        for part, chosen in subsets(scores, frozenset(facts["train_lines"])).items():
            # Two draws: intervals take minutes, and come from the same call of the command as the values.
            for row in headline(part, chosen, draws=2) if part != "val" else ():
                start = f"| {facts['detector']} | {part} | {row['n_real']} / {row['n_ai']} | "
                [line] = [line for line in readme.splitlines() if line.startswith(start)]
                values = [float(cell.split()[0]) for cell in line.removeprefix(start).split("|")[:3]]
                figures = [row[name][0] for name in ("balanced_accuracy", "auroc", "tpr_at_5_fpr")]
                np.testing.assert_allclose(values, figures, atol=5.1e-4)
                rows += 1
    assert rows >= 8


def test_records_of_the_command_line_are_json(capsys):
    assert main(["predict", str(IMAGES), "--detector", SMALL, "--format", "jsonl"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(record["source"]).name for record in records] == sorted(path.name for path in IMAGES.glob("*.jpg"))
