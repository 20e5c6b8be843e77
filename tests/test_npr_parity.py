"""The NPR networks against outputs of the original code."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aigidetect.convert import convert_npr
from aigidetect.errors import WeightsMismatch
from aigidetect.layers.npr import crop_to_multiple
from aigidetect.models.npr_resnet import VARIANTS, NPRResNet, build

from .parity import rules

FOLDER = Path(__file__).parent / "parity" / "npr"
DETECTORS = {
    "upstream": "npr",
    "baseline": "npr",
    "multi_scale": "npr-ms",
    "multi_scale_fixed": "npr",
    "channel_attention": "npr-ca",
    "spatial_attention": "npr-sa",
    "final": "npr-ms-ca",
    "report_final_original_forward": "npr-ms-ca",
}
FIXTURES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
CASES = [(name, index) for name, fixture in FIXTURES.items() for index in range(len(fixture["cases"]))]


@functools.cache
def filled(key, shape):
    return torch.from_numpy(rules.fill_value(key, shape).copy())


def original_state(fixture):
    return {
        key: filled(key, tuple(shape)).clone()
        if dtype.startswith("float")
        else torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, shape, dtype in fixture["state_dict"]
    }


@functools.cache
def network_of(variant: str) -> NPRResNet:
    name = DETECTORS[variant]
    options = {"fusion": "multi-fixed"} if variant == "multi_scale_fixed" else VARIANTS[name]
    network = build(**options).eval()
    network.load_state_dict(convert_npr(original_state(FIXTURES[variant]), name))
    return network


def inputs_of(fixture, case):
    recipe = next(item for item in fixture["inputs"] if item["name"] == case["input"])
    image = rules.normalise(rules.image(recipe["name"], *(recipe["shape"][i] for i in (0, 2, 3))))
    return torch.from_numpy(image)


def assert_probe(tensor, probe, tolerance):
    flat = tensor.flatten().double().numpy()
    assert list(tensor.shape) == probe["shape"]
    np.testing.assert_allclose(flat[probe["sample_index"]], probe["sample"], atol=tolerance, rtol=1e-4)
    np.testing.assert_allclose(
        [flat.mean(), flat.std(), flat.min(), flat.max()],
        [probe[k] for k in ("mean", "std", "min", "max")],
        atol=tolerance,
        rtol=1e-4,
    )


def maps_and_logits(network, x):
    """What the fixtures probe, from one forward pass: stem and stage 1 before the attention that follows them, stage 2 after
    it."""
    maps = {}
    places = {"npr": network.npr, "stem": network.bn1, "layer1": network.layer1, "layer2": network.sa2}
    handles = [
        # relu makes a copy: the network's own works in place.
        place.register_forward_hook(lambda _, __, out, name=name: maps.update({name: out.relu() if name == "stem" else out}))
        for name, place in places.items()
    ]
    logits = network(x)
    for handle in handles:
        handle.remove()
    return {**maps, "pooled": maps["layer2"].mean(dim=(2, 3))}, logits


def test_every_fixture_has_a_detector():
    assert FIXTURES.keys() == DETECTORS.keys()


@pytest.mark.parametrize(("variant", "index"), CASES)
@torch.inference_mode()
def test_logits_and_feature_maps_equal_the_original(variant, index):
    fixture = FIXTURES[variant]
    case = fixture["cases"][index]
    network = network_of(variant)
    x = inputs_of(fixture, case)
    if case["crop_multiple"]:
        x = crop_to_multiple(x, case["crop_multiple"])
    if "error" in case:
        # The original fails; we drop trailing rows and columns, which the "crop_multiple" cases of the same input pin.
        multiple = 2 if DETECTORS[variant] in ("npr", "npr-ca", "npr-sa") and variant != "multi_scale_fixed" else 4
        torch.testing.assert_close(network(x), network(crop_to_multiple(x, multiple)), atol=0, rtol=0)
        return
    maps, logits = maps_and_logits(network, x)
    for name, probe in case.get("probes", {}).items():
        assert_probe(maps[name], probe, 1e-5 if name == "npr" else 1e-4)
    torch.testing.assert_close(logits, torch.tensor(case["logit"]), atol=2e-5, rtol=0)
    torch.testing.assert_close(logits.sigmoid(), torch.tensor(case["prob_fake"]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "total_steps": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_wrapping_of_a_checkpoint_is_read_alike(wrap, prefix):
    state = original_state(FIXTURES["final"])
    wrapped = wrap({prefix + key: value for key, value in state.items()})
    for key, value in convert_npr(wrapped, "npr-ms-ca").items():
        original = key.replace("npr.weights", "npr_weights").replace("npr.scale_factor", "npr_scale_factor")
        assert torch.equal(value, state[original])


def test_unused_groups_may_be_missing_and_used_ones_may_not():
    state = original_state(FIXTURES["final"])
    without = {key: value for key, value in state.items() if not key.startswith(("ca1", "spatial"))}
    assert "fc1.weight" in convert_npr(without, "npr-ms")
    with pytest.raises(WeightsMismatch, match="ca1"):
        convert_npr(without, "npr-ms-ca")


def test_the_formula_of_the_reports_text_gives_another_logit():
    fixture = FIXTURES["final"]
    x = inputs_of(fixture, fixture["cases"][0])
    other = build(**VARIANTS["npr-ms-ca"], attention_formula="sigmoid-of-sum").eval()
    other.load_state_dict(convert_npr(original_state(fixture), "npr-ms-ca"))
    with torch.inference_mode():
        difference = other(x)[0] - torch.tensor(fixture["cases"][0]["logit"][0])
    assert float(difference) == pytest.approx(-0.17, abs=0.02)
