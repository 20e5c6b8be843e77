"""Adapts the late blocks of a frozen tower by low-rank updates, on cached tokens.

A linear head on frozen features can only weigh what the tower happens to encode. A low-rank update changes the late blocks
themselves, with few numbers, so that little is forgotten. The blocks before them stay as they are, and their tokens come
from a cache: see `aigidetect.training.features`.

References:
    | LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., ICLR 2022)
    | https://arxiv.org/abs/2106.09685
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
from ..models.clip_vit import CLIPViT, summary
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
    average: float = 0.99
    seed: int = 0


class Adaptation:
    """State of one run.

    Args:
        network: CLIPViT with the tower's weights and a fitted head; it is changed.
        tokens: Caches of tokens after block `config.after`, each (views, pictures, L, D) float16.
        samples: The pictures of each cache, in its order.
        config: See `AdaptConfig`.
    """

    def __init__(
        self,
        network: CLIPViT,
        tokens: Sequence[NDArray[np.float16]],
        samples: Sequence[Sequence[Sample]],
        config: AdaptConfig,
    ) -> None:
        torch.manual_seed(config.seed)
        self.network, self.tokens, self.config, self.step = network, tokens, config, 0
        network.requires_grad_(False)
        network.head.fc.requires_grad_(True)
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
        self.trained = [*factors, *network.head.fc.parameters()]
        self.averages = [p.detach().clone() for p in self.trained]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": factors, "peak": config.learning_rate},
                {"params": [*network.head.fc.parameters()], "peak": config.head_learning_rate},
            ],
            weight_decay=config.weight_decay,
        )
        flat = [sample for part in samples for sample in part]
        self._where = [(c, i) for c, part in enumerate(samples) for i in range(len(part))]
        self._labels = np.array([sample.label for sample in flat])
        self._weights = sample_weights(flat, config.balance, config.aligned).double().numpy()

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

    def logits(self, tokens: Tensor) -> Tensor:
        """(N, L, D) tokens after block `after` -> (N, 1) logits."""
        tower, config, summaries = self.network.tower, self.config, []
        x = tokens.float()
        with torch.autocast("cpu", torch.bfloat16):
            for number in range(config.after, len(tower.blocks)):
                x = tower.blocks[number](x)
                if number + 1 in tower.taps:
                    summaries.append(summary(x.float()))
        logits: Tensor = self.network.head(torch.cat(summaries, dim=1).float())
        return logits

    def update(self) -> float:
        """One optimiser step; returns the loss."""
        config = self.config
        tokens, labels = self.batch(self.step)
        logits = self.logits(tokens)
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
        tensors |= {"head.fc.weight": next(averages), "head.fc.bias": next(averages)}
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
                log.info(
                    "step %d/%d  loss %.4f  %.0f min left",
                    run.step,
                    run.config.steps,
                    mean,
                    seconds / (run.step - first) * (last - run.step) / 60,
                )
            if run.step % save_every == 0 or run.step == last:
                run.save(state)
                save_file(
                    run.result(),
                    out / "adapted.safetensors",
                    metadata={"config": json.dumps(dataclasses.asdict(run.config))},
                )
    return out / "adapted.safetensors"
