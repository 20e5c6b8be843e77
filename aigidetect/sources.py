"""Files, folders, globs, iterables, and nested mixes of them -> one ordered stream of inputs.

Nothing is dropped silently: a path that does not exist, a pattern without a match and a folder that cannot be listed are
passed on as they are, so that each ends as a Failure record that says why.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image
from torch import Tensor

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)


def iter_sources(source: object, *, recursive: bool = True) -> Iterator[object]:
    """One item for each input, lazily, always in the same order.

    Args:
        source: One input of `aigidetect.images.load_image`, which is passed on; a folder, whose files with one of
            `IMAGE_SUFFIXES` follow sorted by name, each folder before what is in its sub-folders, hidden ones left out; a
            glob pattern (with `**`), whose matches follow sorted; a numpy array (N, H, W, C) or tensor (N, C, H, W), whose
            pictures follow; or an iterable of all these, which may be nested and endless.
        recursive: Whether folders are searched to the bottom.

    Yields:
        Inputs for `load_image`. Files of a folder come as str.
    """
    if isinstance(source, (str, os.PathLike)):
        yield from _iter_path(source, recursive)
    elif isinstance(source, (np.ndarray, Tensor)) and source.ndim == 4:
        yield from source
    elif _is_single(source) or not isinstance(source, Iterable):
        yield source
    else:
        for item in source:
            yield from iter_sources(item, recursive=recursive)


def _is_single(source: object) -> bool:
    # File objects iterate over lines and tensors over rows, so these kinds are asked for before iterables.
    return isinstance(source, (bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor)) or hasattr(source, "read")


def _iter_path(path: str | os.PathLike[str], recursive: bool) -> Iterator[object]:
    name = os.fspath(path)
    if isinstance(name, str) and glob.has_magic(name) and not os.path.lexists(name):
        matches = sorted(glob.glob(name, recursive=True))
        for match in matches:
            yield from _iter_path(match, recursive)
        if matches:
            return
    if os.path.isdir(path):
        yield from _iter_folder(os.fsdecode(path), recursive, frozenset())
    else:
        yield path


def _iter_folder(folder: str, recursive: bool, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    try:
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        folders = [entry.path for entry in visible if entry.is_dir()]
    except OSError:
        yield folder  # ends as a Failure, so that a folder without permission is not taken for an empty one
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return  # a link back to a folder that is being walked: its pictures are already in the stream
    inside = set(folders)
    for entry in visible:
        if entry.path not in inside and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield entry.path
    if recursive:
        for inner in folders:
            yield from _iter_folder(inner, recursive, above | {identity})
