"""Files, folders, globs, iterables, and nested mixes of them -> one ordered stream of inputs.

Nothing is dropped silently: a path that does not exist, a pattern without a match and a folder that cannot be listed are
passed on as they are, so that each ends as a Failure record that says why.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

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
    if (halves := _halves(pattern)) is None:
        return sorted(glob.glob(pattern), key=os.fsencode)
    above, below = halves
    # Not by glob's own `**`, which follows links: two that lead back in one folder would take it for ever.
    found = [
        match
        for root in (glob.glob(above) if glob.has_magic(above) else [above])
        for folder, _ in _walk(root or ".", recursive=True)
        for match in _below(folder if root else os.path.relpath(folder), below)
    ]
    once: dict[tuple[str, str], str] = {}
    for match in sorted(found, key=lambda match: (match.count(os.sep), os.fsencode(match))):
        folder, name = os.path.split(match)
        folder = os.path.realpath(folder)
        # Asked for by its real path: by way of a loop, a link to a folder ends up being neither.
        if not os.path.isdir(os.path.join(folder, name)):
            once.setdefault((folder, name), match)
    return sorted(once.values(), key=os.fsencode)


def _halves(pattern: str, paths: ModuleType = os.path) -> tuple[str, str] | None:
    """What is above and below the first `**` of a pattern, by the rules of a system's `os.path`; None without one."""
    drive, rest = paths.splitdrive(pattern)
    parts = rest.replace(paths.altsep or paths.sep, paths.sep).split(paths.sep)
    if "**" not in parts:
        return None
    at = parts.index("**")
    # A drive alone would mean the folder that is current there, not its root.
    above = paths.sep.join(parts[:at]) or (paths.sep if at else "")
    return drive + above, paths.sep.join(parts[at + 1 :]) or "*"


def _below(folder: str, pattern: str) -> list[str]:
    path = os.path.join("" if folder == "." else glob.escape(folder), pattern)
    return _matches(path) if "**" in pattern.split(os.sep) else glob.glob(path)


def _iter_folder(root: str, recursive: bool) -> Iterator[str]:
    for folder, entries in _walk(root, recursive):
        if entries is None:
            yield folder  # ends as a Failure, so that a folder without permission is not taken for an empty one
            continue
        for entry in entries:
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads to itself, say: it must not hide its neighbours


def _walk(root: str, recursive: bool) -> Iterator[tuple[str, list[os.DirEntry[str]] | None]]:
    """Each folder with its visible entries that are no folders, sorted; None if it cannot be listed.

    A folder to which several links lead is walked once, whether they lead back or across: its pictures are in the stream
    already, and links across, level after level, would multiply without end.
    """
    stack, walked = [root], set[tuple[int, int]]()
    while stack:
        folder = stack.pop()
        try:
            status = os.stat(folder)
            with os.scandir(folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
            visible.sort(key=lambda entry: os.fsencode(entry.name))
            folders = [entry.path for entry in visible if _is_folder(entry)]
        except OSError:
            yield folder, None
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in walked:
            continue
        if status.st_ino:  # some network drives give every folder the number 0
            walked.add(identity)
        inside = set(folders)
        yield folder, [entry for entry in visible if entry.path not in inside]
        if recursive:
            stack.extend(reversed(folders))
