"""Detector name -> ready Detector: the only place that joins the facts of the manifest to code."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from .calibration import Calibration
from .detector import Detector
from .errors import ManifestError, WeightsMismatch, WeightsNotAvailable
from .layers.low_rank import merge_low_rank
from .layers.quantised import dequantise
from .manifest import ManifestEntry, load_manifest
from .models import load_architecture
from .preprocess import Preprocess, from_dict
from .state import load_into
from .weights import load_state_dict, locate

# What `load_detector()` takes, the best first.
PREFERRED = ("vit-clip", "npr-ms-ca")

log = logging.getLogger(__name__)


def list_detectors() -> list[str]:
    """Names that `load_detector` takes, sorted. Those without published weights are among them; see `aigidetect list`."""
    return load_manifest().names()


def load_detector(
    name: str | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    weights: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Detector:
    """A detector with its weights, preprocessing and calibration, ready to score.

    Weights are looked for in `weights`, in the folder `AIGIDETECT_WEIGHTS_DIR`, in the installed package, in the cache of
    huggingface_hub, and last on the Hugging Face Hub; their SHA-256 is checked at every load.

    Args:
        name: A name of `list_detectors`, for instance `"npr-ms-ca"` (its newest version) or `"npr-ms-ca@1"` (that one).
            None takes the best detector whose weights are on this machine; its name is logged and in every prediction.
        device: Torch device; `"auto"` is CUDA where available, else the CPU.
        dtype: What the network computes in, see `Detector`; None means float32.
        weights: A safetensors file of your own for the same architecture. Its hash is not compared with the published one
            but is shown in every prediction, the detector is called `name+custom`, and the published calibration, which
            belongs to the published weights, is not used: the verdict is a plain comparison with 0.5.
        revision: Commit on the Hub instead of the published one. The published hash still has to match.
        local_files_only: Never use the network.
        cache_dir: Cache folder instead of huggingface_hub's own.

    Raises:
        UnknownDetectorError: No detector of that name.
        WeightsNotAvailable: The weights are not here and could not be fetched, or were never published.
        WeightsMismatch: The weights are not the published ones, or do not fit the architecture.
    """
    entry = load_manifest().get(name or default_detector(cache_dir=cache_dir))
    state, sha256 = load_state_dict(
        entry, weights=weights, revision=revision, local_files_only=local_files_only, cache_dir=cache_dir
    )
    network = build_network(entry)
    try:
        load_into(network, merge_low_rank(dequantise(state)), origin=str(weights or entry.full_name))
    except ValueError as error:
        raise WeightsMismatch(f"The weights of {weights or entry.full_name} are not whole: {error}") from error
    return Detector(
        network,
        entry_preprocess(entry),
        Calibration() if weights is not None else entry_calibration(entry),
        name=entry.full_name if weights is None else f"{entry.full_name}+custom",
        weights_sha256=sha256,
        device=device,
        dtype=dtype,
    )


def default_detector(*, cache_dir: str | Path | None = None) -> str:
    """Name of the best detector whose weights are on this machine; without any, of the best that can be fetched.

    Args:
        cache_dir: Cache folder instead of huggingface_hub's own.
    """
    published = [entry for name in PREFERRED for entry in _published(name)]
    for entry in published:
        try:
            locate(entry, local_files_only=True, cache_dir=cache_dir)
        except WeightsNotAvailable:
            continue
        log.info("no detector was named; taking %s", entry.full_name)
        return entry.full_name
    return published[0].full_name if published else PREFERRED[-1]


def _published(name: str) -> list[ManifestEntry]:
    """The newest version of a name, if the manifest has it and its weights were published."""
    versions = [entry for entry in load_manifest() if entry.name == name and entry.weights is not None]
    return versions[-1:]


def build_network(entry: ManifestEntry) -> torch.nn.Module:
    """The entry's network with random weights.

    Raises:
        ManifestError: The entry names an unknown architecture or unknown options.
    """
    try:
        network: torch.nn.Module = load_architecture(entry.architecture).build(**entry.config)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"Detector {entry.full_name!r} cannot be built from its manifest entry: {error}") from error
    return network


def entry_preprocess(entry: ManifestEntry) -> Preprocess:
    """The entry's preprocessing.

    Raises:
        ManifestError: Unknown kind or option.
    """
    try:
        return from_dict(entry.preprocess)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"Detector {entry.full_name!r} has a broken preprocessing: {error}") from error


def entry_calibration(entry: ManifestEntry) -> Calibration:
    """The entry's calibration; the uncalibrated default if it has none.

    Raises:
        ManifestError: Unknown field, or a value out of its range.
    """
    try:
        return Calibration.from_dict(entry.calibration) if entry.calibration else Calibration()
    except (TypeError, ValueError) as error:
        raise ManifestError(f"Detector {entry.full_name!r} has a broken calibration: {error}") from error


def golden_views(preprocess: Preprocess) -> Tensor:
    """The input of the numerical self-test, recipe `"noise-v1"`: views of an integer pattern that any machine can make.

    Returns:
        (T, 3, S, S) float32: what `preprocess` makes of a (3, 300, 420) uint8 picture with low and high frequencies.
    """
    rows, columns = torch.arange(300)[:, None], torch.arange(420)[None, :]
    channels = [
        ((rows * (3 + c) + columns * (5 - c)) // 4 + (rows * rows * 7 + columns * columns * 13) % 61) % 256 for c in range(3)
    ]
    return preprocess(torch.stack(channels).to(torch.uint8))


def verify_detector(detector: Detector, entry: ManifestEntry) -> float:
    """Numerical self-test: recomputes the golden logits.

    Returns:
        Largest difference to the published logits.

    Raises:
        WeightsNotAvailable: The entry has no golden logits.
        WeightsMismatch: The difference exceeds the entry's tolerance: the machine computes wrong numbers, or the code and
            the weights do not belong together.
    """
    if not entry.golden:
        raise WeightsNotAvailable(f"Detector {entry.full_name!r} has no golden logits to compare with.")
    [logits] = detector.view_logits([golden_views(detector.preprocess)])
    expected = entry.golden["logits"]
    difference = math.inf if len(logits) != len(expected) else max(abs(a - b) for a, b in zip(logits, expected))
    if not difference <= entry.golden["tolerance"]:
        raise WeightsMismatch(
            f"Detector {detector.name!r} differs by {difference:.3g} from its golden logits (tolerance "
            f"{entry.golden['tolerance']:g}) on {detector.device} in {detector.dtype}; try device='cpu' and float32, and "
            "reinstall aigidetect if that fails too."
        )
    return difference
