"""A finished run -> the same run with its backbone in 8 bits, before it is evaluated: what ships is what was measured."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from ..layers.quantised import quantise
from ..models import load_architecture
from .backbone import RECORD, START
from .export import run_sha256
from .fit import read_recipe
from .run import backbone_names, write_tensors

FACTS = "quantised.json"
# How the run was made; scores and calibration are of the weights before.
_RECORDS = ("recipe.json", "log.csv", "audit.json", "undecodable.txt", RECORD, START)


def quantise_run(run: str | Path, out: str | Path, levels: int) -> Path:
    """Writes a run folder whose backbone has integers in place of its matrices; everything else stays as it is.

    Args:
        run: Folder of a finished run.
        out: Folder for the new one; gets the records of the run, and `quantised.json` with `levels` and the sha256 of the
            model before.
        levels: Largest integer, 1 to 127; see `aigidetect.layers.quantised.quantise`.

    Returns:
        Path of the new model.

    Raises:
        FileNotFoundError: The run is not finished.
        ValueError: `out` already has a model; or the network has no backbone, or one that was quantised before; or `levels`
            is out of its range.
    """
    run, out = Path(run), Path(out)
    if (model := out / "model.safetensors").exists():
        raise ValueError(f"{out} already has a model, and scores may belong to it; choose another output folder.")
    recipe, state = read_recipe(run), load_file(run / "model.safetensors")
    network: nn.Module = load_architecture(recipe.architecture).build(**recipe.config)
    matrices = [name for name in backbone_names(network) if name.endswith(".weight") and state[name].ndim > 1]
    state = quantise(state, matrices, levels)
    out.mkdir(parents=True, exist_ok=True)
    for name in _RECORDS:
        if (run / name).exists():
            shutil.copy(run / name, out / name)
    facts = {"levels": levels, "run_sha256": run_sha256(run)}
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_tensors(state, model, {"recipe": recipe.to_json()})
    return model


def deflated(path: str | Path) -> int:
    """Bytes that a file takes in a wheel, which is a zip archive compressed by DEFLATE."""
    return len(zlib.compress(Path(path).read_bytes()))
