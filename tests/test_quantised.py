"""Matrices in 8 bits become the float32 ones that they stand for."""

import numpy as np
import pytest
import torch

from aigidetect.layers.quantised import dequantise


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
