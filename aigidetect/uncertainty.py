"""Draws of a network's random weights -> how much a picture's probability varies.

References:
    | Weight Uncertainty in Neural Networks (Blundell et al., ICML 2015), section 3: prediction by averaging over draws
    | https://arxiv.org/abs/1505.05424
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .calibration import Calibration, sigmoid
from .prediction import Uncertainty


@runtime_checkable
class Sampled(Protocol):
    """What a network with random weights has besides `forward`, for which the weights are fixed in evaluation mode."""

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, F): the part without random weights."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, 1): the rest of `forward`."""
        ...

    def sample_logits(self, features: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(N, F) -> (N, n): logits under n draws of the weights, the same draws for all rows."""
        ...


@dataclass(frozen=True)
class Draws:
    """Which draws of the weights a detector makes.

    Attributes:
        samples: Number of draws, at least 2.
        seed: Their seed. Every picture sees the same draws, so its numbers do not depend on the pictures beside it.
    """

    samples: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"Expected at least 2 draws of the weights, since one has no spread, but got {self.samples}.")

    def logits(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """The network's own logits and, if it has random weights, those under each draw; the features are computed once.

        Args:
            network: (N, 3, S, S) -> (N, 1), in evaluation mode.
            inputs: (N, 3, S, S).

        Returns:
            (N, 1 + samples), or (N, 1) for a network without random weights; the first column is the network's own logit.
        """
        if not isinstance(network, Sampled):
            own: Tensor = network(inputs)
            return own.reshape(-1, 1)
        features = network.features(inputs)
        # A generator of the CPU gives the same draws on every device.
        generator = torch.Generator().manual_seed(self.seed)
        return torch.cat((network.classify(features), network.sample_logits(features, self.samples, generator)), dim=1)

    def spread(self, calibration: Calibration, sampled: Sequence[Sequence[float]]) -> Uncertainty | None:
        """Spread of one picture's probability: each draw is a network of its own, which sees all views.

        Args:
            calibration: Pools the views' logits of a draw and makes them a probability.
            sampled: For each view its logits under the draws, `samples` of them, or none of a network without random
                weights, for which the answer is None.
        """
        draws = [sigmoid(calibration.logit(logits)) for logits in zip(*sampled)]
        if not draws:
            return None
        low, *_, high = statistics.quantiles(draws, n=40, method="inclusive")
        return Uncertainty(statistics.fmean(draws), statistics.stdev(draws), low, high, self.samples, self.seed)
