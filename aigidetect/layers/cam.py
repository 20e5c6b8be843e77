"""Class activation maps: which positions of a feature map a score comes from.

References:
    | Learning Deep Features for Discriminative Localization (Zhou et al., CVPR 2016): the map of a linear last layer
    | https://arxiv.org/abs/1512.04150
    | Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization (Selvaraju et al., ICCV 2017)
    | https://arxiv.org/abs/1610.02391

Both weigh each channel and add the channels up at every position. Behind the mean over all positions the gradient is the
same everywhere, so Grad-CAM's weights are the gradient at the mean; of a linear layer they are its weights, which is CAM.

Deviations: nothing is clamped at 0, since what speaks against "AI-generated" counts too; and the constant that the head adds
is spread evenly, so that the mean of a map is the logit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def class_activation(grid: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Evidence of each position, `head(mean) + slope . (position - mean)`, whose mean over all positions is the logit.

    Exact for a linear head: each position then has the logit that the head gives to a map that is like it everywhere. For
    another head it is the tangent at the mean.

    Args:
        grid: (N, C, H, W) float feature map.
        head: (N, C) mean over all positions -> (N, 1) logits.

    Returns:
        (N, H, W), in logits; above 0 speaks for "AI-generated".
    """
    grid = grid.detach().to(torch.promote_types(grid.dtype, torch.float32))
    mean = grid.mean(dim=(2, 3))
    # In half precision the mean of the map would be off the logit visibly.
    with torch.enable_grad(), torch.autocast(grid.device.type, enabled=False):
        logit = head(mean.requires_grad_())
        [slope] = torch.autograd.grad(logit.sum(), mean)
    mean = mean.detach()
    rest = logit.detach() - (slope * mean).sum(dim=1, keepdim=True)  # (N, 1)
    return (grid * slope[:, :, None, None]).sum(dim=1) + rest[:, :, None]
