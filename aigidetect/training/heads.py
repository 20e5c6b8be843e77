"""Heads on cached features: fitted in seconds, so that blocks, regularisation and amounts of data can be compared.

References:
    | Towards Universal Fake Image Detectors that Generalize Across Generative Models (Ojha et al., CVPR 2023)
    | https://arxiv.org/abs/2302.10174
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.clip_vit import Head
from .block_attention import BlockAttention, supervised_contrast
from .datasets import AI, Sample
from .features import FeatureCache
from .losses import smoothed_bce

Array = NDArray[np.float32]


@dataclass(frozen=True)
class HeadConfig:
    """How a head is fitted.

    Attributes:
        blocks: Consecutive blocks whose features it reads.
        patches: Whether these are mean and deviation of the patch tokens beside the class token.
        hidden: Width of the hidden layer; 0 is logistic regression.
        weight_decay: L2 penalty of logistic regression (on standardised features, per mean loss), or AdamW's decay.
        dropout: Share of the features, and of the hidden units, that are dropped while fitting; only with `hidden`.
        epochs: Passes over all views; only with `hidden`.
        learning_rate: AdamW's peak; only with `hidden`.
        smoothing: Targets are this far from 0 and 1.
        balance: Exponent of a source's size in its weight: 0 weighs sources evenly, 1 weighs pictures evenly.
        aligned: Factor of the weight of aligned fakes, see `sample_weights`.
        attention: Weighs the blocks against each other, see `BlockAttention`; only with `hidden`.
        contrast: Weight of `supervised_contrast` in the loss; only with `hidden`.
        seed: Seed of initial weights, dropout and order.

    Raises:
        ValueError: `attention` or `contrast` without a hidden layer.
    """

    blocks: tuple[int, ...] = (6, 7, 8, 9)
    patches: bool = True
    hidden: int = 0
    weight_decay: float = 1.0
    dropout: float = 0.5
    epochs: int = 10
    learning_rate: float = 3e-4
    smoothing: float = 0.0
    balance: float = 0.5
    aligned: float = 5.0
    attention: bool = False
    contrast: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.attention or self.contrast) and not self.hidden:
            raise ValueError("attention and contrast need a hidden layer; set hidden, for instance to 256.")


def sample_weights(samples: Sequence[Sample], balance: float, aligned: float = 1.0) -> Tensor:
    """Weight of each picture, (N,) float32 with sum N: both classes weigh the same.

    Args:
        samples: The pictures.
        balance: Exponent of a source's size in its weight, see `HeadConfig`.
        aligned: Factor of aligned fakes (see `aigidetect.training.aligned_set`): all that one autoencoder made counts as a
            single source among hundreds, and would hardly be seen otherwise.
    """
    sizes = Counter((s.label, s.source) for s in samples)
    weights = torch.tensor([float(sizes[s.label, s.source]) ** (balance - 1) for s in samples])
    weights[torch.tensor([s.line.startswith("aligned-") for s in samples])] *= aligned
    labels = torch.tensor([s.label for s in samples])
    for label in (0, 1):
        chosen = labels == label
        weights[chosen] *= len(samples) / 2 / weights[chosen].sum()
    return weights


def fit_head(features: Tensor, labels: Tensor, weights: Tensor, config: HeadConfig) -> Head:
    """A head fitted on features.

    Args:
        features: (N, F) float32, raw; they are standardised here, and the head keeps the statistics.
        labels: (N,) in [0, 1]; soft labels are allowed.
        weights: (N,) non-negative.
        config: See `HeadConfig`.

    Returns:
        The head, in evaluation mode: (N, F) -> (N, 1) logits.
    """
    torch.manual_seed(config.seed)
    width = features.shape[1]
    head = BlockAttention(width, config.hidden, len(config.blocks)) if config.attention else Head(width, config.hidden)
    head.mean.copy_(features.mean(dim=0))
    # A feature that hardly varies would be blown up by its own tiny deviation.
    head.scale.copy_(features.std(dim=0).clamp_min(1e-3))
    if config.hidden:
        _descend(head, features, labels, weights, config)
    else:
        _logistic(head, features, labels, weights, config)
    return head.eval().requires_grad_(False)


def _logistic(head: Head, features: Tensor, labels: Tensor, weights: Tensor, config: HeadConfig) -> None:
    nn.init.zeros_(head.fc.weight)
    nn.init.zeros_(head.fc.bias)
    x, targets = (features - head.mean) / head.scale, labels[:, None]
    parameters = [head.fc.weight, head.fc.bias]
    optimiser = torch.optim.LBFGS(parameters, max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        # In two products: one would need a second copy of the features for the gradient.
        loss = smoothed_bce(head.fc(x), targets, config.smoothing, weights[:, None])
        loss = loss + config.weight_decay * head.fc.weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]


def _descend(head: Head, features: Tensor, labels: Tensor, weights: Tensor, config: HeadConfig, batch: int = 256) -> None:
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * (len(features) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(config.epochs):
        for chosen in torch.split(torch.randperm(len(features), generator=generator), batch)[: len(features) // batch]:
            x = head.represent(features[chosen], config.dropout)
            loss = smoothed_bce(head.decide(x), labels[chosen, None], config.smoothing, weights[chosen, None])
            if config.contrast:
                loss = loss + config.contrast * (weights[chosen] * supervised_contrast(x, labels[chosen])).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def source_folds(samples: Sequence[Sample], folds: int) -> NDArray[np.int64]:
    """Fold of each picture: generated pictures of one model line and real pictures of one source stay together.

    So a fold measures what carries over to generators and photographs that the head has not seen. Groups (scenes, prompts)
    may lie in two folds where different generators drew them.
    """
    keys = [(s.label, s.line if s.label == AI else s.source) for s in samples]
    sizes = Counter(keys)
    totals = {0: [0] * folds, 1: [0] * folds}
    fold_of = {}
    for key in sorted(sizes, key=lambda k: (-sizes[k], k)):
        fold = int(np.argmin(totals[key[0]]))
        fold_of[key] = fold
        totals[key[0]][fold] += sizes[key]
    return np.array([fold_of[key] for key in keys])


def kept_apart(samples: Sequence[Sequence[Sample]], folds: int) -> list[NDArray[np.bool_]]:
    """Which pictures are held out to measure what carries over: the first of some folds of `source_folds`.

    Args:
        samples: The pictures of several caches. Folds are those of the first one; of the others, which hold aligned fakes,
            the pictures that were made from held-out ones are held out too.
        folds: Number of folds; 0 holds out nothing.

    Returns:
        A mask for each cache, True where the picture is held out.
    """
    masks = [np.zeros(len(part), bool) for part in samples]
    if folds:
        masks[0] = source_folds(samples[0], folds) == 0
        groups = {sample.group for sample, out in zip(samples[0], masks[0]) if out}
        for number, part in enumerate(samples[1:], start=1):
            masks[number] = np.array([sample.group in groups for sample in part])
    return masks


def out_of_fold(
    features: NDArray[np.float16],
    samples: Sequence[Sample],
    config: HeadConfig,
    *,
    folds: int = 5,
    aligned: Sequence[tuple[NDArray[np.float16], Sequence[Sample]]] = (),
) -> NDArray[np.float32]:
    """Logits of every view from heads that saw no picture of its model line or photo source, see `source_folds`.

    Args:
        features: (views, pictures, F).
        samples: The pictures.
        config: How each head is fitted.
        folds: Number of folds.
        aligned: Features and pictures of sets of aligned fakes, which every head also sees, less those that were made from
            pictures it does not see.

    Returns:
        (views, pictures) float32.
    """
    fold, logits = source_folds(samples, folds), np.zeros(features.shape[:2], np.float32)
    sets = [(features, samples), *aligned]
    for number in range(folds):
        outside = fold == number
        groups = {sample.group for sample, out in zip(samples, outside) if out}
        kept = [~outside, *(np.array([sample.group not in groups for sample in part]) for _, part in aligned)]
        rows: list[Sample] = []
        for (part_features, part), mask in zip(sets, kept):
            rows += [sample for sample, keep in zip(part, mask) if keep] * len(part_features)
        x = torch.cat([flat(f, np.flatnonzero(mask)) for (f, _), mask in zip(sets, kept)])
        labels = torch.tensor([float(sample.label) for sample in rows])
        head = fit_head(x, labels, sample_weights(rows, config.balance, config.aligned), config)
        with torch.inference_mode():
            out = head(flat(features, np.flatnonzero(outside)))
            logits[:, outside] = out.view(len(features), int(outside.sum())).numpy()
    return logits


def features_for(cache: FeatureCache, config: HeadConfig, views: int | None = None) -> NDArray[np.float16]:
    """What a head reads of a cache: (views, pictures, F), of at most so many views that are there for every picture."""
    count = min(cache.complete, views or cache.complete)
    return cache.features[:count, :, cache.columns(config.blocks, patches=config.patches)]


def flat(features: NDArray[np.float16], pictures: NDArray[np.int64] | slice = slice(None)) -> Tensor:
    """(views, pictures, F) float16 -> (views * chosen pictures, F) float32, view by view."""
    chosen = features[:, pictures]
    return torch.from_numpy(chosen.astype(np.float32).reshape(-1, features.shape[2]))


def pooled(
    caches: Sequence[FeatureCache], samples: Sequence[Sequence[Sample]], config: HeadConfig, *, views: int | None = None
) -> tuple[Tensor, Tensor, list[Sample]]:
    """Features of several caches as one training set.

    Args:
        caches: The caches; only views that are there for every picture are used.
        samples: The pictures of each cache, in its order.
        config: Says which features.
        views: At most so many views of each picture.

    Returns:
        (N, F) float32, labels (N,) float32, and the N pictures that the rows show.

    Raises:
        ValueError: A cache and its pictures differ in number.
    """
    features, rows = [], []
    for cache, part in zip(caches, samples):
        if cache.features.shape[1] != len(part):
            raise ValueError(f"The cache holds {cache.features.shape[1]} pictures, the data {len(part)}.")
        features.append(flat(own := features_for(cache, config, views)))
        rows += [sample for _ in own for sample in part]
    return torch.cat(features), torch.tensor([float(sample.label) for sample in rows]), rows


def named(config: HeadConfig) -> str:
    """The fields that differ from the defaults, for a table."""
    plain = HeadConfig()
    differing = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != getattr(plain, f.name)
    }
    return ", ".join(f"{key}={value}" for key, value in differing.items()) or "default"
