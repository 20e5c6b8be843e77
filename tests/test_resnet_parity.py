"""The ResNet-50s against outputs of the original code."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aigidetect.convert import convert_resnet
from aigidetect.errors import WeightsMismatch
from aigidetect.models.resnet import VARIANTS, build
from aigidetect.state import load_into

from .parity import rules

FOLDER = Path(__file__).parent / "parity" / "resnet"
FIXTURES = {path.stem.replace("_", "-"): json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
BAYESIAN = [name for name, options in VARIANTS.items() if options.get("bayesian")]
CASES = [(name, index) for name, fixture in FIXTURES.items() for index in range(len(fixture["cases"]))]


@functools.cache
def filled(key, shape):
    return torch.from_numpy(rules.fill_value(key, shape))


def original_state(name):
    return {
        key: filled(key, tuple(shape)) if dtype.startswith("float") else torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, shape, dtype in FIXTURES[name]["state_dict"]
    }


@functools.cache
def network_of(name):
    with torch.device("meta"):  # random weights would take longer than the test
        network = build(**VARIANTS[name]).eval()
    network.to_empty(device="cpu")
    load_into(network, convert_resnet({"model_state_dict": original_state(name), "epoch": 10}, name), origin=name)
    return network


@functools.cache
@torch.inference_mode()
def maps_of(name, index):
    """The input and every map that a fixture probes."""
    fixture, network = FIXTURES[name], network_of(name)
    [recipe] = [item for item in fixture["inputs"] if item["name"] == fixture["cases"][index]["input"]]
    x = torch.from_numpy(rules.normalise(rules.image(recipe["name"], *(recipe["shape"][i] for i in (0, 2, 3)))))
    feature_map = network.feature_map(x)
    attended = network.attention(feature_map)
    return {"feature_map": feature_map, "attended": attended, "features": network.avgpool(attended).flatten(1)}


def difference(outputs):
    outputs = torch.tensor(outputs)
    return outputs[..., :1] - outputs[..., 1:]


def test_every_variant_has_a_fixture_whose_classes_are_ai_and_nature():
    assert FIXTURES.keys() == VARIANTS.keys()
    assert all(fixture["class_order"] == ["ai", "nature"] for fixture in FIXTURES.values())


@pytest.mark.parametrize(("name", "index"), CASES)
@torch.inference_mode()
def test_logits_probabilities_and_feature_maps_equal_the_original(name, index):
    case, network, maps = FIXTURES[name]["cases"][index], network_of(name), maps_of(name, index)
    for probed, probe in case.get("probes", {}).items():
        flat = maps[probed].flatten().double().numpy()
        assert list(maps[probed].shape) == probe["shape"]
        found = [*flat[probe["sample_index"]], flat.mean(), flat.std(), flat.min(), flat.max()]
        expected = [*probe["sample"], *(probe[key] for key in ("mean", "std", "min", "max"))]
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    outputs = torch.tensor(case.get("logits_mean_weights") or case["logits"])
    logits = network.classify(maps["features"])
    torch.testing.assert_close(network.fc(maps["features"]), outputs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, outputs[:, :1] - outputs[:, 1:], atol=1e-4, rtol=1e-4)
    # P(fake) is the first entry of the original's softmax, and the sigmoid of our logit.
    torch.testing.assert_close(logits.sigmoid(), outputs.softmax(dim=1)[:, :1], atol=1e-5, rtol=0)
    if "prob" in case:
        torch.testing.assert_close(logits.sigmoid(), torch.tensor(case["prob"])[:, :1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "index"), [case for case in CASES if case[0] in BAYESIAN])
@torch.inference_mode()
def test_fifty_draws_have_the_mean_and_the_deviation_of_the_original(name, index):
    case = FIXTURES[name]["cases"][index]
    generator = torch.Generator().manual_seed(0)
    draws = network_of(name).sample_logits(maps_of(name, index)["features"], 50, generator).sigmoid()
    mean = torch.tensor(case["mc50_torch_seed0_mean_prob"])[:, 0]
    std = torch.tensor(case["mc50_torch_seed0_std_prob"])[:, 0]
    # The draws are the same numbers, hence tighter than the 2e-3 of other draws.
    torch.testing.assert_close(draws.mean(dim=1), mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(draws.std(dim=1), std, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BAYESIAN)
def test_the_divergence_equals_the_original(name):
    assert float(network_of(name).kl_divergence()) == pytest.approx(FIXTURES[name]["kl"], rel=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_parameters_are_as_many_as_the_originals(name):
    assert sum(p.numel() for p in network_of(name).parameters()) == FIXTURES[name]["parameters"]


@torch.inference_mode()
def test_forward_is_the_pooled_map_classified():
    network, x = network_of("resnet50-sa-bnn"), torch.rand(1, 3, 40, 40)
    attended = network.attention(network.feature_map(x))
    assert torch.equal(network(x), network.classify(network.features(x)))
    torch.testing.assert_close(network.features(x), attended.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(lambda s: s, ""), (lambda s: {"model": s}, "module."), (lambda s: {"model_state_dict": s, "epoch": 10}, "module.")],
)
def test_every_wrapping_of_a_checkpoint_is_read_alike(wrap, prefix):
    name = "resnet50-sa-bnn"
    with torch.device("meta"):
        state = {prefix + key: torch.zeros(shape) for key, shape, _ in FIXTURES[name]["state_dict"]}
    converted = convert_resnet(wrap(state), name)
    assert {"conv1.weight", "layer4.2.bn3.bias", "attention.conv.bias", "fc.weight_rho"} <= converted.keys()
    assert converted["fc.weight_mu"] is state[f"{prefix}classifier.weight_mu"]


def test_what_is_no_checkpoint_of_the_detector_is_refused_with_the_reason():
    with torch.device("meta"):
        state = {key: torch.zeros(shape) for key, shape, _ in FIXTURES["resnet50"]["state_dict"]}
    with pytest.raises(WeightsMismatch, match=r"'fc.weight' does not belong"):
        convert_resnet(state, "resnet50-bnn")
    with pytest.raises(WeightsMismatch, match=r"shape \(2, 2048\), but found \(1000, 2048\)"):
        convert_resnet({**state, "fc.weight": torch.zeros(1000, 2048, device="meta")}, "resnet50")
    with pytest.raises(WeightsMismatch, match="lacks 2 tensors"):
        convert_resnet({key: value for key, value in state.items() if "fc." not in key}, "resnet50")
    with pytest.raises(KeyError, match="resnet50-sa-bnn"):
        convert_resnet(state, "resnet51")
