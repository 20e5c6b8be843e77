"""Matrices stored as 8-bit integers -> float32.

A file may hold a matrix as three tensors, one scale (and zero point) per output row or one for all:

    X.weight             (out, ...)      int8 or uint8
    X.weight_scale       (out,) or ()    floating point
    X.weight_zero_point  (out,) or ()    integer; absent where it is zero everywhere

References:
    | The operator DequantizeLinear of ONNX: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from __future__ import annotations

import torch
from torch import Tensor

_SCALE = "_scale"
_ZERO_POINT = "_zero_point"
_STORED = (torch.int8, torch.uint8)


def dequantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict with every quantised matrix as float32; a state dict without any is returned with the same tensors.

    `(weight - zero_point) * scale`, in float32: the difference is exact and the product is rounded once, so the result
    is, bit for bit, that of DequantizeLinear.

    Args:
        state: Tensors by name; not changed.

    Returns:
        New dict without the names `*.weight_scale` and `*.weight_zero_point`; other tensors are passed on as they are.

    Raises:
        ValueError: A scale or zero point has no integer matrix, a matrix has no scale, or their shapes differ.

    Example:
        >>> state = {"fc.weight": torch.tensor([[2, -3]], dtype=torch.int8), "fc.weight_scale": torch.tensor([0.5])}
        >>> dequantise(state)
        {'fc.weight': tensor([[ 1.0000, -1.5000]])}
    """
    companions = {key for key in state if key.endswith((f".weight{_SCALE}", f".weight{_ZERO_POINT}"))}
    for key in sorted(companions):
        matrix = key.removesuffix(_SCALE).removesuffix(_ZERO_POINT)
        if matrix not in state or state[matrix].dtype not in _STORED:
            raise ValueError(f"{key!r} needs an int8 or uint8 {matrix!r}, but found {_described(state, matrix)}.")
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in companions:
            continue
        # Without this check a lost scale would go unnoticed: integers are copied into float parameters silently.
        if key.endswith(".weight") and value.dtype in _STORED:
            if key + _SCALE not in state:
                raise ValueError(f"{key!r} is stored as {_described(state, key)}, but its {key + _SCALE!r} is missing.")
            value = _dequantised(key, value, state[key + _SCALE], state.get(key + _ZERO_POINT))
        result[key] = value
    return result


def _dequantised(key: str, weight: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    values = weight.float()  # (out, ...)
    if zero_point is not None:
        values = values - _per_row(key, weight, zero_point)
    return values * _per_row(key, weight, scale)


def _per_row(key: str, weight: Tensor, companion: Tensor) -> Tensor:
    if companion.ndim == 0:
        return companion.float()
    if companion.shape != weight.shape[:1]:
        raise ValueError(
            f"Expected scales and zero points of {key!r} {tuple(weight.shape)} to have the shape () or "
            f"({weight.shape[0]},), but found {tuple(companion.shape)}."
        )
    return companion.float().reshape(-1, *[1] * (weight.ndim - 1))


def _described(state: dict[str, Tensor], key: str) -> str:
    return str(state[key].dtype).removeprefix("torch.") if key in state else "none"
