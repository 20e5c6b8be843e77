"""Recipe + samples -> weights. Resumable to the step, deterministic by seed."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..models import load_architecture
from ..preprocess import normalise
from .batches import Batches
from .datasets import Sample, load_pixels
from .losses import paired_consistency, smoothed_bce
from .recipe import Recipe

log = logging.getLogger(__name__)


class Run:
    """State of one training run.

    Args:
        recipe: What to train.
        device: Where to train.
        compiled: Use torch.compile: faster, but it needs a C++ compiler, and the last digits differ.
    """

    def __init__(self, recipe: Recipe, device: torch.device, compiled: bool = False) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.step = recipe, device, 0
        network: nn.Module = load_architecture(recipe.architecture).build(**recipe.config)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self._forward = torch.compile(self.network) if compiled else self.network
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
        )

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine down to a hundredth of the peak."""
        recipe = self.recipe
        warm = max(1, round(recipe.warmup * recipe.steps))
        if step < warm:
            return recipe.learning_rate * (step + 1) / warm
        passed = (step - warm) / max(1, recipe.steps - warm)
        return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * passed)))

    def update(self, views: Tensor, labels: Tensor) -> float:
        """One optimiser step on views (N, 3, S, S) uint8 and labels (N, 1); returns the loss."""
        recipe = self.recipe
        self.network.train()
        inputs = normalise(views.to(self.device)).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            logits = self._forward(inputs)
        logits = logits.float()
        loss = smoothed_bce(logits, labels.to(self.device), recipe.label_smoothing)
        if recipe.consistency:
            loss = loss + recipe.consistency * paired_consistency(*logits.chunk(2))
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return float(loss.detach())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.recipe.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
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
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in state.items()}
        tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"step": str(self.step), "recipe": self.recipe.to_json()})
        os.replace(temporary, path)

    def restore(self, path: Path) -> None:
        """Continues from what `save` wrote.

        Raises:
            ValueError: The state belongs to another recipe.
        """
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            if facts["recipe"] != self.recipe.to_json():
                raise ValueError(f"{path} was made by another recipe; choose another output folder, or remove it.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.step = int(facts["step"])
        self.network.load_state_dict(_strip(tensors, "network."))
        self.average = {name: value.to(self.device) for name, value in _strip(tensors, "average.").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _strip(tensors, "optimiser.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        whole = self.optimiser.state_dict()
        self.optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def fit(
    recipe: Recipe,
    samples: list[Sample],
    out: str | Path,
    *,
    device: str = "cpu",
    max_steps: int | None = None,
    save_every: int = 200,
    compiled: bool = False,
) -> Path:
    """Trains, or continues a run that was interrupted.

    Writes into `out`: `recipe.json`, `state.safetensors` (to continue), `log.csv` (step, loss, seconds, learning rate),
    `undecodable.txt` and, when the last step is done, `model.safetensors` (the averaged weights).

    Args:
        recipe: What to train.
        samples: Training samples of both classes.
        out: Folder of the run; one that holds a state of the same recipe is continued.
        device: Torch device.
        max_steps: Stop (resumably) after so many steps of this call.
        save_every: Steps between two states.
        compiled: See `Run`.

    Returns:
        Path of the state or, if the run is complete, of the model.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(recipe.to_json() + "\n", encoding="utf-8")
    state, run = out / "state.safetensors", Run(recipe, torch.device(device), compiled)
    if state.exists():
        run.restore(state)
        log.info("continuing at step %d", run.step)
    samples, pixels, failures = load_pixels(samples)
    (out / "undecodable.txt").write_text("".join(f"{line}\n" for line in failures), encoding="utf-8")
    log.info("%d pictures, %d could not be decoded", len(samples), len(failures))
    stop = recipe.steps if max_steps is None else min(recipe.steps, run.step + max_steps)
    _loop(run, Batches(recipe, samples, pixels), stop, out, state, save_every)
    run.save(state)
    if run.step < recipe.steps:
        return state
    model = out / "model.safetensors"
    save_file({k: v.contiguous() for k, v in run.average.items()}, model, metadata={"recipe": recipe.to_json()})
    return model


def _loop(run: Run, batches: Batches, stop: int, out: Path, state: Path, save_every: int) -> None:
    started, first = time.monotonic(), run.step
    with open(out / "log.csv", "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        losses: list[float] = []
        for views, labels in batches.iterate(run.step, stop):
            losses.append(run.update(views, labels))
            if run.step % 50 == 0 or run.step == stop:
                seconds = time.monotonic() - started
                mean = sum(losses) / len(losses)
                writer.writerow([run.step, f"{mean:.5f}", f"{seconds:.1f}", f"{run.learning_rate(run.step - 1):.3g}"])
                file.flush()
                left = seconds / (run.step - first) * (stop - run.step)
                log.info("step %d/%d  loss %.4f  %.0f min left", run.step, run.recipe.steps, mean, left / 60)
                losses = []
            if run.step % save_every == 0:
                run.save(state)


def read_log(out: str | Path) -> list[dict[str, float]]:
    """Rows of a run's `log.csv`: step, loss, seconds of that call, learning rate."""
    with open(Path(out) / "log.csv", newline="", encoding="utf-8") as file:
        keys = ("step", "loss", "seconds", "learning_rate")
        return [dict(zip(keys, map(float, row))) for row in csv.reader(file)]


def read_recipe(out: str | Path) -> Recipe:
    """The recipe of a run's folder."""
    return Recipe.from_json((Path(out) / "recipe.json").read_text(encoding="utf-8"))
