"""Swin detectors: the mean token of a Swin Transformer and the report's head.

Original:
    https://github.com/CVLabWorks/CVIMGDetection (not copied; implemented from its description)

References:
    | Swin Transformer: Hierarchical Vision Transformer using Shifted Windows (Liu et al., ICCV 2021)
    | https://arxiv.org/abs/2103.14030
    | AI-Generated Image Detection, course report (HKUST, 2025), section 5

The report's text describes Swin-T; the last version of its code uses Swin-B.

Deviations from the original: one logit instead of two, see `aigidetect.layers.head`; in training stochastic depth also
applies to the linear layers of a block, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from ..layers.cam import class_activation
from ..layers.head import Activation, MLPHead

# The report's detectors.
VARIANTS: dict[str, dict[str, Any]] = {"swin-t": {"size": "tiny"}, "swin-b": {"size": "base"}}

_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "base": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
}


class Swin(nn.Module):
    """The network of `build`, also for other sizes: (N, 3, H, W) normalised pixels -> (N, 1) logits of "AI-generated".

    Args:
        width: Channels after the first stage; they double with every further one.
        depths: Blocks of each stage.
        heads: Attention heads of each stage.
        activation, affine: See `build`.
    """

    def __init__(
        self,
        *,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        activation: Activation = "gelu",
        affine: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=width,
            depths=list(depths),
            num_heads=list(heads),
            window_size=[7, 7],
            stochastic_depth_prob=0.1,
        )
        self.backbone.head = nn.Identity()
        self.head = MLPHead(width * 2 ** (len(depths) - 1), activation=activation, affine=affine)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads, the mean over all positions after the last layer norm: (N, 3, H, W) -> (N, D)."""
        features: Tensor = self.backbone(x)
        return features

    def evidence(self, x: Tensor) -> Tensor:
        """See `aigidetect.explain.Explainable`: Grad-CAM of the last map, after its layer norm."""
        parts = self.backbone
        return class_activation(parts.permute(parts.norm(parts.features(x))), self.head)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def build(*, size: Literal["tiny", "base"] = "tiny", activation: Activation = "gelu", affine: bool = False) -> Swin:
    """Swin Transformer with patches of 4 and windows of 7, the report's head, and random weights.

    Args:
        size: `"tiny"`, with 768 features, or `"base"`, with 1024.
        activation: See `aigidetect.layers.head.MLPHead`.
        affine: See `aigidetect.layers.head.MLPHead`.

    Returns:
        Module (N, 3, H, W) float32, ImageNet-normalised, H, W >= 4, published weights were made for 224 -> (N, 1) logits;
        sigmoid is P(AI-generated). Its state dict has the names `backbone.*`, as in torchvision, and `head.*`.

    Raises:
        ValueError: Unknown size or activation.
    """
    if size not in _SIZES:
        raise ValueError(f"Unknown size {size!r}; use one of {', '.join(_SIZES)}.")
    return Swin(**_SIZES[size], activation=activation, affine=affine)
