"""ResNet-50 detectors: plain, with a Bayesian classifier, and with spatial attention in front of it.

Original:
    https://github.com/CVLabWorks/CVIMGDetection (not copied; implemented from its description)

References:
    | Deep Residual Learning for Image Recognition (He et al., CVPR 2016)
    | https://arxiv.org/abs/1512.03385
    | Weight Uncertainty in Neural Networks (Blundell et al., ICML 2015)
    | https://arxiv.org/abs/1505.05424
    | CBAM: Convolutional Block Attention Module (Woo et al., ECCV 2018)
    | https://arxiv.org/abs/1807.06521
    | AI-Generated Image Detection, course report (HKUST, 2025), section 5

Deviations from the original: it has two outputs, of the classes "ai" and "nature" in this order, and takes the softmax.
Here the two outputs `z` stay inside, and the logit is `z[0] - z[1]`, whose sigmoid is the softmax's first entry. Random
weights replace those of ImageNet, from which the original starts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from ..layers.attention import SpatialAttention
from ..layers.bayesian import BayesianLinear
from ..layers.cam import class_activation

# The three ResNet-50 detectors of the report.
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "resnet50-bnn": {"bayesian": True},
    "resnet50-sa-bnn": {"bayesian": True, "spatial_attention": True},
}
_FEATURES = 2048
_BACKBONE = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


class ResNet50(nn.Module):
    """The network of `build`: (N, 3, H, W) normalised pixels -> (N, 1) logits of "AI-generated".

    Parameters have the names of torchvision's ResNet-50.
    """

    folds = (("conv1", "bn1"),)  # see `aigidetect.layers.folding`

    def __init__(self, spatial_attention: bool) -> None:
        super().__init__()
        whole = resnet50(weights=None, num_classes=2)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        self.attention = SpatialAttention(bias=True) if spatial_attention else nn.Identity()
        self.avgpool = whole.avgpool
        self.fc: nn.Module = whole.fc

    @property
    def backbone(self) -> nn.ModuleDict:
        """What `feature_map` consists of, under its own names: detectors that differ in what follows can share it."""
        return nn.ModuleDict({name: getattr(self, name) for name in _BACKBONE})

    def feature_map(self, x: Tensor) -> Tensor:
        """Output of the last stage, before attention: (N, 3, H, W) -> (N, 2048, ceil(H / 32), ceil(W / 32))."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H/4, W/4)
        stages: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return stages

    def features(self, x: Tensor) -> Tensor:
        """What the classifier sees, the mean over all positions: (N, 3, H, W) -> (N, 2048)."""
        pooled: Tensor = self.avgpool(self.attention(self.feature_map(x)))
        return pooled.flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, 2048) -> logits (N, 1) in the type of the weights, also under autocast."""
        # A sum over thousands of features in half precision would round the logit visibly.
        with torch.autocast(features.device.type, enabled=False):
            return _difference(self.fc(features.to(self.conv1.weight.dtype)))[:, None]

    def evidence(self, x: Tensor) -> Tensor:
        """See `aigidetect.explain.Explainable`. The classifier is linear, so the map is exact: its mean is the logit."""
        return class_activation(self.attention(self.feature_map(x)), self.classify)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


class BayesianResNet50(ResNet50):
    """A ResNet-50 whose classifier has random weights.

    In training mode each call draws the classifier's weights once. In evaluation mode the logit is that of the mean weights:
    the original's `sample=False`, and the only one that is the same at every call and for every number of draws. The
    original's own score, the mean probability of 50 draws, is what `sample_logits` leads to; it is usually
    closer to 1/2.
    """

    fc: BayesianLinear

    def __init__(self, spatial_attention: bool) -> None:
        super().__init__(spatial_attention)
        self.fc = BayesianLinear(_FEATURES, 2)

    def sample_logits(self, features: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Logits under `n` draws of the classifier's weights, which all rows share.

        Args:
            features: (N, 2048), of the method `features`.
            n: Number of draws, at least 1.
            generator: See `aigidetect.layers.bayesian.BayesianLinear.sample`.

        Returns:
            (N, n), in the type of the weights.

        Raises:
            ValueError: `n` is below 1.
        """
        with torch.autocast(features.device.type, enabled=False):
            return _difference(self.fc.sample(features.to(self.conv1.weight.dtype), n, generator))

    def kl_divergence(self) -> Tensor:
        """Divergence of the classifier's weights from their prior; see `BayesianLinear.kl_divergence`."""
        return self.fc.kl_divergence()


def _difference(outputs: Tensor) -> Tensor:
    """(..., 2) outputs of "ai" and "nature" -> (...) logits of "ai"."""
    return outputs[..., 0] - outputs[..., 1]


def build(*, bayesian: bool = False, spatial_attention: bool = False) -> ResNet50:
    """ResNet-50 with random weights.

    Args:
        bayesian: Gives the classifier random weights, see `BayesianResNet50`.
        spatial_attention: Spatial attention after the last stage.

    Returns:
        Module (N, 3, H, W) float32, ImageNet-normalised, H, W >= 1 -> (N, 1) logits; sigmoid is P(AI-generated).
    """
    return (BayesianResNet50 if bayesian else ResNet50)(spatial_attention)
