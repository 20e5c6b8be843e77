"""Tensors by name -> a module, strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from .errors import WeightsMismatch


class Unfilled(TorchFunctionMode):
    """Context in which a network is built without most of its random weights, for one that `load_into` fills at once:
    drawing them can take as long as reading the file.

    Those functions of torch.nn.init that linear layers and convolutions use by default return their tensor as it is. Others
    draw as usual: `trunc_normal_` repeats what is out of bounds, and would do so for ever with a draw that changes nothing.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (init.uniform_, init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


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
