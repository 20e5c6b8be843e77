"""Matrices stored as 8-bit integers -> float32, and back.

A file may hold a matrix as three tensors, one scale (and zero point) per output row or one for all:

    X.weight             (out, ...)      int8 or uint8
    X.weight_scale       (out,) or ()    floating point
    X.weight_zero_point  (out,) or ()    integer; absent where it is zero everywhere

References:
    | The operator DequantizeLinear of ONNX: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Of int8, the range that has an opposite for each of its values.
MOST_LEVELS = 127
_SCALE = "_scale"
_ZERO_POINT = "_zero_point"
_STORED = (torch.int8, torch.uint8)


def matrix_of(key: str) -> str:
    """Name of the matrix that a tensor belongs to: `X.weight` for `X.weight_scale`, and for any other name that name."""
    owner = key.removesuffix(_SCALE).removesuffix(_ZERO_POINT)
    return owner if owner.endswith(".weight") else key


def quantise(state: Mapping[str, Tensor], keys: Iterable[str], levels: int) -> dict[str, Tensor]:
    """State dict with some matrices as integers from `-levels` to `levels` and one scale for each output row.

    The scale is the row's largest magnitude divided by `levels`, and each value becomes the nearest multiple of it. Few
    levels leave little to store for a compressor, such as that of a wheel.

    Args:
        state: Tensors by name; not changed.
        keys: Names `X.weight` of the matrices, (out, ...) float32.
        levels: From 1 to `MOST_LEVELS`.

    Returns:
        New dict, with int8 matrices and float32 scales (out,), which `dequantise` reads.

    Raises:
        ValueError: `levels` is out of its range, or a tensor is no float32 matrix with a name `X.weight`.

    Example:
        >>> quantise({"fc.weight": torch.tensor([[1.0, -1.5]])}, ["fc.weight"], 3)
        {'fc.weight': tensor([[ 2, -3]], dtype=torch.int8), 'fc.weight_scale': tensor([0.5000])}
    """
    if not 1 <= levels <= MOST_LEVELS:
        raise ValueError(f"Expected from 1 to {MOST_LEVELS} levels on either side of zero, but got {levels}.")
    result = dict(state)
    for key in keys:
        weight = state[key]
        if weight.dtype != torch.float32 or weight.ndim < 2 or not key.endswith(".weight"):
            raise ValueError(
                f"Expected a float32 matrix with a name '*.weight', but {key!r} is {_described(state, key)} "
                f"{tuple(weight.shape)}; were these weights quantised before?"
            )
        scale = weight.flatten(1).abs().amax(dim=1) / levels  # (out,)
        # A row of zeros stays one under any scale but 0.
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        steps = weight / _per_row(key, weight, scale)
        result |= {key: steps.round().clamp(-levels, levels).to(torch.int8), key + _SCALE: scale}
    return result


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
        matrix = matrix_of(key)
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


def _described(state: Mapping[str, Tensor], key: str) -> str:
    return str(state[key].dtype).removeprefix("torch.") if key in state else "none"
