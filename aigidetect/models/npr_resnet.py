"""NPR detectors: the NPR residual in front of a ResNet-50 that ends after its second stage.

Original:
    https://github.com/chuangchuangtan/NPR-DeepfakeDetection (not copied; implemented from its description)

References:
    | Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable
    | Deepfake Detection (Tan et al., CVPR 2024)
    | https://arxiv.org/abs/2312.10461
    | Deep Residual Learning for Image Recognition (He et al., CVPR 2016)
    | https://arxiv.org/abs/1512.03385
    | AI-Generated Image Detection, course report (HKUST, 2025), section 6: the four extensions

Deviations from ResNet-50: the first convolution is 3x3 (not 7x7), stages 3 and 4 do not exist.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import linear

from ..layers.attention import ChannelAttention, Formula, SpatialAttention
from ..layers.cam import class_activation
from ..layers.fusion import FixedMultiScaleNPR, MultiScaleNPR
from ..layers.highpass import HighPass
from ..layers.npr import NPR

Fusion = Literal["single", "multi", "multi-fixed", "high-pass", "pixels"]
_RESIDUALS: dict[str, type[nn.Module]] = {
    "single": NPR,
    "multi": MultiScaleNPR,
    "multi-fixed": FixedMultiScaleNPR,
    "high-pass": HighPass,
    "pixels": nn.Identity,
}

# The five detectors of the report: what each adds to the baseline.
VARIANTS: dict[str, dict[str, Any]] = {
    "npr": {},
    "npr-ms": {"fusion": "multi"},
    "npr-ca": {"channel_attention": True},
    "npr-sa": {"spatial_attention": True},
    "npr-ms-ca": {"fusion": "multi", "channel_attention": True},
}


class Bottleneck(nn.Module):
    """Residual block of three convolutions, 1x1, 3x3 and 1x1; the stride is that of the 3x3, as in torchvision's ResNets.

    Written out, with torchvision's names, because importing torchvision takes as long as importing torch.

    Args:
        width_in: Input channels.
        width: Channels between the convolutions.
        stride: 1 or 2.
        downsample: What the input goes through where it has another shape than the output.

    Shape: (N, width_in, H, W) -> (N, 4 width, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4
    folds = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))  # see `aigidetect.layers.folding`

    def __init__(self, width_in: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += kept
        activated: Tensor = self.relu(x)
        return activated


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    width_out = width * Bottleneck.expansion
    shortcut = nn.Sequential(
        nn.Conv2d(width_in, width_out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width_out)
    )
    first = Bottleneck(width_in, width, stride=stride, downsample=shortcut)
    return nn.Sequential(first, *(Bottleneck(width_out, width) for _ in range(blocks - 1)))


class NPRResNet(nn.Module):
    """The network of `build`: (N, 3, H, W) normalised pixels -> (N, 1) logits of "AI-generated"."""

    folds = (("conv1", "bn1"),)  # see `aigidetect.layers.folding`

    def __init__(
        self, fusion: Fusion, channel_attention: bool, spatial_attention: bool, formula: Formula, non_negative: bool
    ) -> None:
        super().__init__()
        if fusion not in _RESIDUALS:
            raise ValueError(f"Unknown fusion {fusion!r}; use one of {sorted(_RESIDUALS)}.")
        self.npr = _RESIDUALS[fusion]()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.ca1 = ChannelAttention(64, formula=formula) if channel_attention else nn.Identity()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.sa1 = SpatialAttention() if spatial_attention else nn.Identity()
        self.ca2 = ChannelAttention(256, formula=formula) if channel_attention else nn.Identity()
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.sa2 = SpatialAttention() if spatial_attention else nn.Identity()
        self.fc1 = nn.Linear(512, 1)
        self.non_negative = non_negative
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if non_negative:
            # All of one sign, they would otherwise add up to a large logit.
            nn.init.uniform_(self.fc1.weight, 0.0, 1 / 512)

    def features(self, x: Tensor) -> Tensor:
        """Feature map of the last stage: (N, 3, H, W) -> (N, 512, ceil(H'/8), ceil(W'/8)), H', W' as in `npr`."""
        x = self.npr(x)
        x = self.ca1(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H'/2, W'/2)
        x = self.ca2(self.sa1(self.layer1(self.maxpool(x))))  # (N, 256, H'/4, W'/4)
        features: Tensor = self.sa2(self.layer2(x))  # (N, 512, H'/8, W'/8)
        return features

    def decide(self, pooled: Tensor) -> Tensor:
        """The last layer, on the mean of `features` over all positions, none of it below 0: (N, 512) -> (N, 1)."""
        if self.non_negative:
            return linear(pooled, self.fc1.weight.abs(), self.fc1.bias)
        logits: Tensor = self.fc1(pooled)
        return logits

    def evidence(self, x: Tensor) -> Tensor:
        """See `aigidetect.explain.Explainable`. The last layer is linear, so the map is exact: its mean is the logit."""
        return class_activation(self.features(x), self.decide)

    def forward(self, x: Tensor) -> Tensor:
        return self.decide(self.features(x).mean(dim=(2, 3)))


def build(
    *,
    fusion: Fusion = "single",
    channel_attention: bool = False,
    spatial_attention: bool = False,
    attention_formula: Formula = "sum-of-sigmoids",
    non_negative: bool = False,
) -> NPRResNet:
    """NPR network with random weights.

    Args:
        fusion: What the network sees: NPR at the `"single"` scale 0.5; `"multi"`: trainable fusion of three scales;
            `"multi-fixed"`: fixed fusion; and, to compare, `"high-pass"`: `aigidetect.layers.highpass.HighPass`, or the
            `"pixels"` themselves.
        channel_attention: Channel attention after the stem (64 channels) and after stage 1 (256 channels).
        spatial_attention: Spatial attention after stage 1 and after stage 2.
        attention_formula: See `aigidetect.layers.attention.ChannelAttention`.
        non_negative: The last layer uses the absolute values of its weights, so that features, none of which is below 0,
            can only speak for "AI-generated", against a fixed bias.

    Returns:
        Module (N, 3, H, W) float32, ImageNet-normalised, H, W >= 4 -> (N, 1) logits; sigmoid is P(AI-generated).

    Raises:
        ValueError: Unknown fusion or formula.
    """
    return NPRResNet(fusion, channel_attention, spatial_attention, attention_formula, non_negative)
