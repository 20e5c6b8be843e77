"""Weights as the start of a run: of a published backbone, or of a whole network.

The file's name and SHA-256 go into the run's folder, as `backbone.json` or `start.json`: what a run began with has to be
known when its detector is published.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from ..convert_spai import convert_mfm
from ..convert_transformers import convert_backbone
from ..errors import WeightsMismatch
from ..layers.quantised import dequantise
from ..models.clip_vit import Tower
from ..models.resnet import ResNet50
from ..models.spai import SPAI
from ..state import load_into
from .clip_run import cut_tower
from .run import Run

log = logging.getLogger(__name__)
RECORD = "backbone.json"
START = "start.json"


def give_backbone(run: Run, path: str | Path | None, out: Path) -> None:
    """Gives a run its backbone, if it is at its first step; otherwise checks that it was the same.

    The main process writes the record. A resumed run needs no file: its state has the weights.

    Args:
        run: A run that was restored, if it can be.
        path: Safetensors file with any of the names that `aigidetect.convert_transformers` or, for SPAI,
            `aigidetect.convert_spai.convert_mfm` reads, for a ResNet-50 with those of torchvision, for CLIP's tower with
            those of `aigidetect.models.clip_vit`, or None. Matrices may be in 8 bits.
        out: Folder of the run.

    Raises:
        ValueError: A frozen backbone was not given, or the run was begun with another one, or the network has none.
        WeightsMismatch: It is no safetensors file, or does not fit the network.
        FileNotFoundError: There is no such file.
    """
    if path is None:
        if run.recipe.frozen_backbone and not run.step:
            raise ValueError(
                f"The recipe {run.recipe.name!r} trains nothing but what lies on a frozen backbone; give its weights, a "
                "safetensors file such as the model.safetensors of its repository on the Hub, with --backbone FILE."
            )
        return
    state = _read(run, Path(path), out / RECORD, "backbone")
    if state is None:
        return
    run.take_backbone(_converted(state, run.network))
    log.info("the backbone is that of %s", path)


def _converted(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    if isinstance(network, ResNet50):
        return state  # its names are those of torchvision
    if isinstance(tower := getattr(network, "tower", None), Tower):
        return cut_tower(state, len(tower.blocks))
    return convert_mfm(state, network) if isinstance(network, SPAI) else convert_backbone(state, network)


def give_start(run: Run, path: str | Path | None, out: Path) -> None:
    """Gives a run the weights of a whole network to begin with, if it is at its first step, and records which.

    Args:
        run: A run that was restored, if it can be.
        path: Safetensors file of the same network, such as the model of another run or a file of the weights folder, or
            None. It may be stored in half precision or, in part, in 8 bits.
        out: Folder of the run.

    Raises:
        ValueError: The run was begun with another one.
        WeightsMismatch: It is no safetensors file, or does not fit the network.
        FileNotFoundError: There is no such file.
    """
    if path is not None and (state := _read(run, Path(path), out / START, "start")) is not None:
        load_into(run.network, dequantise(state), origin=str(path))
        run.average = {name: value.detach().clone() for name, value in run.network.state_dict().items()}


def _read(run: Run, path: Path, record: Path, what: str) -> dict[str, Tensor] | None:
    """The tensors for a run at its first step, recorded; None for a later one, if it was begun with the same file."""
    content = path.read_bytes()
    facts = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    if run.step:
        begun = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if begun.get("sha256") != facts["sha256"]:
            raise ValueError(
                f"The run in {record.parent} was begun with the {what} {begun or 'of random weights'}, not with {facts}; "
                f"leave --{what} out to continue it, or choose another output folder."
            )
        return None
    try:
        state = safetensors.torch.load(content)
    except Exception as error:  # the parser's own errors and, for odd headers, KeyError, ValueError and more
        raise WeightsMismatch(
            f"{path} is not an intact safetensors file ({type(error).__name__}: {error}); pickled files are not read."
        ) from error
    if run.processes.main:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return state
