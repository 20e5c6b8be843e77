"""Detector -> an ONNX, TorchScript or OpenVINO file whose logits were compared with those of torch.

    input   "views"   (N, 3, S, S) float32, as `Detector.transforms` makes them; N is free
    output  "logits"  (N, 1) float32; `Calibration` makes one probability of the logits of a picture's views

The file also says, as JSON under the key "aigidetect", which detector it is, the sha256 of its weights, its preprocessing
and its calibration. It never appears under its name unless it passed the comparison.

References:
    | ONNX, operator set versions: https://onnx.ai/onnx/repo-docs/Versioning.html
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .detector import Detector
from .engine import Run, run_onnx, run_openvino
from .errors import ExportError
from .selftest import golden_views

Format = Literal["onnx", "torchscript", "openvino"]

KEY = "aigidetect"
OPSET = 20
# Largest difference of a logit. A logit moves a probability by at most a quarter of it.
TOLERANCE = 1e-3
HALF_TOLERANCE = 2e-2
# As in our own checkpoints: small tensors stay in float32, where rounding moves logits most and saves nothing.
_HALF_FROM = 40_000


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file; that of OpenVINO has its weights beside it, as `.bin`.
        bytes: Size of all of it.
        pictures: Number of pictures compared, the pattern of the self-test among them.
        views: Number of their views.
        difference: Largest difference of a logit to torch.
        tolerance: What was allowed.
    """

    path: Path
    bytes: int
    pictures: int
    views: int
    difference: float
    tolerance: float


def export(
    detector: Detector,
    path: str | os.PathLike[str],
    format: Format = "onnx",
    *,
    half: bool = False,
    pictures: Iterable[object] = (),
) -> Exported:
    """Writes a detector in another format, and compares its logits on pictures with those of torch.

    Args:
        detector: On the CPU, in float32. Of a network with random weights, the mean weights are exported.
        path: File to write, with the suffix `.onnx`, `.pt` or `.xml`; it is replaced if it exists.
        format: `"onnx"`, with operator set `OPSET`, needs `pip install 'aigidetect[onnx]'`; `"openvino"` needs
            `pip install 'aigidetect[openvino]'`; `"torchscript"` needs nothing.
        half: Stores the large matrices as float16, not for TorchScript; they are computed with in float32. The comparison
            then allows `HALF_TOLERANCE` instead of `TOLERANCE`.
        pictures: Inputs to compare on, see `Detector.predict`, besides the pattern of the self-test.

    Raises:
        ExportError: A package is missing, the network cannot be exported, or a logit differs by more than the tolerance.
            `path` is as it was before.
        ImageError: A picture cannot be read.
        ValueError: An argument does not fit the others.
    """
    target, suffix = Path(path), {"onnx": ".onnx", "torchscript": ".pt", "openvino": ".xml"}.get(format)
    _check(detector, target, format, suffix, half)
    stacks = [golden_views(detector.preprocess), *(detector.transforms(picture) for picture in pictures)]
    views = torch.cat(stacks)  # (N, 3, S, S)
    if not target.parent.is_dir():
        raise ExportError(f"There is no folder {str(target.parent)!r}; make it first.")
    facts = json.dumps(file_facts(detector, format, half))
    # Beside the target, so that what passed only has to be renamed.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".aigidetect-") as folder:
        made = Path(folder) / target.name
        run = {"onnx": _onnx, "torchscript": _torchscript, "openvino": _openvino}[format](detector, made, views, facts, half)
        tolerance = HALF_TOLERANCE if half else TOLERANCE
        difference = _compare(detector, stacks, run)
        if not difference <= tolerance:
            raise ExportError(
                f"The exported {detector.name} differs from torch by {difference:.2g} in a logit, more than {tolerance:g}; "
                f"{target} was not written. Try another format{', or leave half out' if half else ''}."
            )
        size = sum(part.stat().st_size for part in Path(folder).iterdir())
        for part in sorted(Path(folder).iterdir()):  # the .bin before the .xml that needs it
            os.replace(part, target.parent / part.name)
    return Exported(target, size, len(stacks), len(views), difference, tolerance)


def _check(detector: Detector, path: Path, format: str, suffix: str | None, half: bool) -> None:
    if suffix is None:
        raise ValueError(f"Unknown format {format!r}; available: {', '.join(get_args(Format))}.")
    if path.suffix != suffix:
        raise ValueError(f"A file of the format {format} ends with {suffix}, but got {str(path)!r}.")
    if half and format == "torchscript":
        raise ValueError("TorchScript is written in float32 only; leave half out, or choose onnx.")
    if detector.device.type != "cpu" or detector.dtype != torch.float32:
        raise ValueError(f"Expected a detector with device='cpu' and float32, but got {detector!r}.")
    if detector.preprocess.to_dict()["kind"] == "whole":
        raise ExportError(
            f"{detector.name} sees whole pictures of any size; only views of one size can be exported. Give it tiles: "
            "detector.preprocess = Tiles(...), and measure how well it does on them."
        )


def file_facts(detector: Detector, format: Format, half: bool = False) -> dict[str, Any]:
    """What a file says of itself; see `export` for the arguments."""
    return {
        "detector": detector.name,
        "weights_sha256": detector.weights_sha256,
        "preprocess": detector.preprocess.to_dict(),
        "calibration": detector.calibration.to_dict(),
        "input": "views: (N, 3, S, S) float32, as preprocess makes them",
        "output": "logits: (N, 1) float32 of AI-generated, before calibration",
        "weights": "float16" if half else "float32",
        **({} if format == "torchscript" else {"opset": OPSET}),
        "torch": torch.__version__.split("+")[0],
    }


def _compare(detector: Detector, stacks: Sequence[Tensor], run: Run) -> float:
    """Largest difference of a logit, in batches of different sizes: all views of a picture together, and the first alone."""
    differences = []
    for views in [stacks[0][:1], *stacks]:
        [expected] = detector.view_logits([views])
        try:
            found = run(np.ascontiguousarray(views.numpy()))
        except Exception as error:  # of the engine, for instance because the graph takes another number of views
            raise ExportError(f"The exported {detector.name} does not run on {len(views)} views: {error}") from error
        if found.shape != (len(views), 1):
            raise ExportError(f"For {len(views)} views the exported {detector.name} gave the shape {found.shape}.")
        differences.append(float(np.abs(found[:, 0] - np.array(expected)).max()))
    return max(differences)


def _graph(detector: Detector, views: Tensor, half: bool) -> Any:
    """The network as an ONNX ModelProto."""
    try:
        import onnx
        import onnxscript
    except ModuleNotFoundError as error:
        raise ExportError(f"Exporting needs {error.name}: pip install 'aigidetect[onnx]'") from error
    del onnx, onnxscript  # torch imports them itself, with a longer complaint
    # Two at least: a size of one would be taken for fixed.
    example = views[:1].expand(2, -1, -1, -1).contiguous()
    silence = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(silence):
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                detector.network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                input_names=["views"],
                output_names=["logits"],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # of the tracer, its decompositions or the translation
        raise ExportError(f"{detector.name} cannot be exported: {type(error).__name__}: {error}") from error
    model = program.model_proto
    return _halved(model) if half else model


def _halved(model: Any) -> Any:
    """Stores large tensors as float16, each behind a cast to float32."""
    import onnx

    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) <= _HALF_FROM:
            continue
        name = tensor.name
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}.half"))
        cast = onnx.helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
    # What was said of the old tensors no longer holds.
    del model.graph.value_info[:]
    return model


def _onnx(detector: Detector, path: Path, views: Tensor, facts: str, half: bool) -> Run:
    model = _graph(detector, views, half)
    import onnx

    onnx.helper.set_model_props(model, {KEY: facts})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return run_onnx(str(path), torch.get_num_threads())


def _openvino(detector: Detector, path: Path, views: Tensor, facts: str, half: bool) -> Run:
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ExportError("This format needs openvino: pip install 'aigidetect[openvino]'") from error
    import onnx

    graph = path.with_suffix(".onnx")
    onnx.save(_graph(detector, views, half=False), str(graph))
    model = openvino.convert_model(str(graph))
    graph.unlink()
    model.set_rt_info(facts, KEY)
    openvino.save_model(model, str(path), compress_to_fp16=half)
    return run_openvino(str(path), torch.get_num_threads())


def _torchscript(detector: Detector, path: Path, views: Tensor, facts: str, half: bool) -> Run:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that TorchScript is old, and that shapes are checked in Python
        jit: Any = torch.jit
        traced = jit.trace(detector.network, views[:1].expand(2, -1, -1, -1).contiguous(), check_trace=False)
        jit.save(traced, str(path), _extra_files={KEY: facts})
        # Not from a stranger: it was written one line above.
        loaded = jit.load(str(path), map_location="cpu")

    def run(inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = loaded(torch.from_numpy(inputs)).numpy()
        return logits

    return run
