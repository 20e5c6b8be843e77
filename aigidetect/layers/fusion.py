"""Multi-scale NPR: residuals at three scales, fused by weights.

References:
    | AI-Generated Image Detection, course report (HKUST, 2025), section 6: multi-scale NPR
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .npr import crop_to_multiple, npr

SCALES = (0.25, 0.5, 0.75)


def multi_scale_npr(x: Tensor, weights: Tensor | Sequence[float]) -> Tensor:
    """Weighted sum of the residuals at scales 0.25, 0.5, 0.75, accumulated in that order.

    Args:
        x: Float tensor (N, 3, H, W), already normalised.
        weights: One weight a scale, used as they are (no softmax here).

    Returns:
        Tensor (N, 3, H', W'), H' and W' being H and W rounded down to multiples of 4.

    Raises:
        ValueError: Fewer than 4 rows or columns, or not three weights.
    """
    if len(weights) != len(SCALES):
        raise ValueError(f"Expected {len(SCALES)} weights, one for each of the scales {SCALES}, but got {len(weights)}.")
    x = crop_to_multiple(x, 4).contiguous()  # once for the three scales, see `npr`
    first, *rest = zip(weights, SCALES)
    fused: Tensor = first[0] * npr(x, first[1])
    for weight, scale in rest:
        fused = fused + weight * npr(x, scale)
    return fused


class MultiScaleNPR(nn.Module):
    """Trainable fusion: softmax over three weights, times a trainable factor.

    The three scales weigh 1/3 each at the start, and the factor starts at 2/3. Input (N, 3, H, W), output (N, 3, H', W').
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(len(SCALES)))
        self.scale_factor = nn.Parameter(torch.tensor(2.0 / 3.0))

    def forward(self, x: Tensor) -> Tensor:
        return multi_scale_npr(x, torch.softmax(self.weights, dim=0)) * self.scale_factor


class FixedMultiScaleNPR(nn.Module):
    """Fusion without parameters, an early form of the report: weights 0.25, 0.5, 0.25, times 2/3.

    Input (N, 3, H, W), output (N, 3, H', W').
    """

    def forward(self, x: Tensor) -> Tensor:
        return multi_scale_npr(x, (0.25, 0.5, 0.25)) * 2.0 / 3.0
