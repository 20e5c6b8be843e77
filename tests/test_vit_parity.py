"""The transformer detectors against outputs of the original code, through the names of every release that published them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from aigidetect.convert_transformers import convert_backbone, convert_transformer
from aigidetect.errors import WeightsMismatch
from aigidetect.models.clip_vit import CLIPViT
from aigidetect.models.cvt import CvT
from aigidetect.models.cvt import build as build_cvt
from aigidetect.models.swin import Swin
from aigidetect.models.swin import build as build_swin
from aigidetect.models.vit import ViT
from aigidetect.models.vit import build as build_vit

from .parity import rules

FOLDER = Path(__file__).parent / "parity" / "vit"
FIXTURES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
TINY_VIT = {"width": 48, "blocks": 2, "heads": 3, "image_size": 64}
NETWORKS = {
    "vit_tiny_cfg": lambda: ViT(**TINY_VIT),
    "vit_lpm_tiny_cfg": lambda: ViT(**TINY_VIT),
    "vit_cnn_tiny_cfg": lambda: ViT(**TINY_VIT, local=True),
    "swin_tiny_cfg": lambda: Swin(width=12, depths=(2, 2), heads=(2, 4)),
    "cvt_tiny_cfg": lambda: CvT(widths=(16, 24, 32), heads=(1, 3, 4), depths=(1, 2, 3)),
    "vit_b16_full": build_vit,
    "vit_cnn_full": lambda: build_vit(local=True),
    "swin_tiny_full": build_swin,
    "swin_base_full": lambda: build_swin(size="base"),
    "cvt13_full": build_cvt,
}
TINY = [name for name in NETWORKS if name.endswith("_cfg")]
VARIANTS = [name if name in TINY else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]

# What Hugging Face renamed in version 5, in the words of its own two versions.
RENAMED = [
    (r"^(vit\.)encoder\.layer\.", r"\1layers."),
    (r"attention\.attention\.(query|key|value)\.", r"attention.\1."),
    (r"attention\.self\.(query|key|value)\.", r"attention.\1."),
    (r"attention\.(q)uery\.|attention\.(k)ey\.|attention\.(v)alue\.", r"attention.\1\2\3_proj."),
    (r"attention\.output\.dense\.", "attention.o_proj."),
    (r"attention\.self\.relative_position_bias_table", "attention.relative_position_bias.relative_position_bias_table"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]


def original_state(variant):
    network = NETWORKS[variant]()
    ours = {key: value for key, value in network.state_dict().items() if key.endswith("relative_position_index")}
    state = {}
    for key, shape, dtype in FIXTURES[variant]["state_dict"]:
        if dtype.startswith("float"):
            state[key] = torch.from_numpy(rules.fill_value(key, tuple(shape)).copy())
        elif key.endswith("relative_position_index"):
            state[key] = next(iter(ours.values())).view(shape)
        else:
            state[key] = torch.zeros(shape, dtype=getattr(torch, dtype))
    return state


def loaded(variant, state=None):
    network = NETWORKS[variant]().eval()
    network.load_state_dict(convert_transformer(state or original_state(variant), network))
    return network


def inputs_of(variant):
    [recipe] = FIXTURES[variant]["inputs"]
    n, _, h, w = recipe["shape"]
    return torch.from_numpy(rules.normalise(rules.image(recipe["name"], n, h, w), (0.5,) * 3, (0.5,) * 3))


def version_5(state):
    if any(key.startswith("cvt.") for key in state):
        return state  # nothing was renamed
    renamed = {}
    for key, value in state.items():
        for theirs, ours in RENAMED:
            key = re.sub(theirs, ours, key)
        if not key.endswith("relative_position_index"):
            renamed[key] = value
    return renamed


def probes(network, x):
    """The tensors that the fixtures probe, by name."""
    backbone, taken = network.backbone, {}
    if isinstance(network, CvT):
        for stage in backbone.stages:
            x, first = stage(x)
        return {"last_hidden_state": x, "cls_token_value": first, "mean_pooled": x.mean(dim=(2, 3))}
    norm = backbone.encoder.ln if isinstance(network, ViT) else backbone.norm
    handle = norm.register_forward_hook(lambda module, args, output: taken.update(tokens=output))
    features = network.features(x)
    handle.remove()
    if isinstance(network, Swin):
        return {"last_hidden_state": taken["tokens"].flatten(1, 2), "mean_pooled": features}
    return {"last_hidden_state": taken["tokens"]} | ({"local_pooled": network.local(x)} if network.local else {})


def assert_probe(tensor, probe):
    flat = tensor.flatten().double().numpy()
    assert list(tensor.shape) == probe["shape"]
    np.testing.assert_allclose(flat[probe["sample_index"]], probe["sample"], atol=1e-4, rtol=1e-4)
    facts = [flat.mean(), flat.std(), flat.min(), flat.max()]
    np.testing.assert_allclose(facts, [probe[k] for k in ("mean", "std", "min", "max")], atol=1e-4, rtol=1e-4)


def test_every_fixture_has_a_network():
    assert FIXTURES.keys() == NETWORKS.keys()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_logits_and_features_equal_the_original(variant):
    fixture, network, x = FIXTURES[variant], loaded(variant), inputs_of(variant)
    [case] = fixture["cases"]
    made = probes(network, x)
    assert made.keys() == case["probes"].keys()
    for name, tensor in made.items():
        assert_probe(tensor, case["probes"][name])
    logits = torch.tensor(case["logits"])
    assert fixture["class_order"] == ["nature", "ai"]
    # The full networks are compared as the plan of the fixtures says: 1e-4 plus 1e-4 of the value.
    atol, rtol = (2e-5, 0) if variant in TINY else (1e-4, 1e-4)
    torch.testing.assert_close(network(x), logits[:, 1:] - logits[:, :1], atol=atol, rtol=rtol)
    torch.testing.assert_close(network(x).sigmoid(), logits.softmax(dim=1)[:, 1:], atol=atol, rtol=rtol)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_networks_have_the_parameters_of_the_original_but_for_what_is_folded_or_unused(variant):
    fixture = FIXTURES[variant]
    unused = sum(
        np.prod(shape, dtype=int)
        for key, shape, _ in fixture["state_dict"]
        if re.search(r"pooler|lpm", key) and not re.search(r"running|tracked", key)
    )
    second_output = 257
    assert sum(p.numel() for p in NETWORKS[variant]().parameters()) == fixture["parameters"] - unused - second_output


# --- names ---


@pytest.mark.parametrize("variant", TINY)
def test_version_4_version_5_torchvision_and_our_own_names_give_equal_weights(variant):
    state = original_state(variant)
    expected = loaded(variant).state_dict()
    head = {key: value for key, value in state.items() if not re.match(r"vit\.|swin\.|cvt\.", key)}
    # torchvision's names are those of our backbone, without the prefix.
    torchvision = {key.removeprefix("backbone."): value for key, value in expected.items() if key.startswith("backbone.")}
    for other in (version_5(state), head | torchvision, expected):
        again = loaded(variant, other).state_dict()
        assert all(torch.equal(again[key], value) for key, value in expected.items())


@pytest.mark.parametrize("variant", TINY)
def test_a_published_backbone_is_read_whatever_classifier_lies_beside_it(variant):
    network, state = NETWORKS[variant](), original_state(variant)
    backbone = {key: value for key, value in state.items() if re.match(r"(vit|swin|cvt)\.", key)}
    classifier = {"classifier.weight": torch.zeros(1000, 8), "classifier.bias": torch.zeros(1000)}
    expected = {key: value for key, value in convert_transformer(state, network).items() if key.startswith("backbone.")}
    bare = {key.partition(".")[2]: value for key, value in backbone.items()}
    for other in (backbone, backbone | classifier, bare | classifier, state):
        converted = convert_backbone(other, network)
        assert converted.keys() == expected.keys()
        assert all(torch.equal(converted[key], expected[key]) for key in expected)
    with pytest.raises(WeightsMismatch, match="convert_backbone"):
        convert_transformer(backbone | classifier, network)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_wrapping_of_a_checkpoint_is_read_alike(wrapper, prefix):
    state, network = original_state("vit_cnn_tiny_cfg"), NETWORKS["vit_cnn_tiny_cfg"]()
    prefixed = {prefix + key: value for key, value in state.items()}
    converted = convert_transformer({wrapper: prefixed, "epoch": 3} if wrapper else prefixed, network)
    expected = convert_transformer(state, network)
    assert converted.keys() == expected.keys() == network.state_dict().keys()
    assert all(torch.equal(converted[key], expected[key]) for key in expected)


def test_names_of_an_older_torchvision_are_read():
    network = ViT(**TINY_VIT)
    state = network.state_dict()
    older = {key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): state[key] for key in state}
    assert convert_transformer(older, network).keys() == state.keys()


def without(state, pattern):
    return {key: value for key, value in state.items() if not re.search(pattern, key)}


@pytest.mark.parametrize(
    ("variant", "change", "words"),
    [
        ("vit_tiny_cfg", lambda s: s | {"local_perception.0.weight": torch.zeros(32, 3, 3, 3)}, "another network"),
        ("vit_tiny_cfg", lambda s: s | {"blocks.0.weight": torch.zeros(1)}, "blocks.0.weight"),
        ("vit_cnn_tiny_cfg", lambda s: without(s, "local_weight"), "local_weight"),
        ("vit_tiny_cfg", lambda s: without(s, r"layer\.1.*key"), "query, key and value"),
        ("vit_tiny_cfg", lambda s: s | {"class_token": torch.zeros(1, 1, 48)}, "twice"),
        ("vit_tiny_cfg", lambda s: s | {"vit.layernorm.bias": torch.zeros(47)}, "of shape"),
        ("swin_tiny_cfg", lambda s: {k: v.flip(0) if k.endswith("index") else v for k, v in s.items()}, "another order"),
        ("cvt_tiny_cfg", lambda s: without(s, r"cls_token"), "class_token"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(variant, change, words):
    with pytest.raises(WeightsMismatch, match=words):
        convert_transformer(change(original_state(variant)), NETWORKS[variant]())


def test_a_network_of_another_kind_is_answered_with_the_kinds_that_are_known():
    network = CLIPViT(blocks=1, taps=[1], width=16, heads=2, patch=8, image_size=16)
    with pytest.raises(ValueError, match="ViT, Swin, CvT"):
        convert_transformer(original_state("vit_tiny_cfg"), network)
