"""Pickled checkpoint -> its tensors as safetensors. A process of its own, which `aigidetect.checkpoint` starts; no module
of the package imports this file, and this file imports none.

    python unpickle.py SOURCE OUT [WRAPPER ...]

A pickle is a program. What keeps a hostile one from doing harm, from the inside out:

    1  `torch.load(weights_only=True)`, which builds tensors and plain containers and looks nothing else up. The few other
       objects that known checkpoints hold become placeholders of ours; no foreign class is ever imported.
    2  Checks of size before (no packed or overlapping parts of a zip archive) and after (tensors no larger than the file
       explains).
    3  An audit hook that refuses to start processes, to open sockets and to write or remove files.
    4  Limits of the operating system on memory, processor time and file size, where it has them.

Prints one JSON object: `{"keys": [...]}`, the checkpoint's first keys; or `{"kind": ..., "reason": ...}`, where the kind is
"refused", "memory" or "damaged".
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SECONDS = 300
# A small file may need this much for the reader itself. Beyond it: a file's tensors as loaded, copied, and written.
SPARE_BYTES = 512 << 20
COPIES = 4

_FORBIDDEN = re.compile(
    r"os\.(?:chmod|chown|exec|fork|kill|link|mkdir|posix_spawn|putenv|remove|rename|rmdir|spawn|startfile|symlink|system"
    r"|truncate)|pty\.|shutil\.|socket\.|subprocess\."
)
_MEMORY = re.compile(r"alloc|not enough memory|out of memory|invalid.* size|overflow", re.IGNORECASE)


class Ignored:
    """Stands for an object that no detector needs. Takes whatever the object was made of, and keeps nothing."""

    def __new__(cls, *args: object) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What known checkpoints hold besides tensors: SPAI its configuration and perhaps a NumPy number, a ResNet-50 its loss. The
# configuration is a subclass of dict, whose items torch only sets on types of its own list.
PLACEHOLDERS: list[Any] = [
    (OrderedDict, "yacs.config.CfgNode"),
    (Ignored, "torch.nn.modules.loss.CrossEntropyLoss"),
    (Ignored, "numpy.core.multiarray.scalar"),
    (Ignored, "numpy._core.multiarray.scalar"),
    (Ignored, "numpy.dtype"),
]


class Refused(Exception):
    """The reason why a checkpoint is not read, as the end of a sentence."""


def read(source: str, wrappers: list[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a pickled checkpoint, and its first keys.

    Args:
        source: Path, in one of the two formats of `torch.save`.
        wrappers: Keys under which a state dict may lie.

    Returns:
        Tensors by `"WRAPPER\\nKEY"`, or `"\\nKEY"` for those at the top. The first 20 keys at the top.

    Raises:
        Refused: It asks for something else than tensors, or claims more bytes than it has.
        UnpicklingError: Likewise, found by torch; any other error means a damaged file.
    """
    _check_archive(source)
    with torch.serialization.safe_globals(PLACEHOLDERS):
        checkpoint = torch.load(source, map_location="cpu", weights_only=True, mmap=False)
    if not isinstance(checkpoint, Mapping):
        raise Refused(f"it holds an object of the type {type(checkpoint).__name__}, not tensors by name")
    tensors = dict(_named(checkpoint, wrappers))
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > COPIES * os.path.getsize(source) + (1 << 20):
        raise Refused(f"its tensors claim {claimed:,} bytes, but the file has {os.path.getsize(source):,}")
    keys = [str(key) for key in checkpoint][:20]
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, keys


def _check_archive(source: str) -> None:
    with open(source, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return  # the older format, which is no archive
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise Refused("parts of the archive are compressed, which torch.save never does")
    if sum(part.file_size for part in parts) > os.path.getsize(source):
        raise Refused("the parts of the archive claim more bytes than the file has")


def _named(checkpoint: Mapping[Any, Any], wrappers: list[str]) -> Iterator[tuple[str, Tensor]]:
    sections = {"": checkpoint} | {key: checkpoint[key] for key in wrappers if isinstance(checkpoint.get(key), Mapping)}
    for section, entries in sections.items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
                    raise Refused(f"its tensor {str(key)!r} is sparse, quantised or without values")
                yield f"{section}\n{key}", value


def lock(size: int) -> None:
    """Takes away what reading a checkpoint of `size` bytes does not need, for the rest of the process."""
    sys.dont_write_bytecode = True
    sys.addaudithook(_forbid)
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: COPIES * size + (64 << 20),
    }
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = used + COPIES * size + SPARE_BYTES
    for what, limit in limits.items():
        hard = resource.getrlimit(what)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (value, value))


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and (
        (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
        or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    )
    if writes or _FORBIDDEN.match(event):
        raise PermissionError(f"{event} is forbidden to a process that reads a checkpoint")


def explain(error: Exception) -> dict[str, str]:
    """What went wrong, without what torch advises: to load the file without protection."""
    text = str(error)
    if isinstance(error, Refused):
        return {"kind": "refused", "reason": text}
    if isinstance(error, UnpicklingError):
        found = re.search(r"GLOBAL (.+?)(?: was not| whose module|$)", text)
        asks = f"asks for {found[1]!r}" if found else "asks for objects"
        return {"kind": "refused", "reason": f"its pickle {asks}, where a checkpoint has tensors and plain containers only"}
    if "weights_only" in text:
        return {"kind": "refused", "reason": "it is a program (TorchScript), or of a format that only unsafe loading reads"}
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return {"kind": "memory", "reason": "it claims more memory than its size explains"}
    return {"kind": "damaged", "reason": f"{type(error).__name__}: {' '.join(text.split())[:200]}"}


def main(source: str, out: str, *wrappers: str) -> dict[str, Any]:
    """Reads and writes; returns what is printed."""
    try:
        lock(os.path.getsize(source))
        tensors, keys = read(source, list(wrappers))
        save_file(tensors, out)
    except Exception as error:
        return explain(error)
    return {"keys": keys}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
