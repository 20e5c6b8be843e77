"""The head of the report's transformer detectors: two hidden layers on one feature vector.

References:
    | AI-Generated Image Detection, course report (HKUST, 2025), section 5

Deviation from the report: its last layer has two outputs, "real" and "AI-generated"; this one has their difference. The
softmax of two numbers is the sigmoid of their difference, so the probability is the same; see `one_logit`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Activation = Literal["gelu", "relu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class MLPHead(nn.Module):
    """Linear to 512, batch norm, activation, dropout; the same to 256; linear to one logit.

    Args:
        features: Width F of the feature vector.
        activation: `"gelu"`, exact, as in the report's text; or `"relu"`. A checkpoint does not tell which it needs.
        affine: Whether the batch norms scale and shift. The report's do not.

    Shape: (N, F) -> (N, 1); in training N has to be at least 2.

    Raises:
        ValueError: Unknown activation.
    """

    def __init__(self, features: int, *, activation: Activation = "gelu", affine: bool = False) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"Unknown activation {activation!r}; use one of {', '.join(_ACTIVATIONS)}.")
        self.fc1 = nn.Linear(features, 512)
        self.norm1 = nn.BatchNorm1d(512, affine=affine)
        self.fc2 = nn.Linear(512, 256)
        self.norm2 = nn.BatchNorm1d(256, affine=affine)
        self.fc3 = nn.Linear(256, 1)
        self.activation = _ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(0.3)

    def forward(self, features: Tensor) -> Tensor:
        x = self.dropout(self.activation(self.norm1(self.fc1(features))))
        x = self.dropout(self.activation(self.norm2(self.fc2(x))))
        # Written out, since autocast would round the logit to half precision.
        logits: Tensor = (x * self.fc3.weight).sum(dim=1, keepdim=True) + self.fc3.bias
        return logits


def one_logit(two: Tensor, *, ai: int) -> Tensor:
    """Weight or bias of a last layer with two outputs -> that of the layer whose output is their difference.

    Args:
        two: (2, ...).
        ai: Index, 0 or 1, of the output that stands for "AI-generated".

    Returns:
        (1, ...), of which the sigmoid of the output is the softmax of the two outputs at `ai`.
    """
    return two[ai : ai + 1] - two[1 - ai : 2 - ai]
