"""A finished run -> a weights file and a manifest entry, ready to ship."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..calibration import Calibration
from ..detector import Detector
from ..layers.low_rank import merge_low_rank
from ..layers.quantised import dequantise, matrix_of
from ..models import load_architecture
from ..preprocess import Preprocess
from ..pretrained import Origin
from ..selftest import GOLDEN_TOLERANCE, golden_views
from .fit import read_recipe
from .recipe import Recipe
from .run import backbone_names

# Tensors with more values than this are stored in half precision. The small ones stand at the input and at the head of a
# network, where rounding moves its logits most, and cost next to nothing.
HALF_FROM = 40_000


def run_detector(
    run: str | Path,
    preprocess: Preprocess,
    calibration: Calibration | None = None,
    *,
    device: str = "auto",
    dtype: torch.dtype | None = None,
) -> Detector:
    """A Detector of a run's averaged weights as they will be stored, in half precision, under the sha256 of the run's file.

    Args:
        run: Folder of a finished run.
        preprocess: How it will see pictures.
        calibration: None leaves it uncalibrated.
        device: See `Detector`.
        dtype: See `Detector`.

    Raises:
        FileNotFoundError: The run is not finished.
    """
    recipe = read_recipe(run)
    detector = Detector(
        run_network(run),
        preprocess,
        calibration or Calibration(),
        name=recipe.name,
        weights_sha256=run_sha256(run),
        device=device,
        dtype=dtype,
    )
    detector.origin = Origin(recipe.architecture, recipe.config)
    return detector


def run_sha256(run: str | Path) -> str:
    """SHA-256 of a run's model, 64 hex digits, under which its figures are known.

    Raises:
        FileNotFoundError: The run is not finished.
    """
    return hashlib.sha256((Path(run) / "model.safetensors").read_bytes()).hexdigest()


def run_network(run: str | Path) -> nn.Module:
    """The network of a finished run, with its weights as they will be stored, in float32.

    Raises:
        FileNotFoundError: The run is not finished.
    """
    recipe = read_recipe(run)
    network: nn.Module = load_architecture(recipe.architecture).build(**recipe.config)
    state = merge_low_rank(dequantise(_stored(run)))
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return network.eval()


def _stored(run: str | Path) -> dict[str, Tensor]:
    state = load_file(Path(run) / "model.safetensors")

    def halved(value: Tensor) -> bool:
        return value.dtype == torch.float32 and value.numel() > HALF_FROM

    return {name: value.half() if halved(value) else value for name, value in sorted(state.items())}


def export(
    run: str | Path,
    weights_folder: str | Path,
    manifest: str | Path,
    *,
    name: str,
    version: int,
    preprocess: Preprocess,
    calibration: Calibration,
    provenance: Mapping[str, Any],
    backbone: str | None = None,
) -> dict[str, Any]:
    """Writes `<name>-<version>.safetensors` and adds the entry `<name>@<version>` to the manifest file.

    Large tensors are stored as float16, those with at most `HALF_FROM` values as float32.

    Args:
        run: Folder of a finished run.
        weights_folder: Where the weights file goes.
        manifest: JSON file that gets the entry.
        name: Name of the detector.
        version: Its version.
        preprocess: Preprocessing the weights were calibrated with.
        calibration: See `aigidetect.training.calibrate`.
        provenance: Facts for the entry: licence, data, metrics, ...
        backbone: Name such as `"clip-vit-b16-9-1"` of a second file for the network's backbone, which several detectors can
            share: it has the same bytes for the same backbone.

    Returns:
        The entry.

    Raises:
        ValueError: The manifest already has this version, or another backbone has this name; what is published never
            changes. Or the network has no backbone.
    """
    recipe = read_recipe(run)
    book = json.loads(Path(manifest).read_text(encoding="utf-8"))
    if (book["detectors"].get(f"{name}@{version}") or {}).get("weights"):
        raise ValueError(f"{name}@{version} is already in {manifest}; published entries never change, raise the version.")
    state, folder, shared = _stored(run), Path(weights_folder), {}
    if backbone is not None:
        names = backbone_names(run_network(run))
        frozen = {k: state.pop(k) for k in list(state) if matrix_of(k) in names}
        shared = {"backbone": _write_backbone(frozen, folder / f"{backbone}.safetensors")}
    content = save(state, metadata={"detector": f"{name}@{version}", "recipe": recipe.to_json()})
    file = f"{name}-{version}.safetensors"
    (folder / file).write_bytes(content)
    detector = run_detector(run, preprocess, calibration, device="cpu")
    # Figures of the run are figures of the entry: it has the same values.
    provenance = {**provenance, "run_sha256": detector.weights_sha256}
    entry = _entry(recipe, detector, file, content, provenance) | shared
    book["detectors"][f"{name}@{version}"] = entry
    book["detectors"] = dict(sorted(book["detectors"].items()))
    Path(manifest).write_text(json.dumps(book, indent=1) + "\n", encoding="utf-8")
    return entry


def _write_backbone(frozen: dict[str, Tensor], path: Path) -> dict[str, Any]:
    content = save(frozen)
    if path.exists() and path.read_bytes() != content:
        raise ValueError(f"{path} holds another tower; published files never change, give this one another name.")
    path.write_bytes(content)
    return _file_facts(path.name, content)


def _file_facts(file: str, content: bytes) -> dict[str, Any]:
    place = {"file": file, "repo_id": None, "revision": None, "filename": None}
    return place | {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _entry(recipe: Recipe, detector: Detector, file: str, content: bytes, provenance: Mapping[str, Any]) -> dict[str, Any]:
    [golden] = detector.view_logits([golden_views(detector.preprocess)])
    facts = json.loads(recipe.to_json())
    if "made" in provenance:  # not by `fit`, so the rest of the recipe says nothing
        facts = {key: facts[key] for key in ("name", "architecture", "config")}
    return {
        "architecture": recipe.architecture,
        "config": recipe.config,
        "preprocess": detector.preprocess.to_dict(),
        "calibration": detector.calibration.to_dict(),
        "weights": _file_facts(file, content),
        "parameters": sum(p.numel() for p in detector.network.parameters()),
        "provenance": {**provenance, "recipe": facts, "torch": torch.__version__.split("+")[0]},
        "golden": {
            "input": "noise-v1",
            "logits": [round(value, 6) for value in golden],
            "tolerance": GOLDEN_TOLERANCE,
        },
    }
