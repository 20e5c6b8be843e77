"""A run folder from the parts of a detector on CLIP's image tower, as `fit` leaves one for networks trained as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..models.clip_vit import CLIP_MEAN, CLIP_STD
from .recipe import Recipe


def finish(
    out: str | Path,
    tower: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> Path:
    """Writes `recipe.json`, `facts.json` and `model.safetensors`.

    The tower's matrices stay in 8 bits, as they came; updates of low rank lie beside them.

    Args:
        out: Folder of the run.
        tower: Weights that `aigidetect.training.clip_tower` wrote; blocks after the last tap are left out.
        config: Arguments of `aigidetect.models.clip_vit.build`.
        tensors: Head, and low-rank updates if there are any.
        facts: How these were made.

    Returns:
        Path of the model.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with safe_open(tower, framework="pt") as file:
        origin = file.metadata() or {}
    kept = cut_tower(load_file(tower), config["blocks"])
    # The views of the caches have CLIP's normalisation, and `evaluate` takes that of the recipe.
    recipe = Recipe(name="vit-clip", architecture="clip_vit", config=dict(config), mean=CLIP_MEAN, std=CLIP_STD)
    (out / "recipe.json").write_text(recipe.to_json() + "\n", encoding="utf-8")
    (out / "facts.json").write_text(json.dumps({**facts, "tower": origin}, indent=1) + "\n", encoding="utf-8")
    state = {name: value.contiguous() for name, value in sorted({**kept, **tensors}.items())}
    save_file(state, out / "model.safetensors", metadata={"recipe": recipe.to_json(), "tower": json.dumps(origin)})
    return out / "model.safetensors"


def cut_tower(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """State dict without the blocks of the tower after the first `blocks`; the rest as it is, also matrices in 8 bits."""
    return {
        name: value
        for name, value in state.items()
        if not name.startswith("tower.blocks.") or int(name.split(".")[2]) < blocks
    }


def facts_of(run: str | Path) -> dict[str, Any]:
    """The facts that `finish` wrote."""
    facts: dict[str, Any] = json.loads((Path(run) / "facts.json").read_text(encoding="utf-8"))
    return facts
