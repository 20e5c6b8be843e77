"""Adapts the late blocks of a frozen tower by low-rank updates, on cached tokens.

A linear head on frozen features can only weigh what the tower happens to encode. A low-rank update changes the late blocks
themselves, with few numbers, so that little is forgotten. The blocks before them stay as they are, and their tokens come
from a cache: see `aigidetect.training.features`.

References:
    | LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., ICLR 2022)
    | https://arxiv.org/abs/2106.09685
    | Scaling Language-Image Pre-training via Masking (Li et al., CVPR 2023), for dropping patches while training
    | https://arxiv.org/abs/2212.00794
"""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..layers.low_rank import LowRankLinear
from ..models.clip_vit import CLIPViT
from .datasets import Sample
from .heads import sample_weights
from .losses import paired_consistency, smoothed_bce

log = logging.getLogger(__name__)

_LINEAR = ("qkv", "out", "fc1", "fc2")


@dataclass(frozen=True)
class AdaptConfig:
    """How a tower is adapted.

    Attributes:
        after: The last block that stays as it is, whose tokens are cached.
        rank: Rank of each update.
        steps: Optimiser steps.
        batch_size: Views a step: two of each picture, half of the pictures real.
        learning_rate: AdamW's peak for the factors; linear warm-up over a twentieth, then cosine.
        head_learning_rate: The same for the head, which starts fitted.
        weight_decay: AdamW's.
        smoothing: Targets are this far from 0 and 1.
        consistency: Weight of the squared difference of the probabilities of a picture's two views.
        balance: Exponent of a source's size in its probability, see `Recipe`.
        aligned: Factor of the probability of aligned fakes, see `sample_weights`.
        keep: Share of the patch tokens that a training step computes, in (0, 1], another random set for each view. The class
            token always stays. Half of them cost half the time.
        dropout: Share of the features, and of the hidden units, that are dropped while training.
        average: Decay a step of the averaged weights, which are what is kept.
        seed: Seed of factors and batches.
    """

    after: int = 4
    rank: int = 8
    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 4e-4
    head_learning_rate: float = 2e-5
    weight_decay: float = 0.01
    smoothing: float = 0.02
    consistency: float = 0.5
    balance: float = 0.5
    aligned: float = 5.0
    keep: float = 1.0
    dropout: float = 0.0
    average: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"Expected keep in (0, 1] and dropout in [0, 1), but got {self.keep} and {self.dropout}.")


class Adaptation:
    """State of one run.

    Args:
        network: CLIPViT with the tower's weights and a fitted head; it is changed.
        tokens: Caches of tokens after block `config.after`, each (views, pictures, L, D) float16.
        samples: The pictures of each cache, in its order.
        config: See `AdaptConfig`.
        apart: For each cache a mask of the pictures that are not trained on, see `kept_apart`; None trains on all.
    """

    def __init__(
        self,
        network: CLIPViT,
        tokens: Sequence[NDArray[np.float16]],
        samples: Sequence[Sequence[Sample]],
        config: AdaptConfig,
        apart: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.network, self.tokens, self.config, self.step = network, tokens, config, 0
        network.requires_grad_(False)
        network.head.requires_grad_(True)
        self.layers: dict[str, LowRankLinear] = {}
        for number in range(config.after, len(network.tower.blocks)):
            block = network.tower.blocks[number]
            for name in _LINEAR:
                layer = LowRankLinear(getattr(block, name), config.rank)
                # Autocast would cast the frozen matrices again at every step.
                layer.linear.to(torch.bfloat16)
                setattr(block, name, layer)
                self.layers[f"tower.blocks.{number}.{name}"] = layer
        factors = [p for layer in self.layers.values() for p in (layer.down, layer.up)]
        self.trained = [*factors, *network.head.parameters()]
        self.averages = [p.detach().clone() for p in self.trained]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": factors, "peak": config.learning_rate},
                {"params": [*network.head.parameters()], "peak": config.head_learning_rate},
            ],
            weight_decay=config.weight_decay,
        )
        flat = [sample for part in samples for sample in part]
        self._where = [(c, i) for c, part in enumerate(samples) for i in range(len(part))]
        self._labels = np.array([sample.label for sample in flat])
        self._weights = sample_weights(flat, config.balance, config.aligned).double().numpy()
        if apart is not None:
            self._weights[np.concatenate(apart)] = 0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens (N, L, D) float16 and labels (N, 1) of one step: view i and view i + N/2 show the same picture."""
        rng, half = np.random.default_rng([self.config.seed, step]), self.config.batch_size // 4
        chosen = []
        for label in (0, 1):
            index = np.flatnonzero(self._labels == label)
            chosen.append(rng.choice(index, half, p=self._weights[index] / self._weights[index].sum()))
        pictures = np.concatenate(chosen)
        pairs = [rng.choice(len(self.tokens[self._where[i][0]]), 2, replace=False) for i in pictures]
        views = [
            self.tokens[self._where[i][0]][pair[n], self._where[i][1]] for n in (0, 1) for i, pair in zip(pictures, pairs)
        ]
        labels = torch.from_numpy(self._labels[np.concatenate([pictures, pictures])]).float()[:, None]
        return torch.from_numpy(np.stack(views)), labels

    def thinned(self, tokens: Tensor, step: int) -> Tensor:
        """(N, L, D) -> (N, 1 + share of the L - 1 patches, D): the tokens that a step computes."""
        count = max(1, round(self.config.keep * (tokens.shape[1] - 1)))
        if count == tokens.shape[1] - 1:
            return tokens
        rng = np.random.default_rng([self.config.seed, step, 1])
        kept = np.argsort(rng.random((len(tokens), tokens.shape[1] - 1)), axis=1)[:, :count] + 1
        index = torch.from_numpy(np.concatenate([np.zeros((len(tokens), 1), np.int64), np.sort(kept, axis=1)], axis=1))
        return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))

    def logits(self, tokens: Tensor) -> Tensor:
        """(N, L, D) tokens after block `after` -> (N, 1) logits; nothing is dropped where no gradient is asked for."""
        with torch.autocast("cpu", torch.bfloat16):
            tapped = self.network.tower.tapped(tokens.float(), after=self.config.after)
        dropout = self.config.dropout if torch.is_grad_enabled() else 0.0
        logits: Tensor = self.network.head(self.network.read(tapped), dropout)
        return logits

    def scores(self, pictures: NDArray[np.int64], *, views: int = 2, averaged: bool = True) -> NDArray[np.float32]:
        """Logits (views, pictures) of some pictures of the first cache, with the averaged weights or the present ones."""
        current = [p.detach().clone() for p in self.trained]
        self._put(self.averages if averaged else current)
        rows = []
        with torch.inference_mode():
            for view in self.tokens[0][:views]:
                parts = np.array_split(pictures, max(1, len(pictures) // 16))
                rows.append(np.concatenate([self.logits(torch.from_numpy(view[p]))[:, 0].numpy() for p in parts]))
        self._put(current)
        return np.stack(rows)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for own, value in zip(self.trained, values):
            own.copy_(value)

    def update(self) -> float:
        """One optimiser step; returns the loss."""
        config = self.config
        tokens, labels = self.batch(self.step)
        # The same at every call of a step, so that a resumed run repeats it.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.step]).generate_state(1)[0]))
        logits = self.logits(self.thinned(tokens, self.step))
        loss = smoothed_bce(logits, labels, config.smoothing)
        loss = loss + config.consistency * paired_consistency(*logits.chunk(2))
        warm = max(1, config.steps // 20)
        share = (self.step + 1) / warm if self.step < warm else 0.5 * (1 + math.cos(math.pi * self.step / config.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * share
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(config.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, value in zip(self.averages, self.trained):
                average.lerp_(value, 1 - decay)
        return float(loss.detach())

    def result(self) -> dict[str, Tensor]:
        """Averaged factors and head, under the names of a weights file; see `aigidetect.layers.low_rank`."""
        averages = iter(self.averages)
        tensors: dict[str, Tensor] = {}
        for name in self.layers:
            tensors |= {f"{name}.low_rank_down": next(averages), f"{name}.low_rank_up": next(averages)}
        head = self.network.head
        tensors |= {f"head.{name}": next(averages) for name, _ in head.named_parameters()}
        tensors |= {"head.mean": head.mean, "head.scale": head.scale}
        return {name: value.detach().clone().contiguous() for name, value in tensors.items()}

    def save(self, path: Path) -> None:
        """Writes the state atomically, to continue from."""
        tensors = {f"value.{i}": p.detach().clone() for i, p in enumerate(self.trained)}
        tensors |= {f"average.{i}": p.clone() for i, p in enumerate(self.averages)}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{key}": value.clone() for key, value in state.items()}
        facts = {"step": str(self.step), "config": json.dumps(dataclasses.asdict(self.config))}
        save_file(tensors, path.with_suffix(".tmp"), metadata=facts)
        os.replace(path.with_suffix(".tmp"), path)

    def restore(self, path: Path) -> None:
        """Continues from what `save` wrote.

        Raises:
            ValueError: The state belongs to another configuration.
        """
        with safe_open(path, framework="pt") as file:
            facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if json.loads(facts["config"]) != dataclasses.asdict(self.config):
            raise ValueError(f"{path} was made by another configuration; choose another output folder, or remove it.")
        self.step = int(facts["step"])
        state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for i, value in enumerate(self.trained):
                value.copy_(tensors[f"value.{i}"])
                self.averages[i] = tensors[f"average.{i}"]
                state[i] = {key: tensors[f"optimiser.{i}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})


def adapt(run: Adaptation, out: str | Path, *, max_steps: int | None = None, save_every: int = 100) -> Path:
    """Runs, or continues a run that was interrupted.

    Args:
        run: A fresh `Adaptation`.
        out: Folder of `state.safetensors`, `log.csv` (step, mean loss, seconds) and, at any time, `adapted.safetensors`.
        max_steps: Stop, resumably, after so many steps of this call.
        save_every: Steps between two states.

    Returns:
        Path of `adapted.safetensors`: `Adaptation.result`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    state, started, losses = out / "state.safetensors", time.monotonic(), []
    if state.exists():
        run.restore(state)
    first, last = run.step, run.config.steps if max_steps is None else min(run.config.steps, run.step + max_steps)
    with open(out / "log.csv", "a", newline="", encoding="utf-8") as file:
        while run.step < last:
            losses.append(run.update())
            if run.step % 20 == 0 or run.step == last:
                seconds = time.monotonic() - started
                mean, losses = sum(losses) / len(losses), []
                csv.writer(file).writerow([run.step, f"{mean:.5f}", f"{seconds:.1f}"])
                file.flush()
                left = seconds / (run.step - first) * (last - run.step) / 60
                log.info("step %d/%d  loss %.4f  %.0f min left", run.step, run.config.steps, mean, left)
            if run.step % save_every == 0 or run.step == last:
                run.save(state)
                facts = {"config": json.dumps(dataclasses.asdict(run.config))}
                save_file(run.result(), out / "adapted.safetensors", metadata=facts)
    return out / "adapted.safetensors"
