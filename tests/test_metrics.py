"""Figures of merit against another implementation."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from aigidetect.training.metrics import measure


@pytest.mark.parametrize("seed", range(20))
def test_ranking_figures_equal_those_of_scikit_learn_whatever_ties_and_weights(seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.integers(0, 2, 60)]).astype(float)
    ties = rng.integers(0, 5, 62) / 4
    for probabilities in (rng.random(62), ties, np.full(62, 0.3)):
        # A bootstrap sample leaves some pictures out and counts others several times.
        for weights in (None, np.maximum(rng.integers(0, 3, 62), np.arange(62) < 2) * 1.0, rng.random(62)):
            figures = measure(labels, probabilities, weights=weights)
            assert figures["auroc"] == pytest.approx(roc_auc_score(labels, probabilities, sample_weight=weights))
            assert figures["ap"] == pytest.approx(average_precision_score(labels, probabilities, sample_weight=weights))
