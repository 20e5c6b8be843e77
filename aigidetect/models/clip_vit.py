"""CLIP detector: the image tower of CLIP, ViT-B/16, cut after one of its blocks, with a small head on its tokens.

Original:
    https://github.com/openai/CLIP (not copied; implemented from the papers)

References:
    | Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021)
    | https://arxiv.org/abs/2103.00020
    | An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale (Dosovitskiy et al., ICLR 2021)
    | https://arxiv.org/abs/2010.11929
    | Towards Universal Fake Image Detectors that Generalize Across Generative Models (Ojha et al., CVPR 2023)
    | https://arxiv.org/abs/2302.10174
    | Leveraging Representations from Intermediate Encoder-blocks for Synthetic Image Detection
    | (Koutlis & Papadopoulos, ECCV 2024)
    | https://arxiv.org/abs/2402.19091

Deviations from CLIP: blocks after the cut, the last layer norm and the projection do not exist. From Ojha et al.: the
head reads several blocks, not the last; from Koutlis & Papadopoulos: it may also read mean and deviation of the patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.windows import window_evidence

EPSILON = 1e-5  # of every layer norm
# Normalisation of the pixels, on the scale 0-1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def quick_gelu(x: Tensor) -> Tensor:
    """The approximation `x * sigmoid(1.702 x)` of GELU, with which CLIP was trained; same shape as `x`."""
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Residual block with the layer norms in front: self-attention, then two linear layers.

    Args:
        width: Channels D of a token, a multiple of `heads`.
        heads: Attention heads.

    Shape: (N, L, D) -> (N, L, D); with `first_only` the first of these tokens alone, (N, 1, D), at a third of the cost.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, *, first_only: bool = False) -> Tensor:
        count = 1 if first_only else x.shape[1]
        x = x[:, :count] + self._attention(self.norm1(x), count)
        return x + self._mlp(self.norm2(x))

    def _attention(self, x: Tensor, count: int) -> Tensor:
        """What the first `count` tokens take from all: (N, L, D) -> (N, count, D)."""
        n, length, width = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, L, D / heads)
        mixed = F.scaled_dot_product_attention(query[:, :, :count], key, value)
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(n, count, width))
        return attended

    def _mlp(self, x: Tensor) -> Tensor:
        narrowed: Tensor = self.fc2(quick_gelu(self.fc1(x)))
        return narrowed


class Tower(nn.Module):
    """The image tower up to its block `blocks`: pixels -> tokens after chosen blocks.

    Args:
        blocks: Number of blocks.
        taps: Blocks whose output is returned, 1 to `blocks`.
        width: Channels D of a token.
        heads: Attention heads.
        patch: Side of a patch in pixels.
        image_size: Side S of a view in pixels, a multiple of `patch`; there are L = 1 + (S / patch)^2 tokens.
        patches: Whether the output of the last block has the patches too; without them it is (N, 1, D).

    Shape: (N, 3, S, S) -> list of len(taps) tensors (N, L, D), the class token first.
    """

    def __init__(
        self, blocks: int, taps: Sequence[int], width: int, heads: int, patch: int, image_size: int, *, patches: bool = True
    ) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.patches = patches
        self.image_size = image_size
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(0.02 * torch.randn(1 + (image_size // patch) ** 2, width))
        self.patch = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))

    def embed(self, x: Tensor) -> Tensor:
        """Tokens before the first layer norm, with their positions: (N, 3, S, S) -> (N, L, D)."""
        side = self.image_size
        if x.shape[1:] != (3, side, side):
            raise ValueError(
                f"Expected views of shape (N, 3, {side}, {side}), but found {tuple(x.shape)}; "
                f"resize or crop to {side} x {side} pixels: the position embedding has no other size."
            )
        patches = self.patch(x).flatten(2).transpose(1, 2)  # (N, L - 1, D)
        first = self.class_token.expand(x.shape[0], 1, -1)
        return torch.cat((first, patches), dim=1) + self.positions

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.tapped(self.embed(x))

    def tapped(self, tokens: Tensor, *, after: int = 0) -> list[Tensor]:
        """The tapped outputs for tokens of `embed`, or for some of them: (N, L', D) -> list of (N, L', D).

        With `after`, the tokens are outputs of that block, from which the tower goes on.
        """
        tokens, tapped = tokens if after else self.norm(tokens), []
        for number, block in enumerate(self.blocks[after:], start=after + 1):
            tokens = block(tokens, first_only=not self.patches and number == len(self.blocks))
            if number in self.taps:
                tapped.append(tokens)
        return tapped


def _dropped(x: Tensor, share: float) -> Tensor:
    return F.dropout(x, share) if share else x


class Head(nn.Module):
    """Standardises features with fixed statistics, then a linear layer, or two with GELU between them.

    Args:
        features: Number of features F.
        hidden: Width of the hidden layer; 0 means none.

    Shape: (N, F) -> (N, 1). A `dropout` other than 0, for fitting, drops that share of the features and hidden units.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.fc = nn.Linear(hidden or features, 1)

    def represent(self, features: Tensor, dropout: float = 0.0) -> Tensor:
        """What the last layer reads: (N, F) -> (N, F), or with a hidden layer (N, H)."""
        x = _dropped((features - self.mean) / self.scale, dropout)
        return x if self.hidden is None else _dropped(F.gelu(self.hidden(x)), dropout)

    def forward(self, features: Tensor, dropout: float = 0.0) -> Tensor:
        return self.decide(self.represent(features, dropout))

    def decide(self, x: Tensor) -> Tensor:
        """The last layer, on what `represent` returns -> (N, 1) logits."""
        # Written out, since autocast would do a linear layer in half precision: over thousands of features that rounds the
        # logit visibly.
        return (x * self.fc.weight).sum(dim=1, keepdim=True) + self.fc.bias


class CLIPViT(nn.Module):
    """The network of `build`, also for other sizes: (N, 3, S, S) normalised pixels -> (N, 1) logits of "AI-generated".

    Args:
        blocks, taps, hidden, patches: See `build`.
        width, heads, patch, image_size: See `Tower`; the defaults are those of ViT-B/16.
    """

    def __init__(
        self,
        *,
        blocks: int = 9,
        taps: Sequence[int] = (6, 7, 8, 9),
        hidden: int = 0,
        patches: bool = True,
        width: int = 768,
        heads: int = 12,
        patch: int = 16,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        if list(taps) != sorted(set(taps)) or not taps or taps[0] < 1 or taps[-1] != blocks:
            raise ValueError(
                f"Expected rising block numbers from 1 to blocks = {blocks}, the last of them {blocks}, "
                f"but found taps = {list(taps)}; blocks after the last tap would do nothing."
            )
        if hidden < 0 or width % heads or image_size % patch:
            raise ValueError(
                f"Expected hidden >= 0, width a multiple of heads, image_size a multiple of patch, but found "
                f"hidden = {hidden}, width = {width}, heads = {heads}, image_size = {image_size}, patch = {patch}."
            )
        self.tower = Tower(blocks, taps, width, heads, patch, image_size, patches=patches)
        self.patches = patches
        self.head = Head(len(taps) * (3 if patches else 1) * width, hidden)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads: (N, 3, S, S) -> (N, len(taps) * 3 * D), or without `patches` (N, len(taps) * D).

        For every tap in turn: class token, mean and standard deviation (of the population) of the patch tokens, each of
        D channels. Before that every token is layer-normalised without parameters, so that taps have the same scale.
        """
        return self.read(self.tower(x))

    def read(self, tapped: Sequence[Tensor]) -> Tensor:
        """`features` of the tapped outputs: list of (N, L, D), the class token first."""
        return torch.cat([summary(tokens, patches=self.patches) for tokens in tapped], dim=1)

    def evidence(self, x: Tensor) -> Tensor:
        """See `aigidetect.explain.Explainable`: what the network says of windows of patches, of each as if it were alone."""
        return window_evidence(self.tower.embed(x), lambda tokens: self.head(self.read(self.tower.tapped(tokens))))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def normalised(tokens: Tensor) -> Tensor:
    """Layer norm without parameters of (..., D) tokens, in float32 or better."""
    return F.layer_norm(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), tokens.shape[-1:], eps=EPSILON)


def summary(tokens: Tensor, *, patches: bool = True) -> Tensor:
    """What the head reads of one tap, see `CLIPViT.features`: (N, L, D) tokens -> (N, 3 D), without `patches` (N, D)."""
    if not patches:
        return normalised(tokens[:, 0])
    normed = normalised(tokens)  # (N, L, D)
    others = normed[:, 1:]
    return torch.cat((normed[:, 0], others.mean(dim=1), others.std(dim=1, correction=0)), dim=1)  # (N, 3 D)


def build(*, blocks: int = 9, taps: Sequence[int] = (6, 7, 8, 9), hidden: int = 0, patches: bool = True) -> CLIPViT:
    """CLIP ViT-B/16, cut, with a head, and with random weights.

    Args:
        blocks: Number of blocks kept, 1 to 12 for weights of CLIP.
        taps: Rising numbers of the blocks whose output the head reads; the first block is 1, the last tap is `blocks`.
        hidden: Width of the head's hidden layer; 0 means a linear head.
        patches: Whether the head reads mean and deviation of the patch tokens beside the class token.

    Returns:
        Module (N, 3, 224, 224) float32, normalised with CLIP's mean (0.48145466, 0.4578275, 0.40821073) and standard
        deviation (0.26862954, 0.26130258, 0.27577711) -> (N, 1) logits; sigmoid is P(AI-generated). Its state dict has
        the names `tower.*` and `head.*`.

    Raises:
        ValueError: Impossible taps or hidden width.
    """
    return CLIPViT(blocks=blocks, taps=taps, hidden=hidden, patches=patches)
