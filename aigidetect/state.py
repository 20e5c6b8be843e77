"""Tensors by name -> a module, strictly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import WeightsMismatch


def load_into(module: torch.nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Copies tensors into a module, strictly: all keys, all shapes, or nothing at all.

    Floating-point tensors are cast to the type of the module's own, so weights may be stored in half precision.

    Args:
        module: Gets the values; unchanged if an error is raised.
        state: Tensors by key.
        origin: Where they come from, for the message.

    Raises:
        WeightsMismatch: Keys are missing or left over, or shapes or kinds of number differ; lists five of each.
    """
    own = module.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape or kind": [
            f"{key} (expected {_kind(own[key])}, got {_kind(state[key])})"
            for key in own
            if key in state and _kind(own[key]) != _kind(state[key])
        ],
    }
    if any(problems.values()):
        lists = "; ".join(f"{problem}: {_first(keys)}" for problem, keys in problems.items() if keys)
        raise WeightsMismatch(f"The weights of {origin} do not fit the network {type(module).__name__}; {lists}.")
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:  # a check of the module's own
        raise WeightsMismatch(f"The weights of {origin} do not fit {type(module).__name__}: {error}") from error


def _kind(tensor: Tensor) -> str:
    return f"{'float' if tensor.is_floating_point() else str(tensor.dtype)[6:]} {tuple(tensor.shape)}"


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
