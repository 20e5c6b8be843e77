"""Training batches as pure functions of (recipe, step): nothing to save, nothing to lose on a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .augment import Pixels
from .datasets import AI, REAL, Sample
from .recipe import Recipe


class Batches:
    """Balanced random batches.

    Half of each batch is real. Within a class a picture's probability is its source's size to the power
    `recipe.balance - 1`, so that no large source dominates. With `recipe.consistency` a batch holds half as many
    pictures, each twice: view i and view i + n/2 are the same picture under two draws of the pipeline.

    Args:
        recipe: Supplies seed, batch size, view sizes and augmentation.
        samples: Labelled pictures of the training split.
        pixels: Their pixels, (H, W, 3) uint8, in the same order.
        targets: (N,) in [0, 1] in the same order, see `soft_targets`; None means the labels.

    Raises:
        ValueError: One of the classes is missing.
    """

    def __init__(self, recipe: Recipe, samples: list[Sample], pixels: list[Pixels], targets: Tensor | None = None) -> None:
        self.recipe, self.samples, self.pixels = recipe, samples, pixels
        self._targets = torch.tensor([float(sample.label) for sample in samples]) if targets is None else targets
        sizes = Counter((sample.label, sample.source) for sample in samples)
        self._classes = []
        for label in (REAL, AI):
            index = np.array([i for i, sample in enumerate(samples) if sample.label == label])
            if not len(index):
                raise ValueError(f"No {'AI-generated' if label else 'real'} pictures to train on; both are needed.")
            weight = np.array([sizes[label, samples[i].source] ** (recipe.balance - 1) for i in index])
            self._classes.append((index, weight / weight.sum()))

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The batch of one step, as `Run.update` takes it: views (N, 3, S, S) uint8 and targets (N, 1) float32."""
        recipe = self.recipe
        # The sequence [seed, step] seeds a generator of its own for every step.
        rng = np.random.default_rng([recipe.seed, step])
        pictures = recipe.batch_size // 2 if recipe.consistency else recipe.batch_size
        half = pictures // 2
        chosen = np.concatenate([rng.choice(i, n, p=p) for (i, p), n in zip(self._classes, (pictures - half, half))])
        if recipe.consistency:
            chosen = np.concatenate([chosen, chosen])
        return self._seen(chosen, recipe.size_at(step), rng)

    def _seen(self, chosen: NDArray[np.int64], size: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        views = np.stack([self.recipe.augment(self.pixels[i], size, rng) for i in chosen])
        return torch.from_numpy(views).permute(0, 3, 1, 2), self._targets[torch.from_numpy(chosen)][:, None]

    def iterate(self, start: int, stop: int, *, ahead: int = 4) -> Iterator[tuple[Tensor, ...]]:
        """Batches of the steps `start` to `stop - 1`, made in a thread up to `ahead` steps early."""
        with ThreadPoolExecutor(1) as pool:
            pending: list[Future[tuple[Tensor, ...]]] = []
            for step in range(start, stop):
                while len(pending) < ahead and step + len(pending) < stop:
                    pending.append(pool.submit(self.batch, step + len(pending)))
                yield pending.pop(0).result()
