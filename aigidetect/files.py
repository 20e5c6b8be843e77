"""Path or file object -> bytes, without waiting for ever and without reading more than allowed.

Only regular files are opened. Neither links nor names are followed blindly: what was opened is looked at once more.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from .errors import ImageError, ImageTooLarge, UnsupportedImage

_URL = re.compile(r"(?i)(?:[a-z][a-z0-9+.-]+://|data:)")


def check_bytes(size: int, limit: int) -> None:
    """Raises ImageTooLarge if an input of `size` bytes is over the limit."""
    if size > limit:
        raise ImageTooLarge(f"The input has {size:,} bytes, the limit is {limit:,}; raise max_bytes if you trust it.")


def read_file(path: str | bytes, limit: int) -> bytes:
    """Content of a regular file.

    Raises:
        ImageTooLarge: More than `limit` bytes.
        UnsupportedImage: A folder, pipe, socket or device, or a URL.
        ImageError: There is no such file, or it cannot be read.
    """
    name = os.fsdecode(path)
    if _URL.match(name) and not os.path.exists(path):
        raise UnsupportedImage(f"{name[:80]!r} looks like a URL; download the file first and give its path.")
    try:
        _check_kind(os.stat(path), name, limit)
        with open(path, "rb", opener=_open_without_waiting) as file:
            # Another file may have taken the name since.
            _check_kind(os.fstat(file.fileno()), name, limit)
            return read_object(file.read, limit)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"There is no file {name!r}; check the path and the current folder.") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_kind(status: os.stat_result, name: str, limit: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UnsupportedImage(f"{name!r} is a folder that cannot be scored as one picture; use stream() for folders.")
    # Opening or reading a pipe or a device could wait for ever.
    if not stat.S_ISREG(status.st_mode):
        raise UnsupportedImage(f"{name!r} is not a regular file; copy its content to one.")
    check_bytes(status.st_size, limit)


def read_object(read: Any, limit: int) -> bytes:
    """Everything from the current position; raw streams may give less than was asked for, so until nothing comes.

    Raises:
        ImageTooLarge: More than `limit` bytes.
        TypeError: `read` gives something else than bytes.
    """
    content = bytearray()
    while len(content) <= limit and (data := read(limit + 1 - len(content))):
        if not isinstance(data, bytes):
            raise TypeError(f"Expected a binary file, but its read() gave {type(data).__name__}; open it with 'rb'.")
        content += data
    check_bytes(len(content), limit)
    return bytes(content)
