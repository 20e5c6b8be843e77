"""Channel and spatial attention.

References:
    | CBAM: Convolutional Block Attention Module (Woo et al., ECCV 2018)
    | https://arxiv.org/abs/1807.06521
    | AI-Generated Image Detection, course report (HKUST, 2025), section 6
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Formula = Literal["sum-of-sigmoids", "sigmoid-of-sum"]


class ChannelAttention(nn.Module):
    """Multiplies each channel by a gate computed from its global average and maximum.

    The report writes the gate as `sigmoid(mlp(avg) + mlp(max))`, in (0, 1). Its code, and so every checkpoint of it,
    computes `sigmoid(mlp(avg)) + sigmoid(mlp(max))`, in (0, 2): the default here. A checkpoint trained with one formula
    gives wrong logits under the other.

    Args:
        channels: Number of feature channels C, at least `reduction`.
        reduction: C / reduction is the width of the hidden layer.
        formula: `"sum-of-sigmoids"` (the code) or `"sigmoid-of-sum"` (the report's text, and CBAM).

    Shape: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, channels: int, *, reduction: int = 16, formula: Formula = "sum-of-sigmoids") -> None:
        super().__init__()
        if formula not in ("sum-of-sigmoids", "sigmoid-of-sum"):
            raise ValueError(f"Unknown formula {formula!r}; use 'sum-of-sigmoids' or 'sigmoid-of-sum'.")
        self.formula = formula
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        average = self.fc(x.mean(dim=(2, 3)))  # (N, C)
        maximum = self.fc(x.amax(dim=(2, 3)))  # (N, C)
        if self.formula == "sum-of-sigmoids":
            gate = torch.sigmoid(average) + torch.sigmoid(maximum)
        else:
            gate = torch.sigmoid(average + maximum)
        return x * gate[:, :, None, None]


class SpatialAttention(nn.Module):
    """Multiplies each position by a gate computed from the mean and maximum over channels.

    Args:
        bias: Whether the 7x7 convolution has a bias: not in the NPR networks, but in the report's ResNet-50.

    Shape: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.stack((x.mean(dim=1), x.amax(dim=1)), dim=1)  # (N, 2, H, W)
        return x * torch.sigmoid(self.conv(summary))
