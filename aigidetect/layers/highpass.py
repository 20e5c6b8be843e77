"""A high-pass residual without NPR's grid, to compare with it: what a pixel has that the mean of its surroundings lacks.

References:
    | Rich Models for Steganalysis of Digital Images (Fridrich & Kodovsky, IEEE TIFS 2012): residuals of linear predictors,
      of which this is the plainest
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad


class HighPass(nn.Module):
    """`x` less the mean of its 3x3 surroundings; beyond the border the nearest pixel counts.

    NPR compares with one pixel of a block of a fixed grid; this treats all positions alike.

    Input (N, 3, H, W) float, already normalised; output of the same shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x - avg_pool2d(pad(x, (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)
