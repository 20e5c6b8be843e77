"""Recipe + samples -> weights. Resumable to the step, deterministic by seed."""

from __future__ import annotations

import contextlib
import csv
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

from ..models.vit import ViT
from .backbone import give_backbone, give_start
from .batches import Batches
from .class_token import TokenBatches, TokenCache, begin_with_tokens, check_record
from .datasets import Sample, load_pixels
from .distributed import Processes
from .progress import Progress
from .recipe import Recipe
from .run import Run, write_tensors
from .teacher import read_teacher, soft_targets

log = logging.getLogger(__name__)


def fit(
    recipe: Recipe,
    samples: list[Sample],
    out: str | Path,
    *,
    backbone: str | Path | None = None,
    start: str | Path | None = None,
    teacher: str | Path | None = None,
    features: Sequence[TokenCache] = (),
    device: str = "cpu",
    max_steps: int | None = None,
    save_every: int = 200,
    log_every: int = 50,
    compiled: bool = False,
    tensorboard: bool = False,
) -> Path:
    """Trains, or continues a run that was interrupted.

    Writes into `out`: `recipe.json`, `state.safetensors` (to continue), `log.csv` (step, loss, seconds, learning rate),
    `undecodable.txt` and, when the last step is done, `model.safetensors` (`Run.model`). Under `accelerate launch`
    or `torchrun` the processes share every batch, and the main process writes; see `aigidetect.training.distributed`.

    Args:
        recipe: What to train.
        samples: Training samples of both classes.
        out: Folder of the run; one that holds a state of the same recipe is continued.
        backbone: Safetensors file with weights that the network's backbone begins with, see `give_backbone`.
        start: Safetensors file of a whole network to begin with, see `give_start`.
        teacher: File of `write_teacher`, which a recipe with a teacher's share needs.
        features: Caches of class tokens, instead of passing every view through CLIP's frozen tower; see `TokenBatches`.
        device: Torch device.
        max_steps: Stop (resumably) after so many steps of this call.
        save_every: Steps between two states.
        log_every: Steps between two rows of the log.
        compiled: See `Run`.
        tensorboard: See `Progress`.

    Returns:
        Path of the state or, if the run is complete, of the model.

    Raises:
        ValueError: See `Run`, `Run.restore`, `give_backbone`, `give_start`, `soft_targets`, `TokenBatches` and
            `begin_with_tokens`; or the processes, or their hosts' data, do not fit; or the recipe needs a teacher's file and
            has none, or the other way round.
        WeightsMismatch: See `give_backbone` and `give_start`.
        ModuleNotFoundError: See `Progress`.
    """
    if save_every < 1 or log_every < 1:
        raise ValueError(f"Expected save_every and log_every of at least 1, but found {save_every} and {log_every}.")
    if bool(recipe.teacher) != (teacher is not None):
        raise ValueError(
            f"The recipe {recipe.name!r} gives a teacher the share {recipe.teacher:g}, and the teacher's file is {teacher}; "
            "give both or neither."
        )
    out, processes = Path(out), Processes.from_environment()
    with processes.joined(torch.device(device)) as own:
        run = Run(recipe, own, compiled, processes)
        batches = _begin(run, samples, out, (backbone, start), teacher, features)
        stop = recipe.steps if max_steps is None else min(recipe.steps, run.step + max_steps)
        with contextlib.ExitStack() as stack:
            progress = None
            if processes.main:
                progress = Progress(out, run.step, stop, recipe.steps, every=log_every, tensorboard=tensorboard)
                stack.enter_context(progress)
            _loop(run, batches, stop, out, save_every, progress)
        return _end(run, out)


def _begin(
    run: Run,
    samples: list[Sample],
    out: Path,
    first: tuple[str | Path | None, str | Path | None],
    teacher: str | Path | None,
    features: Sequence[TokenCache],
) -> Batches:
    """Reads the state or the first weights, and the pictures; the main process describes the run in its folder."""
    processes, state = run.processes, out / "state.safetensors"
    if continued := state.exists():
        check_record(features, out)
        if features:
            run.drop_tower()
        run.restore(state)
    give_backbone(run, first[0], out)
    give_start(run, first[1], out)
    if features and not continued:
        begin_with_tokens(run, features, out)
    network = run.network
    blind = features and isinstance(network, ViT) and network.local is None
    samples, pixels, failures = (samples, [], []) if blind else load_pixels(samples)
    run.pictures = len(samples)
    order = zlib.crc32("\n".join(f"{s.path.name} {s.label} {s.source}" for s in samples).encode())
    processes.agree([run.step, len(samples), order], run.device)
    if processes.main:
        if run.step:
            log.info("continuing at step %d", run.step)
        log.info("%d pictures, %d could not be decoded", len(samples), len(failures))
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.json").write_text(run.recipe.to_json() + "\n", encoding="utf-8")
        (out / "undecodable.txt").write_text("".join(f"{line}\n" for line in failures), encoding="utf-8")
    targets = soft_targets(samples, read_teacher(teacher), run.recipe.teacher) if teacher else None
    if features and isinstance(network, ViT):
        return TokenBatches(run.recipe, samples, pixels, targets, caches=features, network=network)
    return Batches(run.recipe, samples, pixels, targets)


def _loop(run: Run, batches: Batches, stop: int, out: Path, save_every: int, progress: Progress | None) -> None:
    for batch in batches.iterate(run.step, stop):
        loss = run.update(*batch)
        if progress is None:
            continue
        progress.update(run.step, loss, run.recipe.rate_at(run.step - 1))
        if run.step % save_every == 0:
            run.save(out / "state.safetensors")


def _end(run: Run, out: Path) -> Path:
    """Writes the last state and, if all steps are done, the model; returns the latter's path, or else the former's."""
    state, model = out / "state.safetensors", out / "model.safetensors"
    done = run.step >= run.recipe.steps
    if run.processes.main:
        run.save(state)
        if done:
            write_tensors(run.model(), model, {"recipe": run.recipe.to_json()})
    # The other processes return when the files are there.
    run.processes.agree([run.step], run.device)
    return model if done else state


def read_log(out: str | Path) -> list[dict[str, float]]:
    """Rows of a run's `log.csv`: step, loss, seconds of that call, learning rate."""
    with open(Path(out) / "log.csv", newline="", encoding="utf-8") as file:
        keys = ("step", "loss", "seconds", "learning_rate")
        return [dict(zip(keys, map(float, row))) for row in csv.reader(file)]


def read_recipe(out: str | Path) -> Recipe:
    """The recipe of a run's folder."""
    return Recipe.from_json((Path(out) / "recipe.json").read_text(encoding="utf-8"))
