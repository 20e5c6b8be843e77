"""Detector name -> ready Detector: the only place that joins the facts of the manifest to code."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from .backends import Backend, check_backend, use_backend
from .calibration import Calibration
from .detector import Detector
from .entries import build_network as build_network
from .entries import entry_calibration as entry_calibration
from .entries import entry_preprocess as entry_preprocess
from .entries import filled_network
from .errors import WeightsMismatch, WeightsNotAvailable
from .foreign import as_converted, entry_of_others, find_foreign, get_foreign
from .manifest import ManifestEntry, load_manifest
from .pretrained import HUB, Origin
from .selftest import check_once
from .selftest import golden_views as golden_views
from .selftest import verify_detector as verify_detector
from .weights import load_state_dict, locate, locate_all

# What `load_detector()` takes, the best first.
PREFERRED = ("vit-clip", "npr-ms-ca")

log = logging.getLogger(__name__)


def list_detectors() -> list[str]:
    """Names that `load_detector` takes, sorted. Those without published weights are among them; see `aigidetect list`, which
    also has the checkpoints of others."""
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
    backend: Backend | None = None,
) -> Detector:
    """A detector with its weights, preprocessing and calibration, ready to score.

    Weights are looked for in `weights`, in the folder `AIGIDETECT_WEIGHTS_DIR`, in the installed package, in the cache of
    huggingface_hub, and last on the Hugging Face Hub; their SHA-256 is checked at every load.

    Args:
        name: A name of `list_detectors`, for instance `"npr-ms-ca"` (its newest version) or `"npr-ms-ca@1"` (that one).
            None takes the best detector whose weights are on this machine; its name is logged and in every prediction.
            Or a checkpoint that others published and `aigidetect fetch` has converted, such as `"npr-ms-ca:report"`, with
            its own preprocessing and, since none was measured, without calibration. Or `"hf-hub:owner/name@commit"`, a
            repository of the Hub that `Detector.push_to_hub` or `training publish` made; see `Detector.from_pretrained`.
        device: Torch device; `"auto"` is CUDA where available and `backend` is left out, else the CPU.
        dtype: What the network computes in, see `Detector`; None means float32.
        weights: A safetensors file of your own for the same architecture. Its hash is not compared with the published one
            but is shown in every prediction, the detector is called `name+custom`, and the published calibration, which
            belongs to the published weights, is not used: the verdict is a plain comparison with 0.5. A file that
            `aigidetect convert` wrote also brings its own preprocessing and options, and a bare name then means the newest
            version with these options.
        revision: Commit on the Hub instead of the published one. The published hash still has to match.
        local_files_only: Never use the network.
        cache_dir: Cache folder instead of huggingface_hub's own.
        backend: What runs the network, on the CPU: `"onnx"` is ONNX Runtime and needs `pip install 'aigidetect[onnx]'`;
            `"openvino"` needs `'aigidetect[openvino]'` and also takes `dtype=torch.bfloat16`; `"torch"` or None is torch.
            All use as many threads as `torch.get_num_threads()` says at the load. The graph of the network is made at the
            first load, which takes long, and kept; see `aigidetect.backends.use_backend`.

    Raises:
        UnknownDetectorError: No detector of that name.
        ExportError: A package for `backend` is missing; or the network does not run there, or with other logits.
        WeightsNotAvailable: The weights are not here and could not be fetched, or were never published.
        WeightsMismatch: The weights are not the published ones, or do not fit the architecture, or this machine computes
            wrong numbers with them: one view is compared with its published logit at the first load in a process.
        ValueError: `weights` or `revision` together with a checkpoint of others, or `weights` with a repository; or
            `backend` does not exist, or does not go with `device` or `dtype`.
    """
    device = check_backend(backend, device, dtype)
    detector = _load(name, device, dtype, weights, revision, local_files_only, cache_dir)
    use_backend(detector, backend or "torch", cache_dir=cache_dir)
    return detector


def _load(
    name: str | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
    weights: str | Path | None,
    revision: str | None,
    local_files_only: bool,
    cache_dir: str | Path | None,
) -> Detector:
    if name is not None and name.startswith(HUB):
        if weights is not None:
            raise ValueError(f"{name!r} has weights of its own; leave weights out.")
        return Detector.from_pretrained(
            name, revision=revision, device=device, dtype=dtype, local_files_only=local_files_only, cache_dir=cache_dir
        )
    if name is not None and ":" in name:
        if weights is not None or revision is not None:
            raise ValueError(f"{name!r} is one particular file; leave weights and revision out.")
        return _load_foreign(name, cache_dir, device, dtype)
    book = load_manifest()
    entry = book.get(name or default_detector(cache_dir=cache_dir))
    if weights is not None:
        entry = as_converted(entry, locate(entry, weights=weights), () if name is None or "@" in name else book)
    state, sha256 = load_state_dict(
        entry, weights=weights, revision=revision, local_files_only=local_files_only, cache_dir=cache_dir
    )
    detector = Detector(
        filled_network(entry, state, str(weights or entry.full_name)),
        entry_preprocess(entry),
        Calibration() if weights is not None else entry_calibration(entry),
        name=entry.full_name if weights is None else f"{entry.full_name}+custom",
        weights_sha256=sha256,
        device=device,
        dtype=dtype,
    )
    if weights is None:
        check_once(detector, entry)
    files = locate_all(entry, weights=weights, revision=revision, cache_dir=cache_dir)
    detector.origin = Origin(entry.architecture, entry.config, files, {} if weights else entry.provenance or {})
    return detector


def _load_foreign(
    name: str, cache_dir: str | Path | None, device: str | torch.device, dtype: torch.dtype | None
) -> Detector:
    foreign = get_foreign(name)
    entry = entry_of_others(foreign.detector)
    path, recorded = find_foreign(foreign, cache_dir)
    state, sha256 = load_state_dict(entry, weights=path)
    if sha256 != recorded:
        raise WeightsMismatch(
            f"{path} has changed since it was converted: expected sha256 {recorded}, but got {sha256}. It was not loaded. "
            f"Run `aigidetect fetch {name} --force`."
        )
    entry = as_converted(entry, path)
    network, preprocess = filled_network(entry, state, str(path)), entry_preprocess(entry)
    detector = Detector(network, preprocess, Calibration(), name=name, weights_sha256=sha256, device=device, dtype=dtype)
    detector.origin = Origin(entry.architecture, entry.config, {"weights": path})
    return detector


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
