"""Checkpoint file -> its tensors: safetensors directly, pickles through `aigidetect/unpickle.py` in a process of its own.

Only conversion uses this. Prediction reads safetensors alone, and imports neither this module nor that file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch
from torch import Tensor

from .convert import WRAPPERS
from .errors import CheckpointRefused, WeightsMismatch, WeightsNotAvailable

SECONDS = 300.0
_READER = Path(__file__).resolve().parent / "unpickle.py"
# Isolated (-I), so that neither the working folder nor PYTHON* variables can slip in a module; then the modules of this
# process, wherever it found torch.
_START = (
    "import os, runpy, sys; sys.path[:] = sys.argv[1].split(os.pathsep); del sys.argv[:2]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def read_checkpoint(path: str | Path) -> dict[str, object]:
    """Tensors of a checkpoint under their own names; those in a wrapper such as `model` in a dict under its name.

    A pickle is read by another process without rights, with limits on time and, on Linux, on memory; nothing in it is run.

    Args:
        path: A safetensors file, or what `torch.save` wrote. The content decides, not the name.

    Raises:
        WeightsNotAvailable: There is no such file.
        CheckpointRefused: A pickle asks for something else than tensors, or for more memory or time than its size explains.
        WeightsMismatch: It is damaged, or no checkpoint.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except (OSError, ValueError) as error:
        raise WeightsNotAvailable(f"Cannot read the checkpoint {path}: {type(error).__name__} {error}") from error
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(path):
        return dict(_load(path, path))
    return _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="aigidetect-") as folder:
        out = Path(folder) / "tensors.safetensors"
        answer = _run_reader(path, out)
        if "reason" in answer:
            raise _error(path, str(answer["kind"]), str(answer["reason"]))
        tensors = _load(out, path)
    # The keys stay, so that a file without tensors can be answered with what it has.
    checkpoint: dict[str, object] = dict.fromkeys(answer["keys"])
    sections: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        wrapper, _, key = name.partition("\n")
        if wrapper:
            sections.setdefault(wrapper, {})[key] = tensor
        else:
            checkpoint[key] = tensor
    return {**checkpoint, **sections}


def _run_reader(path: Path, out: Path) -> dict[str, list[str]]:
    modules = os.pathsep.join(entry for entry in sys.path if os.path.isabs(entry))
    command = [sys.executable, "-I", "-c", _START, modules, str(_READER), str(path.resolve()), str(out), *WRAPPERS]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TORCH_")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            command, cwd=out.parent, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise _error(path, "refused", f"reading it takes longer than {SECONDS:g} s") from None
    try:
        answer: dict[str, list[str]] = json.loads(done.stdout)
    except ValueError:
        detail = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        reason = f"the process that reads it ended with status {done.returncode} ({detail!r})"
        raise _error(path, "refused", reason) from None
    return answer


def _error(path: Path, kind: str, reason: str) -> WeightsMismatch | CheckpointRefused:
    if kind == "damaged":
        return WeightsMismatch(
            f"{path} is not an intact checkpoint ({reason}); expected a safetensors file, or what torch.save wrote. "
            "If it was downloaded, download it again."
        )
    return CheckpointRefused(
        f"Refused the checkpoint {path}: {reason}. Nothing in it was run. Ask its author for a safetensors file."
    )


def _load(path: Path, shown: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
    except Exception as error:  # the parser's own errors and, for odd headers, KeyError, ValueError and more
        raise _error(shown, "damaged", f"{type(error).__name__}: {error}") from error
    return tensors
