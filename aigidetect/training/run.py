"""The state of a training run: network, average, optimiser. One step at a time, saved and restored to the bit."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..layers.quantised import dequantise, matrix_of
from ..models import load_architecture
from ..models.vit import ViT
from ..preprocess import normalise
from ..state import load_into
from .distributed import Processes
from .losses import elbo, hard_negatives, paired_consistency, smoothed_bce
from .recipe import Recipe

_OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Run:
    """State of one training run.

    Args:
        recipe: What to train.
        device: Where to train.
        compiled: Use torch.compile: faster, but it needs a C++ compiler, and the last digits differ.
        processes: Who shares the batches; they have to be joined if there are several.

    Attributes:
        step: Steps done.
        pictures: Number of training pictures, which the loss "elbo" divides by; to be set before the first step.
        stored: Tensors of a frozen backbone that came in 8 bits, as they came; after `drop_tower` the whole tower.

    Raises:
        ValueError: The recipe's precision does not fit the device, its loss the network, or its batch the processes.
    """

    def __init__(
        self, recipe: Recipe, device: torch.device, compiled: bool = False, processes: Processes | None = None
    ) -> None:
        self.recipe, self.device, self.step, self.pictures = recipe, device, 0, 0
        self.stored: dict[str, Tensor] = {}
        self.processes = processes or Processes()
        recipe.check_split(self.processes.count)
        if recipe.precision == "fp16" and device.type == "cpu":
            raise ValueError("The precision 'fp16' needs a GPU; on a CPU use 'bf16' or 'fp32'.")
        torch.manual_seed(recipe.seed)
        network: nn.Module = load_architecture(recipe.architecture).build(**recipe.config)
        if recipe.loss == "elbo" and not callable(getattr(network, "kl_divergence", None)):
            raise ValueError(
                f"The loss 'elbo' needs a network with a method kl_divergence, which {recipe.architecture!r} with config "
                f"{recipe.config} lacks; use the loss 'bce', or a network with random weights."
            )
        if recipe.frozen_backbone:
            backbone_of(network).requires_grad_(False)
        network = network.to(device).to(memory_format=torch.channels_last)
        self.network = self.processes.synchronise_batch_norm(network, device)
        self._replica = self.processes.replicate(self.network, device)
        forward = self._replica or self.network
        self._forward = torch.compile(forward) if compiled else forward
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimiser = self._make_optimiser()
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")

    def take_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the initial weights of the network's backbone, before the first step.

        Args:
            state: State dict of the network, or of its backbone alone under the same names; the rest is not used. Matrices
                may be in 8 bits, see `aigidetect.layers.quantised`; a frozen backbone is then stored so with the model.

        Raises:
            ValueError: The network has no backbone, or a matrix in 8 bits is not whole.
            WeightsMismatch: The tensors do not fit it.
        """
        names = backbone_names(self.network)
        tensors = {name: value for name, value in state.items() if matrix_of(name) in names}
        exact = dequantise(tensors)
        load_into(backbone_of(self.network), {names[k]: v for k, v in exact.items()}, origin="the given backbone")
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        if self.recipe.frozen_backbone:
            self.stored = {name: value for name, value in tensors.items() if exact.get(name) is not value}

    def drop_tower(self) -> None:
        """Takes CLIP's frozen tower out of the network, except as `stored`: class tokens then come with every batch.

        Raises:
            ValueError: The network has no tower, or the recipe trains it.
        """
        if not isinstance(self.network, ViT) or self.network.tower is None or not self.recipe.frozen_backbone:
            raise ValueError(
                f"The recipe {self.recipe.name!r} does not keep a tower of CLIP frozen, so class tokens that were computed "
                "before are not its own; leave --features out, or use a recipe with clip_blocks and frozen_backbone."
            )
        self.stored = {name: self.average[name] for name in backbone_names(self.network)} | self.stored
        self.network.tower = None
        self.average = {name: self.average[name] for name in self.network.state_dict()}

    def model(self) -> dict[str, Tensor]:
        """The averaged weights, which are the result of the run. Matrices that came in 8 bits and were frozen are as they
        came, so that what is evaluated and published is what they were."""
        return self.average | self.stored

    def _make_optimiser(self) -> torch.optim.Optimizer:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        plain = [p for p in trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return _OPTIMISERS[self.recipe.optimiser](groups, lr=self.recipe.learning_rate)  # type: ignore[call-arg]

    def update(self, views: Tensor, labels: Tensor, tokens: Tensor | None = None) -> float:
        """One optimiser step on a whole batch.

        Args:
            views: (N, 3, S, S) uint8, the same in every process, which takes its part of them.
            labels: (N, 1).
            tokens: (N, D) class tokens of the views, after `drop_tower`.

        Returns:
            The loss, mean over the whole batch.
        """
        recipe = self.recipe
        self.network.train()
        if recipe.frozen_backbone and tokens is None:
            # Its features then neither drop anything at random nor drift with the statistics of batch norms.
            backbone_of(self.network).eval()
        # Dropout and weight noise then depend on (seed, step) as the batch does, and a resumed run repeats them.
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, self.step]).generate_state(1)[0]))
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate_at(self.step)
        self.optimiser.zero_grad()
        total = torch.zeros((), device=self.device)
        for turn in range(recipe.accumulate):
            part = self.processes.part(turn, recipe.accumulate)
            with self._local_gradients(turn):
                known = () if tokens is None else (tokens[part].to(self.device),)
                loss = self._loss(views[part], labels[part], *known) / recipe.accumulate
                self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self.step += 1
        self._update_average()
        return float(self.processes.mean(total))

    def _loss(self, views: Tensor, labels: Tensor, *tokens: Tensor) -> Tensor:
        recipe, labels = self.recipe, labels.to(self.device)
        inputs = normalise(views.to(self.device), recipe.mean, recipe.std).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            logits = self._forward(inputs, *tokens)
        logits = logits.float()
        if recipe.loss == "elbo":
            kl = self.network.kl_divergence()  # type: ignore[operator]
            loss = elbo(logits, labels, kl, self.pictures, recipe.label_smoothing)
        else:
            weights = hard_negatives(logits, labels, recipe.hard_negatives)
            loss = smoothed_bce(logits, labels, recipe.label_smoothing, weights)
        if recipe.consistency:
            loss = loss + recipe.consistency * paired_consistency(*logits.chunk(2))
        return loss

    def _local_gradients(self, turn: int) -> contextlib.AbstractContextManager[Any]:
        # Only the last micro-batch has to send gradients, which are sums by then.
        if self._replica is not None and turn < self.recipe.accumulate - 1:
            return self._replica.no_sync()
        return contextlib.nullcontext()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if half := _HALVES.get(self.recipe.precision):
            return torch.autocast(self.device.type, dtype=half)
        return contextlib.nullcontext()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early in a run a long average would still be mostly initial weights.
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def save(self, path: Path) -> None:
        """Writes the state as safetensors, atomically: a killed run leaves the last complete state."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= {f"stored.{k}": v for k, v in self.stored.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in state.items()}
        tensors = {name: value.detach().clone() for name, value in tensors.items()}
        facts = {"step": str(self.step), "recipe": self.recipe.to_json(), "scaler": json.dumps(self._scaler.state_dict())}
        write_tensors(tensors, path, facts)

    def restore(self, path: Path) -> None:
        """Continues from what `save` wrote.

        Raises:
            ValueError: The state belongs to another recipe.
        """
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            # Through JSON both, which turns tuples into lists; a state of an older version lacks the newer fields.
            if Recipe.from_json(facts["recipe"]) != Recipe.from_json(self.recipe.to_json()):
                raise ValueError(f"{path} was made by another recipe; choose another output folder, or remove it.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.step = int(facts["step"])
        self.network.load_state_dict(_strip(tensors, "network."))
        self.average = {name: value.to(self.device) for name, value in _strip(tensors, "average.").items()}
        self.stored = _strip(tensors, "stored.")
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _strip(tensors, "optimiser.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        whole = self.optimiser.state_dict()
        self.optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(json.loads(facts["scaler"]))


def backbone_of(network: nn.Module) -> nn.Module:
    """The part of a network that is usually trained on something else before.

    Raises:
        ValueError: There is none.
    """
    backbone = getattr(network, "backbone", None) or getattr(network, "tower", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"The network {type(network).__name__} has no backbone that could be given or kept frozen.")
    return backbone


def backbone_names(network: nn.Module) -> dict[str, str]:
    """Names of the backbone's tensors: those in the state dict of the whole network -> those in its own.

    Raises:
        ValueError: See `backbone_of`.
    """
    own = {id(value): name for name, value in backbone_of(network).state_dict(keep_vars=True).items()}
    whole = network.state_dict(keep_vars=True).items()
    return {name: own[id(value)] for name, value in whole if id(value) in own}


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def write_tensors(tensors: dict[str, Tensor], path: Path, facts: dict[str, str]) -> None:
    """Writes a safetensors file with metadata, atomically."""
    temporary = path.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=facts)
    os.replace(temporary, path)
