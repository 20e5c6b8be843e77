"""A small network with a Bayesian classifier, which has what `aigidetect.uncertainty.Draws` and the loss "elbo" need."""

import torch
from torch import nn

from aigidetect.layers.bayesian import BayesianLinear


class SmallBayesian(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = BayesianLinear(8, 1)
        self.kl_divergence = self.fc.kl_divergence

    def features(self, x):
        return torch.relu(self.conv(x)).mean(dim=(2, 3))

    def classify(self, features):
        return self.fc(features)

    def sample_logits(self, features, n, generator=None):
        return self.fc.sample(features, n, generator)[..., 0]

    def forward(self, x):
        return self.classify(self.features(x))


def build():
    return SmallBayesian()
