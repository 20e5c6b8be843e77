"""Which places of a picture speak for a score: what a network says of one window of patches after the other.

References:
    | Visualizing and Understanding Convolutional Networks (Zeiler & Fergus, ECCV 2014), section 4.2: covering a part of the
      picture and looking at the score, of which this is the reverse: all but a part is left out
    | https://arxiv.org/abs/1311.2901

A transformer takes any set of tokens, so what is left out need not be replaced by grey or noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_SIDE, _STEP = 6, 4  # patches


def window_evidence(tokens: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Evidence of each patch: the mean logit of the windows of 6 x 6 patches, 4 apart, that hold it.

    Args:
        tokens: (N, 1 + G * G, D), the class token, then the patches row by row, with their positions.
        score: (M, 1 + K, D), class token and some patches of M pictures -> (M, 1) logits of pictures that are nothing else.

    Returns:
        (N, G, G).
    """
    n, length, _ = tokens.shape
    grid = math.isqrt(length - 1)
    side = min(_SIDE, grid)
    starts = sorted({*range(0, grid - side + 1, _STEP), grid - side})
    corners = [(top, left) for top in starts for left in starts]
    place = torch.arange(1, length, device=tokens.device).view(grid, grid)
    windows = [tokens[:, place[top : top + side, left : left + side].flatten()] for top, left in corners]
    logits = score(torch.cat((tokens[:, :1].repeat(len(corners), 1, 1), torch.cat(windows)), dim=1))
    total = logits.new_zeros(n, grid, grid)
    looks = logits.new_zeros(n, grid, grid)
    for (top, left), logit in zip(corners, logits.view(len(corners), n)):
        total[:, top : top + side, left : left + side] += logit[:, None, None]
        looks[:, top : top + side, left : left + side] += 1
    mean: Tensor = total / looks
    return mean
