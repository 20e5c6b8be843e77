"""Training losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def smoothed_bce(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross entropy with targets `smoothing` and `1 - smoothing`.

    Args:
        logits: (N, 1) of "AI-generated".
        labels: (N, 1) in [0, 1], 1 being AI-generated; soft labels are allowed.
        smoothing: In [0, 0.5).

    Returns:
        Scalar, mean over the batch.
    """
    targets = labels * (1 - 2 * smoothing) + smoothing
    return functional.binary_cross_entropy_with_logits(logits, targets)


def paired_consistency(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the probabilities of two views of the same pictures.

    Args:
        first: (N, 1) logits under one degradation.
        second: (N, 1) logits of the same pictures, in the same order, under another.

    Returns:
        Scalar in [0, 1].
    """
    return (torch.sigmoid(first) - torch.sigmoid(second)).square().mean()
