"""SPAI's estimator: how well features of a picture survive the loss of its low or its high frequencies.

Original:
    https://github.com/mever-team/spai (not copied; implemented from its description)

References:
    | Any-Resolution AI-Generated Image Detection by Spectral Learning (Karageorgiou et al., CVPR 2025)
    | https://arxiv.org/abs/2411.19417

A transformer that was trained to restore missing frequencies of photographs gives similar features with and without them,
for photographs. For generated pictures the similarity is another one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Two linear layers with GELU between them, then a layer norm.

    Args:
        features: Channels of the input.
        width: Channels of the output.
        dropout: Probability of dropout before each linear layer and after the last.
        norm_first: Whether the input is layer-normalised.
        activate: Whether GELU follows the second linear layer.

    Shape: (..., features) -> (..., width).
    """

    def __init__(self, features: int, width: int, dropout: float, *, norm_first: bool, activate: bool) -> None:
        super().__init__()
        self.norm1: nn.Module = nn.LayerNorm(features) if norm_first else nn.Identity()
        self.fc1 = nn.Linear(features, width)
        self.fc2 = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.gelu(self.fc1(self.dropout(self.norm1(x)))))
        x = self.fc2(x)
        out: Tensor = self.norm2(self.dropout(F.gelu(x) if self.activate else x))
        return out


class SpectralContext(nn.Module):
    """What a picture is like in general: one vector from the mean and deviation of its tokens in every block.

    Args:
        blocks: Number of blocks B.
        width: Channels C of a token and of the vector.
        dropout: See `Projector`.

    Shape: (N, B, 2 C) -> (N, C).
    """

    def __init__(self, blocks: int, width: int, dropout: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(1, blocks, width))
        self.per_block = Projector(2 * width, width, dropout, norm_first=False, activate=True)
        self.joint = Projector(width, width, dropout, norm_first=False, activate=True)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.alpha.softmax(dim=1)  # every channel chooses among the blocks
        context: Tensor = self.joint((self.per_block(x) * shares).sum(dim=1))
        return context


class RestorationEstimator(nn.Module):
    """Tokens of a picture, of its low and of its high frequencies -> one vector.

    The vector holds, for the pairs (picture, low), (picture, high) and (low, high) in turn, the mean over all patches of the
    cosine similarity of their projected tokens in each block, then its standard deviation (n - 1) in each block; last, the
    spectral context of the picture.

    Args:
        tokens_width: Channels D of a token.
        blocks: Number of blocks B.
        width: Channels C of a projected token.
        dropout: See `Projector`.
    """

    def __init__(self, tokens_width: int, blocks: int, width: int, dropout: float) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(
            Projector(tokens_width, width, dropout, norm_first=True, activate=False) for _ in range(blocks)
        )
        self.context = SpectralContext(blocks, width, dropout)
        self.features = 6 * blocks + width

    def forward(self, outputs: Iterable[Tensor]) -> Tensor:
        """One vector for each picture.

        Args:
            outputs: After each block in turn, patch tokens (3 N, L, D), L >= 2: N pictures, then their low frequencies, then
                their high ones. Taken one by one, so that a generator keeps only one block in memory.

        Returns:
            (N, 6 B + C).
        """
        similarities, summaries = [], []
        for tokens, projector in zip(outputs, self.projectors, strict=True):
            projected = projector(tokens)
            # Statistics in float32 at least, also under autocast.
            projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
            picture, low, high = projected.chunk(3)  # (N, L, C)
            pairs = ((picture, low), (picture, high), (low, high))
            cosine = torch.stack([F.cosine_similarity(a, b, dim=-1) for a, b in pairs], dim=1)  # (N, 3, L)
            similarities.append(torch.stack((cosine.mean(dim=-1), cosine.std(dim=-1)), dim=-1))  # (N, 3, 2)
            summaries.append(torch.cat((picture.mean(dim=1), picture.std(dim=1)), dim=-1))  # (N, 2 C)
        context = self.context(torch.stack(summaries, dim=1))  # (N, C)
        return torch.cat((torch.stack(similarities, dim=-1).flatten(1), context), dim=1)
