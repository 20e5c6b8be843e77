"""ViT detectors: the class token of ViT-B/16, alone or with a small convolutional branch, and the report's head.

The ViT-B/16 is the report's, or the first blocks of CLIP's image tower, which has the same size.

Original:
    https://github.com/CVLabWorks/CVIMGDetection (not copied; implemented from its description)

References:
    | An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale (Dosovitskiy et al., ICLR 2021)
    | https://arxiv.org/abs/2010.11929
    | Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021), for CLIP's tower
    | https://arxiv.org/abs/2103.00020
    | AI-Generated Image Detection, course report (HKUST, 2025), section 5

Deviations from the original: one logit instead of two, see `aigidetect.layers.head`; no pooler, which the original has but
does not use; the branch is averaged before its last layer. From torchvision: the layer norms have epsilon 1e-12, as those
with which Hugging Face publishes the weights; with 1e-6 features differ by up to 2e-5.

With CLIP's tower, further: another pre-training; the class token is read after an earlier block than the twelfth, because
the middle blocks still hold how a picture looks in detail, see `aigidetect.models.clip_vit`; and its layer norm has no
parameters, since the tower has none there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from ..layers.head import Activation, MLPHead
from .clip_vit import Tower, normalised

EPSILON = 1e-12  # of every layer norm

# The report's detectors.
VARIANTS: dict[str, dict[str, Any]] = {"vit": {}, "vit-cnn": {"local": True}}


def _local_branch(width: int) -> nn.Sequential:
    """(N, 3, H, W) -> (N, D): three convolutions and the mean over the picture."""
    return nn.Sequential(
        nn.Conv2d(3, 32, kernel_size=3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        # The original averages after the last convolution. That one is linear and 1x1, so the order does not matter, but
        # here it runs on one position instead of on every pixel.
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(64, width, kernel_size=1),
        nn.Flatten(),
    )


def _vit(width: int, blocks: int, heads: int, patch: int, image_size: int) -> VisionTransformer:
    """(N, 3, S, S) -> (N, D): torchvision's ViT up to the class token after its last layer norm."""
    network = VisionTransformer(
        image_size=image_size,
        patch_size=patch,
        num_layers=blocks,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=4 * width,
        norm_layer=partial(nn.LayerNorm, eps=EPSILON),
    )
    network.heads = nn.Identity()
    return network


class ViT(nn.Module):
    """The network of `build`, also for other sizes: (N, 3, S, S) normalised pixels -> (N, 1) logits of "AI-generated".

    Args:
        local, activation, affine, clip_blocks: See `build`.
        width: Channels D of a token, a multiple of `heads`; the defaults are those of ViT-B/16.
        blocks: Number of blocks, without `clip_blocks`.
        heads: Attention heads.
        patch: Side of a patch in pixels.
        image_size: Side S of a view in pixels, a multiple of `patch`.
    """

    def __init__(
        self,
        *,
        local: bool = False,
        activation: Activation = "gelu",
        affine: bool = False,
        clip_blocks: int | None = None,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        patch: int = 16,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        if clip_blocks is not None and clip_blocks < 1:
            raise ValueError(f"Expected clip_blocks of at least 1, or None for no tower of CLIP, but found {clip_blocks}.")
        self.image_size, self.clip_blocks = image_size, clip_blocks
        self.tower = (
            Tower(clip_blocks, (clip_blocks,), width, heads, patch, image_size, patches=False) if clip_blocks else None
        )
        self.backbone = None if clip_blocks else _vit(width, blocks, heads, patch, image_size)
        self.local = _local_branch(width) if local else None
        if local:
            self.vit_weight = nn.Parameter(torch.ones(1))
            self.local_weight = nn.Parameter(torch.ones(1))
        self.head = MLPHead(width, activation=activation, affine=affine)

    def class_token(self, x: Tensor) -> Tensor:
        """The class token after the last layer norm: (N, 3, S, S) -> (N, D).

        Raises:
            ValueError: The views have another size.
        """
        if self.tower is not None:
            [first] = self.tower(x)  # (N, 1, D)
            return normalised(first[:, 0])
        assert self.backbone is not None
        side = self.image_size
        if x.shape[1:] != (3, side, side):
            raise ValueError(
                f"Expected views of shape (N, 3, {side}, {side}), but found {tuple(x.shape)}; "
                f"resize or crop to {side} x {side} pixels: the position embedding has no other size."
            )
        token: Tensor = self.backbone(x)
        return token

    def features(self, x: Tensor, token: Tensor | None = None) -> Tensor:
        """What the head reads, class token plus branch: (N, 3, S, S) -> (N, D).

        Args:
            x: Views.
            token: (N, D) `class_token` of the views, where it is known. Only the branch then sees `x`, at any size.

        Raises:
            ValueError: The views have another size.
        """
        if token is None:
            token = self.class_token(x)
        return token if self.local is None else self.vit_weight * token + self.local_weight * self.local(x)

    def forward(self, x: Tensor, token: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.features(x, token))
        return logits


def build(
    *, local: bool = False, activation: Activation = "gelu", affine: bool = False, clip_blocks: int | None = None
) -> ViT:
    """ViT-B/16 with the report's head, and with random weights.

    Args:
        local: Adds the convolutional branch ("ViT+CNN"): both feature vectors are weighted by a trainable scalar and added.
        activation: See `aigidetect.layers.head.MLPHead`.
        affine: See `aigidetect.layers.head.MLPHead`.
        clip_blocks: None is the report's ViT-B/16. A number, 1 to 12 for weights of CLIP, is the image tower of CLIP up to
            that block, `aigidetect.models.clip_vit.Tower`.

    Returns:
        Module (N, 3, 224, 224) float32 -> (N, 1) logits; sigmoid is P(AI-generated). Views are normalised with mean 0.5 and
        standard deviation 0.5, for CLIP's tower with those of CLIP (`CLIP_MEAN`, `CLIP_STD`). The state dict has the names
        `backbone.*`, as in torchvision, or `tower.*`, as in `clip_vit`, and `head.*`; with the branch also `local.*`,
        `vit_weight` and `local_weight`.

    Raises:
        ValueError: Unknown activation, or `clip_blocks` below 1.
    """
    return ViT(local=local, activation=activation, affine=affine, clip_blocks=clip_blocks)
