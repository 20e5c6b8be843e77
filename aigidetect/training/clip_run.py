"""A run folder from the parts of a detector on CLIP's image tower, as `fit` leaves one for networks trained as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .recipe import Recipe


def finish(
    out: str | Path,
    tower: str | Path,
    blocks: Sequence[int],
    hidden: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> Path:
    """Writes `recipe.json`, `facts.json` and `model.safetensors`.

    The tower's matrices stay in 8 bits, as they came; updates of low rank lie beside them.

    Args:
        out: Folder of the run.
        tower: Weights that `aigidetect.training.clip_tower` wrote; blocks after the last tap are left out.
        blocks: Blocks that the head reads.
        hidden: Width of the head's hidden layer, or 0.
        tensors: Head, and low-rank updates if there are any.
        facts: How these were made.

    Returns:
        Path of the model.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    last = blocks[-1]
    with safe_open(tower, framework="pt") as file:
        origin = file.metadata() or {}
    kept = {
        name: value
        for name, value in load_file(tower).items()
        if not name.startswith("tower.blocks.") or int(name.split(".")[2]) < last
    }
    config = {"blocks": last, "taps": list(blocks), "hidden": hidden}
    recipe = Recipe(name="vit-clip", architecture="clip_vit", config=config)
    (out / "recipe.json").write_text(recipe.to_json() + "\n", encoding="utf-8")
    (out / "facts.json").write_text(json.dumps({**facts, "tower": origin}, indent=1) + "\n", encoding="utf-8")
    state = {name: value.contiguous() for name, value in sorted({**kept, **tensors}.items())}
    save_file(state, out / "model.safetensors", metadata={"recipe": recipe.to_json(), "tower": json.dumps(origin)})
    return out / "model.safetensors"


def facts_of(run: str | Path) -> dict[str, Any]:
    """The facts that `finish` wrote."""
    facts: dict[str, Any] = json.loads((Path(run) / "facts.json").read_text(encoding="utf-8"))
    return facts
