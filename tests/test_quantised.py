"""Matrices in 8 bits become the float32 ones that they stand for, and back."""

import numpy as np
import pytest
import torch

from aigidetect.layers.quantised import MOST_LEVELS, dequantise, matrix_of, quantise


def test_dequantise_leaves_a_plain_state_dict_alone():
    state = {"fc.weight": torch.randn(2, 2), "npr.scale_factor": torch.tensor(0.5), "steps": torch.tensor([3])}
    result = dequantise(state)
    assert result is not state and result.keys() == state.keys()
    assert all(result[key] is value for key, value in state.items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("rows", [True, False], ids=["per row", "one"])
def test_dequantise_subtracts_the_zero_point_and_multiplies_by_the_scale(dtype, rows):
    weight = torch.tensor([[0, 127, 5], [100, 1, 2]], dtype=dtype)
    scale = torch.tensor([0.1, 0.3]) if rows else torch.tensor(0.7)
    zero = torch.tensor([3, 100] if rows else 9, dtype=dtype)
    state = {"a.weight": weight, "a.weight_scale": scale, "a.weight_zero_point": zero, "a.bias": torch.ones(2)}
    before = dict(state)
    result = dequantise(state)
    integers = weight.numpy().astype(np.int32) - zero.numpy().astype(np.int32).reshape(-1, 1)
    exact = integers.astype(np.float32) * scale.numpy().reshape(-1, 1)
    assert result.keys() == {"a.weight", "a.bias"} and result["a.weight"].dtype == torch.float32
    np.testing.assert_array_equal(result["a.weight"].numpy(), exact)
    assert state == before


def test_dequantise_refuses_what_does_not_belong_together():
    weight, scale = torch.zeros(2, 3, dtype=torch.int8), torch.ones(2)
    with pytest.raises(ValueError, match="missing"):
        dequantise({"a.weight": weight})
    with pytest.raises(ValueError, match="found none"):
        dequantise({"a.weight_scale": scale})
    with pytest.raises(ValueError, match="found float32"):
        dequantise({"a.weight": weight.float(), "a.weight_scale": scale})
    with pytest.raises(ValueError, match=r"found \(3,\)"):
        dequantise({"a.weight": weight, "a.weight_scale": torch.ones(3)})


@pytest.mark.parametrize("levels", [1, 15, 31, MOST_LEVELS])
def test_quantise_leaves_each_value_within_half_a_step_and_reaches_the_last_level_in_each_row(levels):
    torch.manual_seed(levels)
    state = {"a.weight": torch.randn(5, 3, 3, 3) * torch.logspace(-6, 3, 5)[:, None, None, None], "a.bias": torch.ones(5)}
    before = {key: value.clone() for key, value in state.items()}
    stored = quantise(state, ["a.weight"], levels)
    integers, scale = stored["a.weight"], stored["a.weight_scale"]
    assert integers.dtype == torch.int8 and (integers.flatten(1).abs().amax(dim=1) == levels).all()
    error = (dequantise(stored)["a.weight"] - state["a.weight"]).abs().flatten(1).amax(dim=1)
    assert (error <= 0.5001 * scale).all()
    assert stored["a.bias"] is state["a.bias"] and all(torch.equal(state[key], value) for key, value in before.items())


def test_quantise_keeps_a_row_of_zeros_and_what_is_already_a_multiple():
    matrix = torch.tensor([[0.0, 0.0, 0.0], [-7.0, 3.0, 1.0]])
    stored = quantise({"a.weight": matrix}, ["a.weight"], 7)
    assert torch.equal(dequantise(stored)["a.weight"], matrix) and stored["a.weight"].tolist() == [[0, 0, 0], [-7, 3, 1]]


def test_quantise_refuses_other_levels_and_what_is_no_matrix_of_floating_point():
    state = {"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2), "c": torch.ones(2, 2)}
    for levels in (0, MOST_LEVELS + 1):
        with pytest.raises(ValueError, match="from 1 to 127"):
            quantise(state, ["a.weight"], levels)
    for key in ("b.weight", "c"):
        with pytest.raises(ValueError, match=key):
            quantise(state, [key], 7)
    with pytest.raises(ValueError, match="quantised before"):
        quantise(quantise(state, ["a.weight"], 7), ["a.weight"], 7)


def test_scales_and_zero_points_belong_to_their_matrix_and_other_names_to_themselves():
    for key in ("a.weight", "a.weight_scale", "a.weight_zero_point"):
        assert matrix_of(key) == "a.weight"
    for key in ("npr.scale_factor", "a.bias", "a.log_scale"):
        assert matrix_of(key) == key
