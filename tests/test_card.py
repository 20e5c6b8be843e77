"""The model card: every figure from the manifest or a stored audit, and the metadata that the Hub reads."""

import dataclasses
import re

import pytest
from huggingface_hub import ModelCard

from aigidetect.errors import ManifestError
from aigidetect.manifest import load_manifest
from aigidetect.training.card import model_card

REPO = "org/npr-ms-ca"
AUDIT = {
    "pictures": 4321,
    "undecodable": ["secret-a.png: ImageTruncated: ends early"],
    "auroc": {"format": 0.512, "JPEG quality": 0.751},
    "shared_groups": ["secret-b", "secret-c"],
    "near_duplicates": [["secret-d.png", "secret-e.png"]],
    "limit": 0.6,
    "shortcuts": ["JPEG quality"],
}


@pytest.fixture(scope="module")
def entry():
    """The entry of the package, which has metrics of many parts and conditions."""
    return load_manifest().get("npr-ms-ca@1")


def with_metrics(entry, metrics):
    return dataclasses.replace(entry, provenance={**entry.provenance, "metrics": metrics})


def test_the_metadata_are_the_entrys(entry):
    data = ModelCard(str(model_card(entry, REPO, notices=True))).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "aigidetect", "image-classification")
    found = {(r.dataset_split, r.dataset_config, r.metric_type): r for r in data.eval_results}
    expected = {
        (part, condition, {"auroc": "roc_auc"}.get(metric, metric)): (facts[metric], facts["n_real"], facts["n_ai"])
        for part, conditions in entry.provenance["metrics"].items()
        for condition, facts in conditions.items()
        for metric in ("balanced_accuracy", "auroc")
    }
    assert found.keys() == expected.keys()
    for key, ((value, low, high), n_real, n_ai) in expected.items():
        assert found[key].metric_value == value
        assert found[key].metric_args == {"interval_95": [low, high], "n_real": n_real, "n_ai": n_ai}


def test_a_licence_that_the_hub_does_not_know_is_named_and_linked(entry):
    provenance = {**entry.provenance, "licence": "MIT and Apache-2.0", "metrics": None}
    mixed = dataclasses.replace(entry, provenance=provenance)
    data = ModelCard(str(model_card(mixed, REPO, notices=True))).data
    assert (data.license, data.license_name) == ("other", "mit-and-apache-2.0")
    assert data.license_link.endswith(f"/{REPO}/blob/main/LICENSES.md")


def test_every_row_of_the_metrics_is_a_row_of_the_table(entry):
    text = str(model_card(entry, REPO))
    for part, conditions in entry.provenance["metrics"].items():
        for condition, facts in conditions.items():
            figures = ["{:.3f} ({:.3f}-{:.3f})".format(*facts[metric]) for metric in ("balanced_accuracy", "auroc")]
            assert f"| {part} | {condition} | {facts['n_real']} / {facts['n_ai']} | {' | '.join(figures)} |" in text
    for point in entry.calibration["thresholds"]:
        assert f"| {point['fpr']:g} | {point['probability']:.3f} | {point['real_below']:.3f} |" in text


def numbers(value):
    """All numbers inside JSON facts, those in texts too."""
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list | tuple):
        return [n for item in value for n in numbers(item)]
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?", str(value))]


def test_no_decimal_of_the_card_comes_from_anywhere_but_the_stored_facts(entry):
    card = model_card(entry, REPO, audit=AUDIT)
    prose = re.sub(r"```.*?```|`[^`]*`|https?://\S+|Apache-2\.0", "", card.content.split("\n---\n", 1)[1], flags=re.DOTALL)
    metrics = entry.provenance["metrics"]
    gaps = [
        abs(conditions["as-is"]["balanced_accuracy"][0] - conditions["swap"]["balanced_accuracy"][0])
        for conditions in metrics.values()
    ]
    stored = numbers([entry.provenance, entry.calibration, AUDIT]) + gaps
    allowed = {f"{value:.3f}" for value in stored} | {f"{value:g}" for value in stored}
    found = re.findall(r"\d+\.\d+", prose)
    assert len(found) > 100
    assert set(found) <= allowed


def test_a_detector_without_metrics_says_so_and_has_no_results(entry):
    card = model_card(with_metrics(entry, None), REPO)
    assert "Nothing was measured for this detector." in str(card)
    assert "model-index" not in str(card)
    assert "| part |" not in str(card)


def test_metrics_of_another_shape_are_refused(entry):
    for broken in (
        {"val": 3},
        {"val": {"q96": {"auroc": [1, 2, 3]}}},
        {"val": {"q96": {"n_real": 1, "n_ai": 1, "auroc": [0.5]}}},
    ):
        with pytest.raises(ManifestError, match=r"results --manifest.*Run it again"):
            model_card(with_metrics(entry, broken), REPO)


def test_a_backbone_in_another_repository_is_named(entry):
    place = {"repo_id": "org/stem", "revision": "c0ffee" * 6 + "abcd", "filename": "stem-1.safetensors"}
    shared = dataclasses.replace(
        with_metrics(entry, None), backbone=dataclasses.replace(entry.weights, sha256="5" * 64, **place)
    )
    text = str(model_card(shared, REPO))
    assert "5" * 64 in text and entry.weights.sha256 in text
    assert f"`org/stem`, at commit `{place['revision']}`" in text
    assert "at commit" not in str(model_card(shared, "org/stem"))


def test_an_audit_is_shown_without_the_names_of_files(entry):
    entry = with_metrics(entry, None)
    text = str(model_card(entry, REPO, audit=AUDIT))
    assert "| JPEG quality | 0.751 | shortcut |" in text and "| format | 0.512 |  |" in text
    assert "4,321" in text and "2 groups, 1 pairs" in text and "secret" not in text
    assert "No stored audit" in str(model_card(entry, REPO))
    with pytest.raises(ValueError, match=r"not what .*audit --out"):
        model_card(entry, REPO, audit={"auroc": {}})
