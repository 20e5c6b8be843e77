"""Properties of the NPR operator, its fusion and the attention modules."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from aigidetect.layers.attention import ChannelAttention, SpatialAttention
from aigidetect.layers.fusion import SCALES, FixedMultiScaleNPR, MultiScaleNPR, multi_scale_npr
from aigidetect.layers.highpass import HighPass
from aigidetect.layers.npr import NPR, crop_to_multiple, npr
from aigidetect.models.npr_resnet import build

sizes = st.integers(1, 40).map(lambda n: 4 * n)


def round_trip(x, scale):
    down = interpolate(x, scale_factor=scale, mode="nearest", recompute_scale_factor=True)
    return interpolate(down, scale_factor=1 / scale, mode="nearest", recompute_scale_factor=True)


@settings(max_examples=60, deadline=None)
@given(h=sizes, w=sizes, scale=st.sampled_from(SCALES), seed=st.integers(0, 9))
def test_npr_is_bit_equal_to_the_interpolation_pair(h, w, scale, seed):
    x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(npr(x, scale), x - round_trip(x, scale))


@settings(max_examples=30, deadline=None)
@given(h=sizes, w=sizes)
def test_fused_npr_is_bit_equal_to_three_interpolation_pairs(h, w):
    x = torch.randn(1, 3, h, w, generator=torch.Generator().manual_seed(h * w))
    weights = torch.tensor([0.2, 0.5, 0.3])
    fused = torch.zeros_like(x)
    for weight, scale in zip(weights, SCALES):
        fused = fused + weight * (x - round_trip(x, scale))
    assert torch.equal(multi_scale_npr(x, weights), fused)


@pytest.mark.parametrize("scale", SCALES)
def test_npr_vanishes_on_constant_pictures_and_at_the_first_pixel_of_each_period(scale):
    period = 2 if scale == 0.5 else 4
    x = torch.randn(1, 3, 16, 24)
    assert npr(torch.full((1, 3, 16, 24), 0.7), scale).abs().max() == 0
    assert npr(x, scale)[..., ::period, ::period].abs().max() == 0
    assert npr(x, scale).abs().max() > 0


def test_npr_ignores_brightness_and_scales_with_contrast():
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(npr(x + 3.0), npr(x))
    torch.testing.assert_close(npr(2 * x), 2 * npr(x))


@pytest.mark.parametrize(("module", "unit"), [(NPR(), 2), (MultiScaleNPR(), 4), (FixedMultiScaleNPR(), 4)])
@pytest.mark.parametrize("size", [(5, 9), (7, 6), (8, 4)])
def test_trailing_rows_and_columns_are_dropped(module, unit, size):
    x = torch.randn(1, 3, *size)
    expected = tuple(n - n % unit for n in size)
    assert module(x).shape[-2:] == expected
    assert torch.equal(module(x), module(x[..., : expected[0], : expected[1]]))


def test_too_small_pictures_are_refused_with_the_size_that_would_work():
    with pytest.raises(ValueError, match="at least 4x4 pixels, but got 3x9"):
        crop_to_multiple(torch.zeros(1, 3, 3, 9), 4)


def test_unknown_scales_are_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"0\.25, 0\.5, 0\.75"):
        npr(torch.zeros(1, 3, 8, 8), 0.3)


def test_scales_weigh_the_same_at_the_start_and_all_parameters_learn():
    module, x = MultiScaleNPR(), torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(module(x), sum(npr(x, s) for s in SCALES) / 3 * 2 / 3)
    module(x).square().sum().backward()
    assert module.weights.grad.abs().max() > 0 and module.scale_factor.grad.abs() > 0


def test_channel_gate_lies_between_0_and_2_by_default_and_between_0_and_1_in_the_reports_formula():
    x = torch.ones(4, 32, 3, 3)
    for formula, bound in (("sum-of-sigmoids", 2), ("sigmoid-of-sum", 1)):
        module = ChannelAttention(32, formula=formula)
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, 5, 6)
        gate = module(x)
        assert gate.max() <= bound and gate.max() > bound - 0.01


def test_unknown_formulas_are_refused():
    with pytest.raises(ValueError, match="sigmoid-of-sum"):
        ChannelAttention(32, formula="softmax")


@pytest.mark.parametrize("bias", [False, True])
def test_spatial_attention_gates_positions_and_not_channels(bias):
    module, x = SpatialAttention(bias=bias), torch.rand(2, 5, 9, 9) + 0.5
    gate = module(x) / x
    torch.testing.assert_close(gate, gate[:, :1].expand_as(gate))
    assert gate.min() > 0 and gate.max() < 1
    assert (module.conv.bias is not None) == bias


def test_the_high_pass_treats_all_positions_alike_and_sees_no_slopes():
    x = torch.randn(1, 3, 12, 14, dtype=torch.float64)
    residual = HighPass()(x)
    assert residual.shape == x.shape
    torch.testing.assert_close(residual[..., 3:-2, 3:-2], HighPass()(x[..., 1:, 1:])[..., 2:-2, 2:-2])
    rows, columns = torch.arange(9.0)[:, None], torch.arange(8.0)
    slope = (0.5 + 2 * rows - 3 * columns).expand(1, 3, 9, 8)
    assert HighPass()(slope)[..., 1:-1, 1:-1].abs().max() < 1e-5


@pytest.mark.parametrize("fusion", ["high-pass", "pixels"])
def test_networks_on_other_residuals_have_the_layers_of_the_baseline(fusion):
    assert build(fusion=fusion).state_dict().keys() == build().state_dict().keys()


def test_a_non_negative_last_layer_lets_features_speak_for_one_side_only():
    network = build(non_negative=True).eval()
    with torch.no_grad():
        network.fc1.weight.normal_()
    pooled = torch.rand(4, 512, 1, 1)
    more = pooled + torch.rand_like(pooled)
    network.features = lambda x: x
    assert (network(more) > network(pooled)).all()
