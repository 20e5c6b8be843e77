"""ViT detectors: the class token of ViT-B/16, alone or with a small convolutional branch, and the report's head.

Original:
    https://github.com/CVLabWorks/CVIMGDetection (not copied; implemented from its description)

References:
    | An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale (Dosovitskiy et al., ICLR 2021)
    | https://arxiv.org/abs/2010.11929
    | AI-Generated Image Detection, course report (HKUST, 2025), section 5

Deviations from the original: one logit instead of two, see `aigidetect.layers.head`; no pooler, which the original has but
does not use; the branch is averaged before its last layer. From torchvision: the layer norms have epsilon 1e-12, as those
with which Hugging Face publishes the weights; with 1e-6 features differ by up to 2e-5.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from ..layers.head import Activation, MLPHead

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


class ViT(nn.Module):
    """The network of `build`, also for other sizes: (N, 3, S, S) normalised pixels -> (N, 1) logits of "AI-generated".

    Args:
        local, activation, affine: See `build`.
        width: Channels D of a token, a multiple of `heads`; the defaults are those of ViT-B/16.
        blocks: Number of blocks.
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
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        patch: int = 16,
        image_size: int = 224,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.backbone = VisionTransformer(
            image_size=image_size,
            patch_size=patch,
            num_layers=blocks,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=4 * width,
            norm_layer=partial(nn.LayerNorm, eps=EPSILON),
        )
        self.backbone.heads = nn.Identity()
        self.local = _local_branch(width) if local else None
        if local:
            self.vit_weight = nn.Parameter(torch.ones(1))
            self.local_weight = nn.Parameter(torch.ones(1))
        self.head = MLPHead(width, activation=activation, affine=affine)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads, the class token after the last layer norm plus the branch: (N, 3, S, S) -> (N, D).

        Raises:
            ValueError: The views have another size.
        """
        side = self.image_size
        if x.shape[1:] != (3, side, side):
            raise ValueError(
                f"Expected views of shape (N, 3, {side}, {side}), but found {tuple(x.shape)}; "
                f"resize or crop to {side} x {side} pixels: the position embedding has no other size."
            )
        token: Tensor = self.backbone(x)
        return token if self.local is None else self.vit_weight * token + self.local_weight * self.local(x)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def build(*, local: bool = False, activation: Activation = "gelu", affine: bool = False) -> ViT:
    """ViT-B/16 with the report's head, and with random weights.

    Args:
        local: Adds the convolutional branch ("ViT+CNN"): both feature vectors are weighted by a trainable scalar and added.
        activation: See `aigidetect.layers.head.MLPHead`.
        affine: See `aigidetect.layers.head.MLPHead`.

    Returns:
        Module (N, 3, 224, 224) float32, normalised with mean 0.5 and standard deviation 0.5 -> (N, 1) logits; sigmoid is
        P(AI-generated). Its state dict has the names `backbone.*`, as in torchvision, and `head.*`, and with the branch
        also `local.*`, `vit_weight` and `local_weight`.

    Raises:
        ValueError: Unknown activation.
    """
    return ViT(local=local, activation=activation, affine=affine)
