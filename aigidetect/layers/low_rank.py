"""Low-rank updates of frozen matrices: trained as two thin factors, stored beside the matrix, added to it at load.

A file may hold, beside `X.weight` (out, in):

    X.low_rank_down   (r, in)
    X.low_rank_up     (out, r)

and then means `X.weight + X.low_rank_up @ X.low_rank_down`.

References:
    | LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., ICLR 2022)
    | https://arxiv.org/abs/2106.09685

Deviations: the scale alpha / r is 1, so it is part of the factors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_DOWN = ".low_rank_down"
_UP = ".low_rank_up"


class LowRankLinear(nn.Module):
    """A frozen linear layer and a trainable update of low rank, which starts at zero.

    Args:
        linear: The layer; its parameters no longer ask for gradients.
        rank: Rank r of the update.

    Shape: (..., in) -> (..., out).
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y + nn.functional.linear(nn.functional.linear(x, self.down), self.up)

    def factors(self, name: str) -> dict[str, Tensor]:
        """The update as it is stored with the layer `name`."""
        return {name + _DOWN: self.down.detach().clone(), name + _UP: self.up.detach().clone()}


def merge_low_rank(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict with every low-rank update added to its matrix; one without any is returned with the same tensors.

    Args:
        state: Tensors by name; not changed. Matrices with an update are floating point: dequantise first.

    Returns:
        New dict without the names of factors; changed matrices are float32.

    Raises:
        ValueError: A factor lacks its partner or its matrix, or the shapes do not fit.
    """
    result = {key: value for key, value in state.items() if not key.endswith((_DOWN, _UP))}
    names = {key.removesuffix(_DOWN).removesuffix(_UP) for key in state.keys() - result.keys()}
    for name in sorted(names):
        down, up, weight = state.get(name + _DOWN), state.get(name + _UP), state.get(f"{name}.weight")
        if down is None or up is None or weight is None or not weight.is_floating_point():
            raise ValueError(f"The low-rank update of {name!r} needs both factors and a matrix of floating point.")
        if (*up.shape, *down.shape) != (weight.shape[0], down.shape[0], down.shape[0], weight.shape[1]):
            raise ValueError(
                f"The low-rank update of {name!r}, {tuple(up.shape)} times {tuple(down.shape)}, does not fit the matrix "
                f"{tuple(weight.shape)}."
            )
        result[f"{name}.weight"] = weight.float() + up.float() @ down.float()
    return result
