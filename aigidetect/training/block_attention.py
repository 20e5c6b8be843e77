"""A head that weighs the blocks of a tower against each other, to compare with one that reads them side by side.

References:
    | Leveraging Representations from Intermediate Encoder-blocks for Synthetic Image Detection
    | (Koutlis & Papadopoulos, ECCV 2024), section 3: projection of every block, trainable importance, contrastive loss
    | https://arxiv.org/abs/2402.19091
    | Supervised Contrastive Learning (Khosla et al., NeurIPS 2020), equation 2
    | https://arxiv.org/abs/2004.11362

Deviation from Koutlis & Papadopoulos: a block's features are class token, mean and deviation of the patches, not the class
token alone; and blocks 6 to 9 are weighed, not all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.clip_vit import Head


class BlockAttention(Head):
    """One projection for the features of every block, then their mean with a weight for each block and channel.

    Args:
        features: Number of features F, those of all blocks.
        hidden: Width H of the projection and of the layer after it, at least 1.
        blocks: Number of blocks T, a divisor of F.

    Shape: (N, F) -> (N, 1).
    """

    def __init__(self, features: int, hidden: int, blocks: int) -> None:
        super().__init__(features, hidden)
        self.hidden = nn.Linear(features // blocks, hidden)
        self.importance = nn.Parameter(torch.zeros(blocks, hidden))
        self.mixed = nn.Linear(hidden, hidden)

    def represent(self, features: Tensor, dropout: float = 0.0) -> Tensor:
        assert self.hidden is not None
        x = F.dropout((features - self.mean) / self.scale, dropout)
        each = F.gelu(self.hidden(x.view(len(x), len(self.importance), -1)))  # (N, T, H)
        pooled = F.dropout((each * self.importance.softmax(dim=0)).sum(dim=1), dropout)
        return F.dropout(F.gelu(self.mixed(pooled)), dropout)


def supervised_contrast(representations: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Views of one class are drawn together and apart from those of the other: Khosla et al., 2020, equation 2.

    Args:
        representations: (N, H); their directions count.
        labels: (N,) in [0, 1]; those on one side of 0.5 are one class, which needs at least two views.
        temperature: Below 1 sharpens the comparison.

    Returns:
        (N,) losses, one for each view.
    """
    directions = F.normalize(representations, dim=1)
    own = torch.eye(len(labels), dtype=torch.bool)
    similar = (directions @ directions.T / temperature).masked_fill(own, float("-inf"))
    log_share = (similar - similar.logsumexp(dim=1, keepdim=True)).masked_fill(own, 0.0)
    generated = labels > 0.5
    same = ((generated[:, None] == generated[None]) & ~own).float()
    return -(log_share * same).sum(dim=1) / same.sum(dim=1)
