"""A linear layer whose weights are independent normal distributions instead of numbers.

References:
    | Weight Uncertainty in Neural Networks (Blundell et al., ICML 2015)
    | https://arxiv.org/abs/1505.05424
    | Auto-Encoding Variational Bayes (Kingma & Welling, ICLR 2014), appendix B: the divergence in closed form
    | https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BayesianLinear(nn.Module):
    """Linear layer with weights `w ~ N(mu, sigma^2)`, `sigma = log(1 + exp(rho))`, and biases alike.

    In training mode every call draws the weights once, from torch's global generator, and the whole batch shares them; the
    gradient reaches `mu` and `rho` through `w = mu + sigma * noise` (Blundell et al., section 3.2). In evaluation mode a
    call uses the means, so that it needs no seed; `sample` draws. The prior of all weights and biases is N(0, 1).

    Args:
        in_features: Number of features F, at least 1.
        out_features: Number of outputs K, at least 1.

    Shape: (N, F) -> (N, K).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(0.1 * torch.randn(out_features, in_features))
        self.weight_rho = nn.Parameter(-3 + 0.1 * torch.randn(out_features, in_features))
        self.bias_mu = nn.Parameter(0.1 * torch.randn(out_features))
        self.bias_rho = nn.Parameter(-3 + 0.1 * torch.randn(out_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.linear(x, self.weight_mu, self.bias_mu)
        return F.linear(x, *self._draw(None))

    def sample(self, x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Outputs under `n` draws of the weights, in either mode; every row of `x` sees the same draws.

        Args:
            x: (N, F).
            n: Number of draws, at least 1.
            generator: Source of the noise, of any device; None is torch's global one of the layer's device. The same state
                of it gives the same draws, whatever `x` is.

        Returns:
            (N, n, K).

        Raises:
            ValueError: `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"Expected at least 1 draw of the weights, but got {n}.")
        weights, biases = zip(*(self._draw(generator) for _ in range(n)))
        return F.linear(x, torch.cat(weights), torch.cat(biases)).view(len(x), n, len(self.bias_mu))

    def kl_divergence(self) -> Tensor:
        """KL divergence of the weights' distribution from the prior N(0, 1): scalar >= 0, in nats.

        The sum over all weights and biases of `-log(sigma) + (sigma^2 + mu^2 - 1) / 2`.
        """
        pairs = ((self.weight_mu, self.weight_rho), (self.bias_mu, self.bias_rho))
        return torch.stack([_kl_to_standard_normal(mu, F.softplus(rho)) for mu, rho in pairs]).sum()

    def _draw(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        # One draw after the other, and the weight first: the original's order, so that a seed gives its numbers.
        weight = _normal(self.weight_mu, F.softplus(self.weight_rho), generator)
        return weight, _normal(self.bias_mu, F.softplus(self.bias_rho), generator)


def _normal(mu: Tensor, sigma: Tensor, generator: torch.Generator | None) -> Tensor:
    # Drawn where the generator lives, since the generators of two devices give different numbers for one seed.
    device = mu.device if generator is None else generator.device
    noise = torch.randn(mu.shape, generator=generator, device=device, dtype=torch.float32)
    return mu + sigma * noise.to(mu)


def _kl_to_standard_normal(mu: Tensor, sigma: Tensor) -> Tensor:
    return ((sigma.square() + mu.square() - 1) / 2 - sigma.log()).sum()
