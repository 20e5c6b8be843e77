"""A network without batch norm for the tests of `fit`: few weights, and a dropout or random weights if asked."""

import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, dropout, bayesian):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8, 1)
        if bayesian:
            self.spread = nn.Parameter(torch.full((8,), -2.0))
            self.kl_divergence = self._divergence

    def forward(self, x):
        features = self.dropout(torch.relu(self.conv(x)).mean(dim=(2, 3)))
        if hasattr(self, "spread"):
            features = features * (1 + self.spread.exp() * torch.randn(8))
        return self.fc(features)

    def _divergence(self):
        return (self.spread.exp().square() / 2 - self.spread - 0.5).sum()


def build(*, dropout=0.0, bayesian=False):
    return Small(dropout, bayesian)
