"""A checkpoint file of others -> a safetensors file that `load_detector` takes: `aigidetect convert`.

What is converted how is the matter of `aigidetect.convert`, `convert_transformers` and `convert_spai`. The file written
states its detector, options, preprocessing and source; it has no calibration, since nobody measured one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .checkpoint import read_checkpoint
from .convert import convert_npr, convert_resnet
from .convert_spai import convert_mfm, convert_spai
from .convert_transformers import convert_backbone, convert_transformer
from .errors import WeightsError, WeightsMismatch
from .foreign import FACTS, PREPROCESS, Foreign, digests, entry_of_others, find_blob, get_foreign
from .manifest import ManifestEntry
from .models import load_architecture
from .preprocess import Preprocess, from_dict

_TRANSFORMERS = ("vit", "swin", "cvt")
_WITHOUT_RECIPE = ("swin-b",)


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        path: The safetensors file.
        tensors: Number of tensors in it.
        preprocess: How the detector will see pictures.
        next_step: The line that uses the file: Python for a detector, a command for a backbone.
    """

    path: Path
    tensors: int
    preprocess: Preprocess
    next_step: str


def convert_file(
    source: str | Path,
    name: str,
    out: str | Path | None = None,
    *,
    backbone: bool = False,
    activation: str | None = None,
    preprocess: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Converted:
    """Converts one file. Its digests are compared with the known public ones, so that none is taken for another.

    Args:
        source: A pickled checkpoint or a safetensors file, see `aigidetect.checkpoint.read_checkpoint`.
        name: Detector that it is of, such as `npr-ms-ca`, which cannot be read from it; or `npr-ms-ca:report`, if it has to
            be that very file.
        out: File to write; None means the name with the suffix `.safetensors`, in the working folder.
        backbone: Takes the backbone alone, for a training: of `vit`, `vit-cnn`, `swin-t`, `swin-b`, `cvt-13` or `spai`.
        activation: `"gelu"` or `"relu"`, of the head of a transformer; None means gelu.
        preprocess: How the detector will see pictures, as `aigidetect.preprocess.from_dict` takes it; None means as the
            original did.
        force: Overwrites `out`.

    Raises:
        UnknownDetectorError: No detector, or no public checkpoint, of that name.
        ValueError: An argument that does not fit the detector.
        WeightsError: `out` exists or cannot be written; or see `read_checkpoint`.
        WeightsMismatch: It is not a checkpoint of that detector.
    """
    entry = entry_of_others(name.partition(":")[0])
    config = _config(entry, activation)
    path = _target(source, out or f"{name.replace(':', '-')}.safetensors", force)
    facts = _digests(source)
    foreign = _identify(facts, name, entry)
    seen: Any = foreign.preprocess if foreign else PREPROCESS[entry.architecture]
    seen = seen if preprocess is None else from_dict(preprocess)
    state = _convert(read_checkpoint(source), entry, config, backbone)
    stated = {
        "detector": entry.name,
        "part": "backbone" if backbone else "detector",
        "config": config,
        "preprocess": seen.to_dict(),
        "source": facts | ({"name": foreign.name, "repository": foreign.repository} if foreign else {}),
    }
    _write(state, path, stated)
    return Converted(path, len(state), seen, _next_step(entry.name, str(path), backbone))


def _config(entry: ManifestEntry, activation: str | None) -> dict[str, Any]:
    if activation is None:
        return dict(entry.config)
    if entry.architecture not in _TRANSFORMERS:
        raise ValueError(f"{entry.name!r} has no choice of an activation; leave it out.")
    return {**entry.config, "activation": activation}


def _target(source: str | Path, out: str | Path, force: bool) -> Path:
    path = Path(os.path.expanduser(out))
    if path.suffix != ".safetensors":
        raise ValueError(f"Expected an output file that ends with .safetensors, but got {str(out)!r}.")
    if path.exists() and Path(source).exists() and os.path.samefile(path, source):
        raise ValueError(f"The output {path} is the source; choose another file with -o.")
    if path.exists() and not force:
        raise WeightsError(f"{path} exists; use --force to overwrite it, or choose another file with -o.")
    return path


def _digests(source: str | Path) -> dict[str, Any]:
    try:
        return digests(source)
    except (OSError, ValueError) as error:
        raise WeightsError(f"Cannot read the checkpoint {str(source)!r}: {error}") from error


def _identify(facts: Mapping[str, Any], name: str, entry: ManifestEntry) -> Foreign | None:
    """The public checkpoint that a file is, if it is one."""
    found = find_blob(facts["git_blob"])
    if ":" in name and found is not get_foreign(name):
        raise WeightsMismatch(
            f"{facts['file']} is not {name!r}: expected the Git blob {get_foreign(name).blob}, but got {facts['git_blob']}"
            f"{f', which is {found.name!r}' if found else ''}. Use --as {entry.name} for a file of your own."
        )
    if found and found.detector != entry.name:
        raise WeightsMismatch(f"{facts['file']} is the public checkpoint {found.name!r}; use --as {found.detector}.")
    return found


def _convert(
    checkpoint: Mapping[str, object], entry: ManifestEntry, config: Mapping[str, Any], backbone: bool
) -> dict[str, Tensor]:
    if entry.architecture in ("npr_resnet", "resnet"):
        if backbone:
            raise ValueError(f"{entry.name!r} has no backbone of its own; leave --backbone out.")
        return (convert_npr if entry.architecture == "npr_resnet" else convert_resnet)(checkpoint, entry.name)
    network = _network(entry.architecture, config)
    if entry.architecture == "spai":
        return (convert_mfm if backbone else convert_spai)(checkpoint, network)  # type: ignore[arg-type]
    return (convert_backbone if backbone else convert_transformer)(checkpoint, network)


def _network(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    # Only a Swin Transformer has constants, whose values are compared; of the others, names and shapes are enough.
    with torch.device("cpu" if architecture == "swin" else "meta"):
        network: nn.Module = load_architecture(architecture).build(**config)
    return network


def _write(state: Mapping[str, Tensor], path: Path, stated: Mapping[str, Any]) -> None:
    """Writes beside `path` and renames, so that no half a file is ever found under the name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".aigidetect-") as folder:
            temporary = Path(folder) / path.name
            tensors = {key: value.contiguous() for key, value in state.items()}
            save_file(tensors, temporary, metadata={FACTS: json.dumps(stated)})
            os.replace(temporary, path)
    except OSError as error:
        raise WeightsError(f"Cannot write {path}: {error}") from error


def _next_step(detector: str, path: str, backbone: bool) -> str:
    if not backbone:
        return f"load_detector({detector!r}, weights={path!r})"
    recipe = "RECIPE.json" if detector in _WITHOUT_RECIPE else detector
    return f"python -m aigidetect.training fit --recipe {recipe} --backbone {path} --data DATA --out runs/{detector}"
