"""What a detector was meant to reach, and what is said where it does not."""

import dataclasses
import json
from pathlib import Path

import pytest

from aigidetect.manifest import load_manifest
from aigidetect.training.__main__ import main
from aigidetect.training.aims import Aim, aims_section, outcomes, write_shortfalls
from aigidetect.training.augment import HEADLINE_CONDITIONS
from aigidetect.training.card import model_card

from .test_tables import markdown_rows, scores_of, write_folder


@pytest.fixture
def folder(tmp_path):
    scores = scores_of(0.8, split="test_unseen", conditions=HEADLINE_CONDITIONS, n=5, generators=("a", "b"))
    return write_folder(tmp_path / "scores", "vit-clip@3", scores)


def write_aims(tmp_path, *aims):
    path = tmp_path / "aims.json"
    path.write_text(json.dumps(aims), encoding="utf-8")
    return path


def of(detector, figure, **bounds):
    return {"detector": detector, "part": "test_unseen", "figure": figure, **bounds}


def test_an_aim_is_reached_where_the_value_keeps_its_bounds():
    assert Aim("a", "val", "auroc", at_least=0.8).reached(0.8)
    assert not Aim("a", "val", "auroc", at_least=0.8).reached(0.79)
    assert Aim("a", "val", "ece", at_most=0.0).reached(0.0)
    assert not Aim("a", "val", "ece", at_most=0.06).reached(0.07)
    assert str(Aim("a", "val", "ece", at_least=0.0, at_most=0.06)) == "ECE at least 0 and at most 0.06"


def test_the_results_and_the_manifest_say_which_aims_were_missed(folder, tmp_path):
    high = of("vit-clip", "balanced_accuracy", at_least=0.9)
    aims = write_aims(tmp_path, high, of("vit-clip", "balanced_accuracy", at_least=0.7), of("npr", "auroc", at_least=0.9))
    manifest, out = tmp_path / "manifest.json", tmp_path / "results.md"
    manifest.write_bytes((Path(__file__).parent.parent / "weights_manifest.json").read_bytes())
    options = ["--aims", str(aims), "--draws", "5", "--manifest", str(manifest)]
    assert main(["results", str(folder), *options, "--out", str(out)]) == 0
    rows = markdown_rows(out.read_text(encoding="utf-8"), "| vit-clip@3 | test_unseen | balanced")
    assert [(row[2], row[3].split()[0], row[4]) for row in rows] == [
        ("balanced accuracy at least 0.9", "0.800", "**no**"),
        ("balanced accuracy at least 0.7", "0.800", "yes"),
    ]
    [missed] = json.loads(manifest.read_text())["detectors"]["vit-clip@3"]["provenance"]["aims_not_reached"]
    assert missed.startswith("test_unseen: balanced accuracy at least 0.9, measured 0.800") and "not reached" in missed
    card = str(model_card(load_manifest(manifest).get("vit-clip@3"), "owner/name"))
    assert f"**An aim that was not reached.** {missed}." in card


def test_aims_that_are_reached_later_leave_the_manifest(folder, tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"detectors": {"vit-clip@3": {"provenance": {"aims_not_reached": ["old"]}}}}))
    found = outcomes(write_aims(tmp_path, of("vit-clip", "balanced_accuracy", at_least=0.7)), [folder], draws=2)
    write_shortfalls(manifest, found)
    assert json.loads(manifest.read_text())["detectors"]["vit-clip@3"]["provenance"]["aims_not_reached"] == []
    assert "| yes |" in aims_section(found)


def test_an_aim_without_a_measurement_is_refused(folder, tmp_path):
    aims = write_aims(tmp_path, {**of("vit-clip", "ece", at_most=0.1), "part": "test_seen"})
    with pytest.raises(ValueError, match="test_seen"):
        outcomes(aims, [folder])


def test_a_card_without_shortfalls_does_not_mention_them():
    entry = load_manifest().get("vit-clip")
    bare = dataclasses.replace(entry, provenance={k: v for k, v in entry.provenance.items() if k != "aims_not_reached"})
    assert "An aim that was not reached" not in str(model_card(bare, "owner/name"))
