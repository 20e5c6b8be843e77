"""CvT detector: the mean token of CvT-13, a transformer with convolutions in its embeddings and projections, and the
report's head.

Original:
    https://github.com/CVLabWorks/CVIMGDetection (not copied; implemented from its description)

References:
    | CvT: Introducing Convolutions to Vision Transformers (Wu et al., ICCV 2021)
    | https://arxiv.org/abs/2103.15808
    | AI-Generated Image Detection, course report (HKUST, 2025), section 5

Deviations from the paper, with which the published weights were made: scores are scaled by the width of all heads together,
not of one. From the original: one logit instead of two, see `aigidetect.layers.head`; in training the rate of stochastic
depth rises from block to block of the last stage and applies to what a block adds, as is usual, while the original has one
rate for all blocks and also drops what the block was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ..layers.cam import class_activation
from ..layers.head import Activation, MLPHead

EPSILON = 1e-5  # of every layer norm
_DROP = 0.1  # rate of stochastic depth in the last block

# The report's detector.
VARIANTS: dict[str, dict[str, Any]] = {"cvt-13": {}}


class ConvProjection(nn.Module):
    """Convolutional projection (section 3.2 of the paper): depthwise convolution of the map, batch norm, linear layer.

    Args:
        width: Channels C.
        stride: Of the convolution; 2 leaves a quarter of the tokens.

    Shape: map (N, C, H, W) and class token (N, 0 or 1, C) -> (N, L, C), the class token first.
    """

    folds = (("conv", "norm"),)  # see `aigidetect.layers.folding`

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, width)

    def forward(self, grid: Tensor, first: Tensor) -> Tensor:
        patches = self.norm(self.conv(grid)).flatten(2).transpose(1, 2)
        projected: Tensor = self.linear(torch.cat((first, patches), dim=1))
        return projected


def _split(tokens: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(N, 0 or 1 + H W, C) tokens -> map (N, C, H, W) and class token (N, 0 or 1, C)."""
    n, length, width = tokens.shape
    before = length - shape[0] * shape[1]
    return tokens[:, before:].transpose(1, 2).reshape(n, width, *shape), tokens[:, :before]


class Attention(nn.Module):
    """Self-attention with convolutional projections; keys and values come from every other row and column.

    Args:
        width: Channels C, a multiple of `heads`.
        heads: Attention heads.

    Shape: (N, L, C) and the (H, W) of its map -> (N, L, C). The last H * W tokens are the map, row by row; a class token
    may stand before them.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = ConvProjection(width, stride=1)
        self.key = ConvProjection(width, stride=2)
        self.value = ConvProjection(width, stride=2)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        grid, first = _split(tokens, shape)
        query, key, value = (
            projection(grid, first).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (N, heads, L, C / heads)
            for projection in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=tokens.shape[2] ** -0.5)
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """Residual block with the layer norms in front: attention, then two linear layers.

    Args:
        width: Channels C, a multiple of `heads`.
        heads: Attention heads.
        drop: Rate of stochastic depth.

    Shape: as `Attention`.
    """

    def __init__(self, width: int, heads: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), shape))
        added: Tensor = self.drop(self.fc2(F.gelu(self.fc1(self.norm2(x)))))
        return x + added


class Stage(nn.Module):
    """Convolutional token embedding (section 3.1 of the paper), then blocks.

    Args:
        width_in: Channels of the input.
        width: Channels C of the output.
        kernel: Side, stride and padding of the embedding's convolution.
        heads: Attention heads.
        drops: Rate of stochastic depth of each block.
        class_token: Whether a class token takes part.

    Shape: (N, width_in, H, W) -> map (N, C, H', W') and class token (N, 0 or 1, C).
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        kernel: tuple[int, int, int],
        heads: int,
        drops: Sequence[float],
        class_token: bool,
    ) -> None:
        super().__init__()
        side, stride, padding = kernel
        self.embed = nn.Conv2d(width_in, width, kernel_size=side, stride=stride, padding=padding)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if class_token else None
        self.blocks = nn.ModuleList(Block(width, heads, drop) for drop in drops)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.embed(x)
        shape: tuple[int, int] = grid.shape[2:]
        tokens = self.norm(grid.flatten(2).transpose(1, 2))
        if self.class_token is not None:
            # Not `len`, which would fix the number of views in an exported graph.
            tokens = torch.cat((self.class_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        for block in self.blocks:
            tokens = block(tokens, shape)
        return _split(tokens, shape)


class Backbone(nn.Module):
    """The stages of CvT, without the layer norm that its classifier adds.

    Args:
        widths, heads, depths: See `CvT`.

    Shape: (N, 3, H, W) -> (N, C, H', W'), H' and W' about a sixteenth of H and W.
    """

    def __init__(self, widths: Sequence[int], heads: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        last = len(widths) - 1
        self.stages = nn.ModuleList(
            Stage(
                widths[s - 1] if s else 3,
                widths[s],
                (3, 2, 1) if s else (7, 4, 2),
                heads[s],
                [_DROP * b / max(1, depths[s] - 1) if s == last else 0.0 for b in range(depths[s])],
                class_token=s == last,
            )
            for s in range(len(widths))
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x, _ = stage(x)
        return x


class CvT(nn.Module):
    """The network of `build`, also for other sizes: (N, 3, H, W) normalised pixels -> (N, 1) logits of "AI-generated".

    Args:
        activation, affine: See `build`.
        widths: Channels of each stage; the defaults are those of CvT-13.
        heads: Attention heads of each stage.
        depths: Blocks of each stage.
    """

    def __init__(
        self,
        *,
        activation: Activation = "gelu",
        affine: bool = False,
        widths: Sequence[int] = (64, 192, 384),
        heads: Sequence[int] = (1, 3, 6),
        depths: Sequence[int] = (1, 2, 10),
    ) -> None:
        super().__init__()
        self.backbone = Backbone(widths, heads, depths)
        self.head = MLPHead(widths[-1], activation=activation, affine=affine)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads, the mean over the last map, without the class token: (N, 3, H, W) -> (N, C)."""
        features: Tensor = self.backbone(x).mean(dim=(2, 3))
        return features

    def evidence(self, x: Tensor) -> Tensor:
        """See `aigidetect.explain.Explainable`: Grad-CAM of the last map."""
        return class_activation(self.backbone(x), self.head)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def build(*, activation: Activation = "gelu", affine: bool = False) -> CvT:
    """CvT-13 with the report's head, and with random weights.

    Args:
        activation: See `aigidetect.layers.head.MLPHead`.
        affine: See `aigidetect.layers.head.MLPHead`.

    Returns:
        Module (N, 3, H, W) float32, ImageNet-normalised, H, W >= 4, published weights were made for 224 -> (N, 1) logits;
        sigmoid is P(AI-generated). Its state dict has the names `backbone.*` and `head.*`.

    Raises:
        ValueError: Unknown activation.
    """
    return CvT(activation=activation, affine=affine)
