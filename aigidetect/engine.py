"""A network in another engine than torch: ONNX Runtime or OpenVINO, on the CPU. How it gets there is in `backends.py`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import AigidetectError, ExportError

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]


class Engine:
    """Views -> logits, with the weights and the number of threads of the time when it was made.

    Args:
        backend: Name of the engine, for messages.
        run: (N, 3, S, S) float32 array -> (N, 1) float32 array.
        shape: (3, S, S), the only views that it takes.
    """

    def __init__(self, backend: str, run: Run, shape: tuple[int, ...]) -> None:
        self.backend = backend
        self._run = run
        self._shape = shape
        self._process = os.getpid()

    def __call__(self, views: Tensor) -> Tensor:
        """(N, 3, S, S) float32 on the CPU -> (N, 1) float32.

        Raises:
            AigidetectError: The process is a fork of the one that has the engine.
            ValueError: The views have another size.
        """
        # The threads of the engine do not exist in a fork, which might wait for them for ever.
        if os.getpid() != self._process:
            raise AigidetectError(
                f"This process was forked, and the backend {self.backend!r} does not survive that; load the detector in the "
                "new process, or start processes with multiprocessing's 'spawn'."
            )
        if tuple(views.shape[1:]) != self._shape:
            raise ValueError(
                f"The backend {self.backend!r} was made for views {self._shape}, but got {tuple(views.shape[1:])}; call "
                "aigidetect.backends.use_backend after a change of the preprocessing, or load the detector without backend."
            )
        return torch.from_numpy(self._run(views.contiguous().numpy()))

    def __reduce__(self) -> Any:
        raise AigidetectError(
            f"A detector with the backend {self.backend!r} cannot be copied or sent to another process; load it there: "
            f"load_detector(name, backend={self.backend!r})."
        )


def run_onnx(graph: str | bytes, threads: int) -> Run:
    """A graph in ONNX Runtime, which computes in float32.

    Args:
        graph: Path or content of an ONNX file with the input `views` and the output `logits`.
        threads: Number of threads, the calling one among them.

    Raises:
        ExportError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ExportError("ONNX Runtime is needed here: pip install 'aigidetect[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait by spinning would take the cores from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(views: Array) -> Array:
        logits: Array = session.run(["logits"], {"views": views})[0]
        return logits

    return run


def run_openvino(graph: str | bytes, threads: int, *, low: bool = False) -> Run:
    """A graph in OpenVINO.

    Args:
        graph: Path of an ONNX or OpenVINO file, or content of an ONNX file, with one input and one output.
        threads: Number of threads.
        low: Whether it may compute in bfloat16 where it thinks that safe; otherwise it computes in float32.

    Raises:
        ExportError: openvino is not installed, or the processor lacks bfloat16.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ExportError("OpenVINO is needed here: pip install 'aigidetect[openvino]'") from error
    core = openvino.Core()
    if low and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ExportError("This processor has no instructions for bfloat16; leave dtype out.")
    # Without the hint, some processors compute in bfloat16 by default.
    options = {"INFERENCE_PRECISION_HINT": "bf16" if low else "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(graph), "CPU", options)
    lock = threading.Lock()

    def run(views: Array) -> Array:
        # A compiled model keeps one request, which threads must not use at the same time.
        with lock:
            return np.array(compiled(views)[0], dtype=np.float32)

    return run
