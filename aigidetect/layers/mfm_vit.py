"""The vision transformer of masked frequency modelling (MFM), which is SPAI's backbone.

References:
    | Masked Frequency Modeling for Self-Supervised Visual Pre-Training (Xie et al., ICLR 2023)
    | https://arxiv.org/abs/2206.07706
    | An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale (Dosovitskiy et al., ICLR 2021)
    | https://arxiv.org/abs/2010.11929
    | BEiT: BERT Pre-Training of Image Transformers (Bao et al., ICLR 2022): no bias on the keys
    | https://arxiv.org/abs/2106.08254
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

EPSILON = 1e-6  # of every layer norm
# ImageNet's, on the scale 0-1.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def standardise(x: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) float in [0, 1] -> what the transformer sees, normalised with ImageNet's statistics."""
    return (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_STD)[:, None, None]


class Block(nn.Module):
    """Residual block with the layer norms in front: self-attention without a bias on the keys, then two linear layers.

    Args:
        width: Channels D of a token, a multiple of `heads`.
        heads: Attention heads.
        drop_path: Probability, in training, that an example skips the attention, and likewise the linear layers.

    Shape: (N, L, D) -> (N, L, D).
    """

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self._attention(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))))
        return out

    def _attention(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, L, D / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return attended


class MFMViT(nn.Module):
    """Vision transformer with a class token and learned positions, without a norm after its last block.

    Args:
        width: Channels D of a token.
        blocks: Number of blocks.
        heads: Attention heads.
        drop_path: Drop path of the last block; it rises linearly from 0 at the first.
        patch: Side of a patch in pixels.
        image_size: Side S of a picture in pixels, a multiple of `patch`; there are L = (S / patch)^2 patches.

    Shape: (N, 3, S, S) normalised by `standardise` -> (N, 1 + L, D) tokens, the class token first.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        drop_path: float = 0.0,
        patch: int = 16,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (image_size // patch) ** 2, width))
        self.patch = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        rates = [drop_path * i / max(1, blocks - 1) for i in range(blocks)]
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.apply(initialise)

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The tokens after each block in turn, so that a caller need not hold them all."""
        side = self.image_size
        if x.shape[1:] != (3, side, side):
            raise ValueError(
                f"Expected pictures of shape (N, 3, {side}, {side}), but found {tuple(x.shape)}; crop them to {side} x "
                f"{side} pixels: the position embedding has no other size."
            )
        patches = self.patch(x).flatten(2).transpose(1, 2)  # (N, L, D)
        # Not `len`, which would fix the number of views in an exported graph.
        tokens = torch.cat((self.class_token.expand(x.shape[0], -1, -1), patches), dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
            yield tokens

    def forward(self, x: Tensor) -> Tensor:
        *_, last = self.outputs(x)
        return last


def initialise(module: nn.Module) -> None:
    """Random values of one layer, in place: linear ones from a normal cut at two units, of deviation 0.02; biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)
