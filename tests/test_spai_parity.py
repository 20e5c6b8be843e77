"""SPAI, its masks and its pre-training against outputs of the original code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aigidetect.convert_spai import convert_mfm, convert_spai
from aigidetect.errors import WeightsMismatch
from aigidetect.layers.mfm_vit import standardise
from aigidetect.layers.spectral import centred_disc, doubled_disc, half_plane
from aigidetect.models.spai import SPAI
from aigidetect.training.mfm import MaskedFrequencyModel, corrupt, mfm_loss, spectral_distance

from .parity import rules

FOLDER = Path(__file__).parent / "parity" / "spai"
FIXTURES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
REDUCED = FIXTURES["spai_reduced"]
MFM = FIXTURES["mfm_pretrain_reduced"]
CASES = [
    pytest.param(fixture, case, id=f"{fixture}-{case['input']}", marks=[pytest.mark.slow] if fixture == "spai_full" else [])
    for fixture in ("spai_reduced", "spai_full")
    for case in FIXTURES[fixture]["cases"]
]


def original_state(fixture):
    """The original's state dict; its only integer tensor is the mask."""
    return {
        key: torch.from_numpy(rules.fill_value(key, tuple(shape)).copy())
        if dtype == "float32"
        else doubled_disc(224, 16).to(getattr(torch, dtype))
        for key, shape, dtype in fixture["state_dict"]
    }


def sizes_of(fixture):
    facts = fixture["config"]
    return {
        "width": facts["embed_dim"],
        "blocks": facts["depth"],
        "heads": facts["num_heads"],
        "projection": facts["projection_dim"],
        "query_heads": facts["attn_heads"],
        "query_width": facts["attn_embed_dim"],
        "minimum_patches": facts["minimum_patches"],
    }


@pytest.fixture(scope="module")
def network_of():
    """Name of a fixture -> network with the original's values; made once."""
    made = {}

    def make(name):
        if name not in made:
            fixture = FIXTURES[name]
            network = SPAI(**sizes_of(fixture))
            network.load_state_dict(convert_spai({"model": original_state(fixture), "epoch": 3}, network))
            made[name] = network.eval()
        return made[name]

    return make


def mfm_backbone(checkpoint):
    """The backbone in an MFM checkpoint of the fixture's size, which has other numbers of blocks than the other fixtures."""
    facts = MFM["config"]
    network = SPAI(width=facts["embed_dim"], blocks=facts["depth"], heads=facts["num_heads"], projection=32)
    converted = convert_mfm(checkpoint, network)
    assert convert_mfm(converted, network).keys() == converted.keys()
    return {key.removeprefix("backbone."): value for key, value in converted.items()}


def picture(recipe):
    n, _, h, w = recipe["shape"]
    return torch.from_numpy(rules.image(recipe["name"], n, h, w))


def assert_probe(tensor, probe, tolerance, relative=1e-4):
    flat = tensor.flatten().double().numpy()
    assert list(tensor.shape) == probe["shape"]
    np.testing.assert_allclose(flat[probe["sample_index"]], probe["sample"], atol=tolerance, rtol=relative)
    np.testing.assert_allclose(
        [flat.mean(), flat.std(), flat.min(), flat.max()],
        [probe[k] for k in ("mean", "std", "min", "max")],
        atol=tolerance,
        rtol=relative,
    )


@pytest.mark.parametrize(
    ("name", "mask"), [("finetune_mask_224_r16", doubled_disc), ("pretrain_lowpass_mask_224_r16", centred_disc)]
)
def test_masks_have_the_originals_ones_in_every_row(name, mask):
    expected = FIXTURES["masks"][name]
    assert mask(224, 16).sum(dim=1).tolist() == expected["row_counts"]
    assert mask(224, 16).sum(dim=0).tolist() == expected["row_counts"]
    assert mask(224, 16).sum() == expected["ones"]


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.inference_mode()
def test_every_step_equals_the_original(name, case, network_of):
    network, probes = network_of(name), case["probes"]
    x = picture(next(item for item in FIXTURES[name]["inputs"] if item["name"] == case["input"]))
    boxes = network.boxes(*x.shape[-2:])
    assert len(boxes) == case["patches"]
    patches = torch.cat([x[:, :, top : top + 224, left : left + 224] for top, left in boxes])
    low, high = network.split(patches)
    for part, filtered in (("low", low), ("high", high)):
        assert_probe(filtered, probes[f"{part}_unclamped"], 1e-5, 0)
        assert_probe(filtered.clamp(0, 1), probes[f"{part}_clamped"], 1e-5, 0)
    vectors = network.features(x)
    similarities = 6 * len(network.backbone.blocks)
    assert_probe(vectors[0, :, :similarities], probes["vector_similarity_part"], 1e-4)
    assert_probe(vectors[0, :, similarities:], probes["vector_context_part"], 1e-4)
    attended, weights = network.attention(vectors)
    assert_probe(weights, probes["attention"], 1e-5)
    assert_probe(attended, probes["attended"], 1e-4)
    normed = network.norm(attended)
    assert_probe(normed, probes["normed"], 1e-4)
    logits, tolerance = network.head(normed), 2e-5 if name == "spai_reduced" else 1e-4
    torch.testing.assert_close(logits, torch.tensor(case["logit"]), atol=tolerance, rtol=0)
    torch.testing.assert_close(logits.sigmoid(), torch.tensor(case["score"]), atol=tolerance, rtol=0)


@pytest.mark.parametrize("case", REDUCED["cases"][1:3], ids=lambda case: case["input"])
@torch.inference_mode()
def test_the_forward_pass_gives_the_originals_logit(case, network_of):
    x = picture(next(item for item in REDUCED["inputs"] if item["name"] == case["input"]))
    torch.testing.assert_close(network_of("spai_reduced")(x), torch.tensor(case["logit"]), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_joined_training_views_give_the_originals_logits(network_of):
    fixture = FIXTURES["spai_reduced_training_views"]
    [case] = fixture["cases"]
    logits = network_of("spai_reduced")(picture(fixture["inputs"][0]))
    torch.testing.assert_close(logits, torch.tensor(case["logit"]), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_disc_at_frequency_0_gives_another_logit(network_of):
    network, case = network_of("spai_reduced"), REDUCED["cases"][0]
    factors = network.split.factors
    network.split.factors = half_plane(centred_disc(224, 16))
    try:
        difference = float(network(picture(REDUCED["inputs"][0])) - torch.tensor(case["logit"]))
    finally:
        network.split.factors = factors
    assert abs(difference) == pytest.approx(2.4e-4, rel=0.1)


@pytest.mark.parametrize("case", MFM["cases"], ids=lambda case: case["mask"])
@torch.inference_mode()
def test_pre_training_equals_the_original(case):
    facts, state = MFM["config"], original_state(MFM)
    network = MaskedFrequencyModel(width=facts["embed_dim"], blocks=facts["depth"], heads=facts["num_heads"]).eval()
    network.encoder.load_state_dict(mfm_backbone({"model": state}))
    for ours, theirs in {"norm": "encoder.norm", "decoder": "decoder.0"}.items():
        parts = {part: state[f"{theirs}.{part}"] for part in ("weight", "bias")}
        network.get_submodule(ours).load_state_dict(parts)
    [recipe] = MFM["inputs"]
    x, low = picture(recipe), centred_disc(224, 16)
    masks = (low if case["mask"] == "low" else 1 - low).expand(len(x), -1, -1)
    corrupted = corrupt(x, masks)
    restored = network(standardise(corrupted))
    assert_probe(corrupted, case["probes"]["corrupted"], 1e-5, 0)
    assert_probe(network.features(standardise(corrupted)), case["probes"]["encoded"], 1e-4)
    assert_probe(restored, case["probes"]["reconstruction"], 1e-4)
    distance = spectral_distance(restored, standardise(x))
    assert_probe(distance[:, None], case["probes"]["elementwise_loss"], 1e-4)
    for reduction in ("normal", "masked"):
        loss = mfm_loss(restored, standardise(x), masks, reduction=reduction)
        assert float(loss) == pytest.approx(case[f"loss_{reduction}"], abs=2e-5)


def test_the_parameters_of_the_released_configuration_are_those_that_its_forward_pass_reaches():
    with torch.device("meta"):
        network = SPAI(**sizes_of(FIXTURES["spai_full"]))
    unused = ("fc_norm.", "intermediate_fc_norm.", "head.", "cls_blocks.", "cls_pos_embed", "actual_cls_token")
    shapes = {key: shape for key, shape, dtype in FIXTURES["spai_full"]["state_dict"] if dtype == "float32"}
    reached = [s for key, s in shapes.items() if not key.startswith(tuple("mfvit.vit." + name for name in unused))]
    assert sum(p.numel() for p in network.parameters()) == sum(int(np.prod(shape)) for shape in reached)
    assert len(network.state_dict()) == len(reached)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "config": object(), "optimizer": {"state": {}}}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_wrapping_of_a_checkpoint_is_read_alike(wrap, prefix, network_of):
    network, state = network_of("spai_reduced"), original_state(REDUCED)
    converted = convert_spai(wrap({prefix + key: value for key, value in state.items()}), network)
    own = network.state_dict()
    assert converted.keys() == own.keys() and all(torch.equal(converted[key], own[key]) for key in own)


def test_parts_that_nothing_reads_may_be_missing_and_others_may_not(network_of):
    network, state = network_of("spai_reduced"), original_state(REDUCED)
    without = {key: value for key, value in state.items() if "cls_blocks" not in key and key != "mfvit.frequencies_mask"}
    assert convert_spai(without, network).keys() == network.state_dict().keys()
    del without["to_kv.weight"]
    with pytest.raises(WeightsMismatch, match=r"attention\.key_value"):
        convert_spai(without, network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mfvit.frequencies_mask": centred_disc(224, 16).long()}, "856 ones"),
        ({"mfvit.frequencies_mask": doubled_disc(112, 16).long()}, r"\(112, 112\)"),
        ({"mfvit.vit.blocks.7.norm1.weight": torch.ones(48)}, "belong to no SPAI"),
        ({"adapter.weight": torch.ones(48)}, "adapter.weight"),
        ({"norm.weight": torch.ones(7)}, "another size"),
    ],
)
def test_checkpoints_of_other_networks_are_refused(change, message, network_of):
    with pytest.raises(WeightsMismatch, match=message):
        convert_spai(original_state(REDUCED) | change, network_of("spai_reduced"))


def test_the_converter_expects_the_released_sizes_unless_told_otherwise():
    with pytest.raises(WeightsMismatch, match="SPAI"):
        convert_spai(original_state(REDUCED))
    with pytest.raises(WeightsMismatch, match="MFM"):
        convert_mfm(original_state(MFM))
    with pytest.raises(WeightsMismatch, match=r"encoder\."):
        convert_mfm(original_state(REDUCED))
