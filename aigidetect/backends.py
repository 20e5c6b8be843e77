"""Another engine for a detector's network: ONNX Runtime or OpenVINO instead of torch, on the CPU.

    views (N, 3, S, S) float32 -> the graph that `exporting` makes, in the engine -> logits (N, 1) float32

Decoding, preprocessing, calibration and records stay as they are. The graph is traced once and kept in a cache. At every
load, the engine's logits are compared with those of torch on the pattern of the self-test.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import torch

from .detector import Detector
from .engine import Engine, run_onnx, run_openvino
from .errors import ExportError
from .exporting import TOLERANCE, export, file_facts
from .foreign import cache_folder
from .pipeline import survive_fork
from .selftest import golden_views
from .uncertainty import Sampled

Backend = Literal["torch", "onnx", "openvino"]

# As in `selftest.check_once`: share of `1 + |logit|` that 8 bits of precision may move.
_LOW_TOLERANCE = 0.05

log = logging.getLogger(__name__)


def check_backend(backend: str | None, device: str | torch.device, dtype: torch.dtype | None) -> str | torch.device:
    """The device for a backend, where `"auto"` means the CPU for all but torch.

    Raises:
        ValueError: There is no such backend, or it does not compute there or in this type.
        ExportError: A package is missing.
    """
    if backend is None or backend == "torch":
        return device
    if backend not in get_args(Backend):
        raise ValueError(f"Unknown backend {backend!r}; available: {', '.join(get_args(Backend))}.")
    if device != "auto" and torch.device(device).type != "cpu":
        raise ValueError(f"The backend {backend!r} computes on the CPU alone, not on {str(device)!r}; leave one out.")
    if dtype not in (None, torch.float32) and (backend, dtype) != ("openvino", torch.bfloat16):
        raise ValueError(
            f"The backend {backend!r} does not compute in {dtype}; leave dtype out, or take 'openvino' with torch.bfloat16."
        )
    package = {"onnx": "onnxruntime"}.get(backend, backend)
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ExportError(f"The backend {backend!r} needs {package}: pip install 'aigidetect[{backend}]'") from error
    return "cpu"


def use_backend(detector: Detector, backend: Backend, *, cache_dir: str | Path | None = None) -> None:
    """Has another engine compute a detector's logits from now on.

    It gets the weights that the network has now, and as many threads as `torch.get_num_threads()` says now. `explain` and
    `save_pretrained` go on with the network in torch, which stays in memory.

    Args:
        detector: On the CPU, with views of one size, and without random weights. In float32; or in bfloat16 for OpenVINO,
            to which that is a hint: it then says itself which operations are safe in the smaller type.
        backend: `"onnx"` needs `pip install 'aigidetect[onnx]'` and `"openvino"` `'aigidetect[openvino]'`; `"torch"` goes
            back to torch.
        cache_dir: The graph is kept in its folder `graphs`; None: in `aigidetect` in `XDG_CACHE_HOME` or `~/.cache`. Where
            that cannot be written, it is traced anew at every load, and a warning is logged. The folder may be deleted.

    Raises:
        ExportError: A package is missing, the network cannot be exported, or a logit of the self-test's pattern differs from
            that of torch by more than `exporting.TOLERANCE`, or in bfloat16 by more than 5 % of `1 + |logit|`.
        ValueError: The backend does not exist, or does not go with the device or type of the detector.
    """
    check_backend(backend, detector.device, detector.dtype)
    if backend == "torch":
        detector.engine = None
        return
    _check_network(detector, backend)
    survive_fork(detector.device)
    reference = Detector(detector.network, detector.preprocess, detector.calibration, name=detector.name, device="cpu")
    reference.weights_sha256 = detector.weights_sha256
    key, folder = _key(reference), cache_folder(cache_dir) / "graphs"
    for graph in _cached(folder, key):
        # Whatever is wrong with it, a new one is the answer; what is wrong with the engine shows there once more.
        with contextlib.suppress(Exception):
            detector.engine = _checked(backend, graph, reference, detector.dtype)
            return
    log.info("tracing the graph of %s for the backend %s", detector.name, backend)
    graph = _traced(reference)
    detector.engine = _checked(backend, graph, reference, detector.dtype)
    _keep(graph, folder, key)


def _check_network(detector: Detector, backend: str) -> None:
    if detector.preprocess.to_dict()["kind"] == "whole":
        raise ExportError(f"{detector.name} sees whole pictures of any size, which torch alone computes; leave backend out.")
    if isinstance(detector.network, Sampled):
        raise ExportError(
            f"{detector.name} draws its weights at random for Prediction.uncertainty, which torch alone does; leave backend "
            "out. To run its mean weights elsewhere, use `aigidetect export`."
        )


def _key(detector: Detector) -> str:
    """Names what the graph is made of: weights, structure, facts in the file, and the versions of what makes it."""
    digest = hashlib.sha256()
    for name, tensor in detector.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    # The structure: a change of the activation changes no weight.
    digest.update(repr(detector.network).encode())
    packages = ("aigidetect", "torch", "onnx", "onnxscript")
    facts = [file_facts(detector, "onnx"), *(_version(package) for package in packages)]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        return ""


def _cached(folder: Path, key: str) -> Iterator[bytes]:
    """Graphs in the cache whose bytes are those that were written: their SHA-256 is in the name of the file."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(f"{key}-*.onnx")):
            with contextlib.suppress(OSError):
                content = path.read_bytes()
                if path.name == _file_name(key, content):
                    yield content


def _file_name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()}.onnx"


def _traced(detector: Detector) -> bytes:
    with tempfile.TemporaryDirectory(prefix="aigidetect-") as folder:
        export(detector, Path(folder) / "graph.onnx")
        return (Path(folder) / "graph.onnx").read_bytes()


def _keep(content: bytes, folder: Path, key: str) -> None:
    """Puts a graph into the cache, whole or not at all, in the place of those that could not be used."""
    name = _file_name(key, content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".graph-") as beside:
            (Path(beside) / name).write_bytes(content)
            os.replace(Path(beside) / name, folder / name)
        for path in folder.glob(f"{key}-*.onnx"):
            if path.name != name:
                path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("The graph is traced anew at every load, because the cache %s cannot be written: %s", folder, error)


def _checked(backend: str, graph: bytes, reference: Detector, dtype: torch.dtype) -> Engine:
    """The engine, after its logits were compared with those of torch: of one view alone, and of two together."""
    views = golden_views(reference.preprocess)[:2]
    threads, low = torch.get_num_threads(), dtype == torch.bfloat16
    run = run_onnx(graph, threads) if backend == "onnx" else run_openvino(graph, threads, low=low)
    engine = Engine(backend, run, tuple(views.shape[1:]))
    expected = torch.tensor(reference.view_logits([views])[0])[:, None]
    allowed = torch.full_like(expected, TOLERANCE)
    if low:
        allowed = _LOW_TOLERANCE * (1 + expected.abs())
    for n in {1, len(views)}:
        found = engine(views[:n])
        if found.shape != (n, 1) or not ((found - expected[:n]).abs() <= allowed[:n]).all():
            raise ExportError(
                f"With the backend {backend!r}, {reference.name} has the logits {found.flatten().tolist()} instead of "
                f"{expected[:n].flatten().tolist()}; leave backend out."
            )
    return engine
