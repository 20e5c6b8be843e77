"""Files, folders, globs, iterables, and nested mixes of them -> one ordered stream of inputs.

Nothing is dropped silently: a path that does not exist, a pattern without a match and a folder that cannot be listed are
passed on as they are, so that each ends as a Failure record that says why.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping

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
        Inputs for `load_image`. Files of a folder come as str. A mapping is no input and is passed on.

    Raises:
        ValueError: An iterable contains itself.
    """
    # A stack of its own, because nesting and folders may go deeper than Python's.
    stack = [(source, iter((source,)))]
    while stack:
        for item in stack[-1][1]:
            if isinstance(item, (str, os.PathLike)):
                yield from _iter_path(item, recursive)
            elif isinstance(item, (np.ndarray, Tensor)) and item.ndim == 4:
                yield from item
            elif _is_single(item):
                yield item
            elif any(item is outer for outer, _ in stack[1:]):
                raise ValueError(f"Expected inputs, but a {type(item).__name__} contains itself; take it out.")
            else:
                stack.append((item, iter(item)))  # type: ignore[call-overload]
                break
        else:
            stack.pop()


def _is_single(source: object) -> bool:
    # File objects iterate over lines, tensors over rows, mappings over keys: these kinds come before iterables.
    kinds = (bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor, Mapping)
    return isinstance(source, kinds) or hasattr(source, "read") or not isinstance(source, Iterable)


def _iter_path(path: str | os.PathLike[str], recursive: bool) -> Iterator[object]:
    name = os.fspath(path)
    if isinstance(name, str) and glob.has_magic(name) and not os.path.lexists(name):
        matches = _matches(name)
        for match in matches:
            yield from _iter_path(match, recursive)
        if matches:
            return
    if os.path.isdir(path):
        yield from _iter_folder(os.fsdecode(path), recursive)
    else:
        yield path


def _matches(pattern: str) -> list[str]:
    """Sorted matches. `**` reaches every folder by itself, so with it only files count, and each once however links lead."""
    found = glob.glob(pattern, recursive=True)
    if "**" not in pattern:
        return sorted(found, key=os.fsencode)
    once: dict[tuple[str, str], str] = {}
    for match in sorted(found, key=lambda match: (match.count(os.sep), os.fsencode(match))):
        folder, name = os.path.split(match)
        folder = os.path.realpath(folder)
        # Asked for by its real path: by way of a loop, a link to a folder ends up being neither.
        if not os.path.isdir(os.path.join(folder, name)):
            once.setdefault((folder, name), match)
    return sorted(once.values(), key=os.fsencode)


def _iter_folder(root: str, recursive: bool) -> Iterator[str]:
    stack: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while stack:
        folder, above = stack.pop()
        try:
            status = os.stat(folder)
            with os.scandir(folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
            visible.sort(key=lambda entry: os.fsencode(entry.name))
            folders = [entry.path for entry in visible if entry.is_dir()]
        except OSError:
            yield folder  # ends as a Failure, so that a folder without permission is not taken for an empty one
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue  # a link back to a folder that is being walked: its pictures are already in the stream
        inside = set(folders)
        for entry in visible:
            if entry.path not in inside and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                yield entry.path
        if recursive:
            stack.extend((inner, above | {identity}) for inner in reversed(folders))
