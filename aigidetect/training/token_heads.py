"""Heads that read the patches of a view one by one: does a local trace say more than the mean of the picture?

The head of `vit-clip` sees mean and deviation of the patch tokens of a block. Here every patch gives evidence of its own,
and a pooling makes one logit of it: as a mean, as a smooth maximum, or with learned weights. On the same tokens, a head
of the former kind is what they are compared with; see the question "pooling" of `python -m aigidetect.training head`.

References:
    | Attention-based Deep Multiple Instance Learning (Ilse et al., ICML 2018), equation 9 for the gated attention
    | https://arxiv.org/abs/1802.04712
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.clip_vit import EPSILON, Tower
from .datasets import Sample
from .heads import sample_weights, source_folds
from .losses import smoothed_bce

Half = NDArray[np.float16]
Pooling = Literal["mean", "smooth-max", "attention"]
POOLINGS: tuple[Pooling, ...] = ("mean", "smooth-max", "attention")


@dataclass(frozen=True)
class TokenConfig:
    """How a head on tokens is fitted.

    Attributes:
        pooling: `"mean"` of the patches' evidence; `"smooth-max"`: the logarithm of the mean of its exponentials, with a
            trainable temperature; `"attention"`: its mean with weights from gated attention.
        hidden: Width of the hidden layer on each token.
        dropout: Share of the inputs and hidden units that are dropped while fitting.
        epochs: Passes over all views.
        learning_rate: AdamW's peak, after which a cosine falls to 0.
        weight_decay: AdamW's.
        balance: See `aigidetect.training.heads.HeadConfig`.
        batch_size: Views a step.
        seed: Seed of initial weights, dropout and order.
    """

    pooling: Pooling = "attention"
    hidden: int = 64
    dropout: float = 0.5
    epochs: int = 6
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    balance: float = 0.5
    batch_size: int = 64
    seed: int = 0


class TokenHead(nn.Module):
    """Evidence of every patch, pooled, plus that of the class token: tokens (N, L, D), the class token first -> (N, 1)."""

    def __init__(self, width: int, pooling: Pooling, hidden: int) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"Unknown pooling {pooling!r}; use one of {', '.join(POOLINGS)}.")
        self.pooling = pooling
        self.whole = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.local = nn.Linear(width, hidden)
        self.evidence = nn.Linear(hidden, 1)
        self.gate = nn.Linear(hidden, 2 * hidden) if pooling == "attention" else None
        self.weigh = nn.Linear(hidden, 1, bias=False) if pooling == "attention" else None
        self.log_sharpness = nn.Parameter(torch.zeros(())) if pooling == "smooth-max" else None

    def forward(self, tokens: Tensor, dropout: float = 0.0) -> Tensor:
        normed = F.dropout(F.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON), dropout)
        hidden = F.dropout(F.gelu(self.local(normed[:, 1:])), dropout)  # (N, L - 1, H)
        evidence = self.evidence(hidden)[..., 0]  # (N, L - 1)
        logits: Tensor = self.whole(normed[:, 0]) + self._pool(evidence, hidden)[:, None]
        return logits

    def _pool(self, evidence: Tensor, hidden: Tensor) -> Tensor:
        if self.log_sharpness is not None:
            sharpness = self.log_sharpness.exp()
            pooled: Tensor = (torch.logsumexp(sharpness * evidence, dim=1) - math.log(evidence.shape[1])) / sharpness
            return pooled
        if self.gate is not None and self.weigh is not None:
            content, gate = self.gate(hidden).chunk(2, dim=-1)
            weights = self.weigh(torch.tanh(content) * torch.sigmoid(gate))[..., 0].softmax(dim=1)
            attended: Tensor = (weights * evidence).sum(dim=1)
            return attended
        return evidence.mean(dim=1)


@torch.inference_mode()
def late_tokens(tower: Tower, tokens: Half, after: int, *, batch_size: int = 16) -> Half:
    """Tokens after the last block of a tower, from those after an earlier one.

    Args:
        tower: The tower, in evaluation mode.
        tokens: (N, L, D) float16, after the block `after`.
        after: Number of that block.
        batch_size: Views at once.

    Returns:
        (N, L, D) float16, computed in bfloat16.
    """
    result = np.empty(tokens.shape, np.float16)
    for start in range(0, len(tokens), batch_size):
        x = torch.from_numpy(tokens[start : start + batch_size].astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            for block in list(tower.blocks)[after:]:
                x = block(x)
        result[start : start + batch_size] = x.half().numpy()
    return result


def fit_token_head(tokens: Half, labels: Tensor, weights: Tensor, config: TokenConfig) -> TokenHead:
    """A head fitted on tokens.

    Args:
        tokens: (N, L, D) float16, the class token first, not normalised.
        labels: (N,) in [0, 1].
        weights: (N,) non-negative.
        config: See `TokenConfig`.

    Returns:
        The head, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    head = TokenHead(tokens.shape[2], config.pooling, config.hidden)
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    steps = config.epochs * -(-len(tokens) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(config.epochs):
        for chosen in torch.split(torch.randperm(len(tokens), generator=generator), config.batch_size):
            views = torch.from_numpy(tokens[chosen.numpy()].astype(np.float32))
            loss = smoothed_bce(head(views, config.dropout), labels[chosen, None], weights=weights[chosen, None])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return head.eval().requires_grad_(False)


def tokens_out_of_fold(
    tokens: Half, samples: Sequence[Sample], config: TokenConfig, *, folds: int = 3
) -> NDArray[np.float32]:
    """Logits from heads that saw no picture of its model line or photo source, as `aigidetect.training.heads.out_of_fold`.

    Args:
        tokens: (N, L, D) float16, one view of each picture.
        samples: The pictures.
        config: How each head is fitted.
        folds: Number of folds.

    Returns:
        (1, N) float32.
    """
    fold, logits = source_folds(samples, folds), np.zeros((1, len(samples)), np.float32)
    labels = torch.tensor([float(sample.label) for sample in samples])
    for number in range(folds):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        weights = sample_weights([sample for sample, own in zip(samples, fold) if own != number], config.balance)
        head = fit_token_head(tokens[inside], labels[inside], weights, config)
        with torch.inference_mode():
            for rows in np.array_split(outside, max(1, len(outside) // config.batch_size)):
                logits[0, rows] = head(torch.from_numpy(tokens[rows].astype(np.float32)))[:, 0].numpy()
    return logits
