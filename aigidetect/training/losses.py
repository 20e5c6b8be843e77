"""Training losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def smoothed_bce(logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy with targets `smoothing` and `1 - smoothing`.

    Args:
        logits: (N, 1) of "AI-generated".
        labels: (N, 1) in [0, 1], 1 being AI-generated; soft labels are allowed.
        smoothing: In [0, 0.5).
        weights: (N, 1) factor of each loss; None means 1.

    Returns:
        Scalar, mean over the batch.
    """
    targets = labels * (1 - 2 * smoothing) + smoothing
    return functional.binary_cross_entropy_with_logits(logits, targets, weight=weights)


def elbo(logits: Tensor, labels: Tensor, kl: Tensor, samples: int, smoothing: float = 0.0) -> Tensor:
    """Negative evidence lower bound of a network with random weights, per training picture.

    The cross entropy of one draw of the weights plus the divergence of their distribution from the prior, which all training
    pictures share.

    Args:
        logits: (N, 1) of "AI-generated", computed with one draw of the weights.
        labels: (N, 1) in [0, 1], 1 being AI-generated.
        kl: Scalar KL divergence of posterior and prior, >= 0, in nats.
        samples: Number of training pictures, at least 1; not of those in the batch.
        smoothing: See `smoothed_bce`.

    Returns:
        Scalar, mean over the batch, in nats.

    Raises:
        ValueError: `samples` is below 1.

    References:
        | Weight Uncertainty in Neural Networks (Blundell et al., ICML 2015), equation 1, divided by the pictures
        | https://arxiv.org/abs/1505.05424
    """
    if samples < 1:
        raise ValueError(f"Expected the number of training pictures, at least 1, but found {samples}.")
    return smoothed_bce(logits, labels, smoothing) + kl / samples


def hard_negatives(logits: Tensor, labels: Tensor, share: float) -> Tensor:
    """Weights that leave, of the real views, only those that look most AI-generated.

    Args:
        logits: (N, 1) of "AI-generated".
        labels: (N, 1) in [0, 1]; below 0.5 is real.
        share: Share in (0, 1] of the real views that keep a weight, rounded up.

    Returns:
        (N, 1) without gradient: 1 for AI-generated views; for real ones 0 or a factor above 1, so that both classes weigh
        what they did.

    References:
        | Training Region-based Object Detectors with Online Hard Example Mining (Shrivastava et al., CVPR 2016)
        | https://arxiv.org/abs/1604.03540
    """
    weights = torch.ones_like(logits)
    real = (labels < 0.5).flatten().nonzero().flatten()
    kept = math.ceil(share * len(real))
    if kept < len(real):
        hardest = logits.detach().flatten()[real].argsort(descending=True)[:kept]
        weights[real] = 0.0
        weights[real[hardest]] = len(real) / kept
    return weights


def paired_consistency(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of the probabilities of two views of the same pictures.

    Args:
        first: (N, 1) logits under one degradation.
        second: (N, 1) logits of the same pictures, in the same order, under another.

    Returns:
        Scalar in [0, 1].
    """
    return (torch.sigmoid(first) - torch.sigmoid(second)).square().mean()
