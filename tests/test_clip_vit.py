"""The CLIP network: its formula, foreign names, and the real tower where its file is present."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aigidetect.layers.quantised import dequantise
from aigidetect.models.clip_vit import CLIPViT, build
from aigidetect.training.clip_tower import from_huggingface

from .clip_case import huggingface, quantised, tiny, tower_of
from .parity import rules

TESTS = Path(__file__).parent
FIXTURE = json.loads((TESTS / "parity" / "clip_vit.json").read_text())
WEIGHTS = Path(os.environ.get("AIGIDETECT_CLIP_TOWER", TESTS.parent / "runs" / "clip" / "tower.safetensors"))


def views(n=2, size=12):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def norm(x, weight, bias):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def naive_tokens(state, view, blocks, heads, patch):
    """Outputs of all blocks for one view, token by token and head by head, in float64."""
    p = {key.removeprefix("tower."): value.double().numpy() for key, value in state.items()}
    side = view.shape[-1] // patch
    tokens = [p["class_token"]]
    for i in range(side):
        for j in range(side):
            square = view[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].double().numpy()
            tokens.append((p["patch.weight"] * square).sum(axis=(1, 2, 3)))
    x = np.stack([norm(t + e, p["norm.weight"], p["norm.bias"]) for t, e in zip(tokens, p["positions"])])
    outputs = []
    for b in range(blocks):
        q = {key.removeprefix(f"blocks.{b}."): value for key, value in p.items() if key.startswith(f"blocks.{b}.")}
        x = x + naive_attention(q, np.stack([norm(t, q["norm1.weight"], q["norm1.bias"]) for t in x]), heads)
        hidden = np.stack([norm(t, q["norm2.weight"], q["norm2.bias"]) for t in x]) @ q["fc1.weight"].T + q["fc1.bias"]
        x = x + (hidden / (1 + np.exp(-1.702 * hidden))) @ q["fc2.weight"].T + q["fc2.bias"]
        outputs.append(x)
    return outputs


def naive_attention(q, x, heads):
    width = x.shape[1]
    part = width // heads
    weights, biases = np.split(q["qkv.weight"], 3), np.split(q["qkv.bias"], 3)
    query, key, value = (x @ w.T + b for w, b in zip(weights, biases))
    mixed = np.zeros_like(x)
    for h in range(heads):
        cut = slice(h * part, (h + 1) * part)
        for t in range(len(x)):
            share = np.exp([query[t, cut] @ key[s, cut] / math.sqrt(part) for s in range(len(x))])
            mixed[t, cut] = (share / share.sum()) @ value[:, cut]
    return mixed @ q["out.weight"].T + q["out.bias"]


def test_blocks_are_the_pre_norm_formula_with_quick_gelu():
    network = tiny(taps=(1, 2, 3))
    x = views()
    with torch.inference_mode():
        tapped = network.tower(x)
    for n, view in enumerate(x):
        for ours, expected in zip(tapped, naive_tokens(tower_of(network), view, blocks=3, heads=3, patch=4)):
            np.testing.assert_allclose(ours[n].numpy(), expected, atol=2e-5, rtol=1e-4)


def test_features_are_class_token_mean_and_deviation_of_every_tap():
    network = tiny()
    [view] = views(1)
    outputs = naive_tokens(tower_of(network), view, blocks=3, heads=3, patch=4)
    expected = []
    for tokens in (outputs[0], outputs[2]):
        normed = np.stack([norm(t, 1, 0) for t in tokens])
        expected += [normed[0], normed[1:].mean(axis=0), normed[1:].std(axis=0)]
    with torch.inference_mode():
        features = network.features(view[None])
        network.patches = False
        of_class_tokens = network.features(view[None])
    assert features.shape == (1, 2 * 3 * 24)
    np.testing.assert_allclose(features[0].numpy(), np.concatenate(expected), atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(of_class_tokens[0].numpy(), np.concatenate(expected[::3]), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("hidden", [0, 5])
def test_the_head_standardises_with_its_buffers(hidden):
    network = tiny(hidden=hidden)
    network.head.mean.normal_()
    network.head.scale.uniform_(0.5, 2)
    with torch.inference_mode():
        standard = (network.features(views()) - network.head.mean) / network.head.scale
        if hidden:
            standard = torch.nn.functional.gelu(network.head.hidden(standard))
        torch.testing.assert_close(network(views()), network.head.fc(standard))
    assert {"head.mean", "head.scale"} <= network.state_dict().keys()
    assert not {"head.mean", "head.scale"} & {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("patches", [True, False])
@pytest.mark.parametrize("hidden", [0, 5])
def test_gradient_reaches_every_parameter(hidden, patches):
    network = tiny(hidden=hidden, patches=patches)
    network(views()).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_a_logit_does_not_depend_on_its_neighbours():
    network, x = tiny(), views(4)
    with torch.inference_mode():
        together = network(x)
        alone = torch.cat([network(view[None]) for view in x])
        torch.testing.assert_close(network(x.flip(0)).flip(0), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_tower_without_patches_at_its_end_has_the_same_class_tokens():
    whole, short = tiny(), tiny()
    short.tower.patches = False
    with torch.inference_mode():
        expected, found = whole.tower(views()), short.tower(views())
        after = short.tower.tapped(expected[0], after=1)
    assert [tokens.shape for tokens in found] == [expected[0].shape, (2, 1, 24)]
    torch.testing.assert_close(found[1], expected[1][:, :1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[0], found[1], atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (2, 1, 12, 12), (3, 12, 12), (2, 3, 224, 224)])
def test_another_size_is_refused_with_the_right_one(shape):
    with pytest.raises(ValueError, match="12 x 12"):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize("taps", [(), (0, 3), (1, 2), (3, 1), (1, 1, 3), (1, 4)])
def test_impossible_taps_are_refused(taps):
    with pytest.raises(ValueError, match="taps"):
        tiny(taps=taps)


def test_other_impossible_sizes_are_refused():
    for wrong in ({"hidden": -1}, {"heads": 5}, {"patch": 5}):
        with pytest.raises(ValueError, match="multiple"):
            tiny(**wrong)


@pytest.mark.parametrize("prefix", ["vision_model.", "", "clip.vision_model.", "model.vision_model."])
def test_names_of_hugging_face_load_under_any_prefix(prefix):
    network = tiny()
    converted = from_huggingface(huggingface(network, prefix), 3)
    assert converted.keys() == tower_of(network).keys()
    assert all(torch.equal(converted[key], value) for key, value in tower_of(network).items())


def test_fewer_blocks_can_be_taken_but_not_more():
    state = huggingface(tiny())
    shorter = tiny(blocks=2, taps=(2,))
    assert from_huggingface(state, 2).keys() == tower_of(shorter).keys()
    with pytest.raises(ValueError, match=r"16 tensors .* such as .*layers\.3"):
        from_huggingface(state, 4)


def test_a_state_without_one_image_tower_is_refused():
    state = huggingface(tiny())
    with pytest.raises(ValueError, match="found 0"):
        from_huggingface({key: value for key, value in state.items() if "class_embedding" not in key}, 3)
    with pytest.raises(ValueError, match="found 2"):
        from_huggingface(state | huggingface(tiny(), "other."), 3)


def test_scales_follow_their_rows_into_the_joined_matrix():
    state, expected = {}, {}
    for key, value in huggingface(tiny()).items():
        state[key] = expected[key] = value
        if key.endswith((".q_proj.weight", ".k_proj.weight", ".v_proj.weight", ".fc1.weight")):
            state[key], state[f"{key}_scale"] = quantised(value)
            expected[key] = state[key].float() * state[f"{key}_scale"][:, None]
    assert from_huggingface(state, 3)["tower.blocks.0.qkv.weight"].dtype == torch.int8
    loaded, reference = dequantise(from_huggingface(state, 3)), from_huggingface(expected, 3)
    assert loaded.keys() == reference.keys()
    assert all(torch.equal(loaded[key], reference[key]) for key in reference)


def assert_probe(tensor, probe, *, atol):
    flat = tensor.flatten().double().numpy()
    assert list(tensor.shape) == probe["shape"]
    np.testing.assert_allclose(flat[probe["sample_index"]], probe["sample"], atol=atol, rtol=1e-4)
    statistics = [flat.mean(), flat.std(), flat.min(), flat.max()]
    np.testing.assert_allclose(statistics, [probe[k] for k in ("mean", "std", "min", "max")], atol=atol, rtol=1e-4)


@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the tower's weights file, which AIGIDETECT_CLIP_TOWER names")
def test_the_real_tower_gives_the_outputs_of_its_float_graph():
    facts = FIXTURE["input"]
    x = torch.from_numpy(rules.image(facts["name"], *(facts["shape"][i] for i in (0, 2, 3))))
    x = (x - torch.tensor(facts["mean"]).view(3, 1, 1)) / torch.tensor(facts["std"]).view(3, 1, 1)
    network = CLIPViT(blocks=9, taps=range(1, 10)).eval()
    state = dequantise(load_file(WEIGHTS))
    network.load_state_dict({key: state.get(key, value) for key, value in network.state_dict().items()})
    with torch.inference_mode():
        for number, tokens in enumerate(network.tower(x), start=1):
            probe = FIXTURE["blocks"][str(number)]
            # A few tokens have channels 100 times as large as all others; float32 is exact relative to those.
            assert_probe(tokens, probe, atol=1e-4 * max(1, abs(probe["min"]), abs(probe["max"])))
        features = network.features(x)[:, -len(FIXTURE["taps"]) * 3 * 768 :]
    assert_probe(features, FIXTURE["features"], atol=5e-4)


def test_the_default_network_is_vit_b_16_cut_after_its_ninth_block():
    with torch.device("meta"):
        network = build()
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 1)
    assert sum(p.numel() for p in network.tower.parameters()) == 64_534_272
    assert network.head.fc.in_features == 4 * 3 * 768
