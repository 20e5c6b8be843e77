"""What a file itself says of its origin. Beside the score, and never mixed into it.

    file -> blocks of metadata (`blocks`) -> named texts (`fields`) -> claims (`signs`); Content Credentials in `credentials`

Nothing is decoded, and what is read is limited: the first 64 KiB of a text, also after inflating, blocks of up to 1 MiB, and
2 MiB of them in all. Whatever else is damaged or too large is named in `Provenance.notes`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import get_args

from ..errors import ImageError
from ..files import check_bytes, read_file
from ..images import DEFAULT_MAX_BYTES, describe_source
from . import credentials, signs
from .blocks import MAX_BLOCK, Block, blocks
from .claims import CAVEAT, Claim, Kind, Provenance, clipped
from .fields import Field, Unread, fields

__all__ = ["CAVEAT", "Claim", "Kind", "Provenance", "read"]

_MAX_BYTES = 2 * MAX_BLOCK  # of all blocks together, each counted as at least so many bytes more:
_COST = 2**12
_MAX_CLAIMS = 32
_MAX_NOTES = 8


def read(source: str | os.PathLike[str] | bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Provenance:
    """What a file says of its origin.

    Args:
        source: A path, or the bytes of a file.
        max_bytes: Largest file.

    Returns:
        Claims, each once; `Provenance.claims` is empty if the file says nothing. A file that is damaged or no picture is no
        error: its `notes` say so.

    Raises:
        ImageError: The file cannot be read, or is over the limit.
        TypeError: Another type of input: pixels have no file that could say something.
    """
    if isinstance(source, bytes):
        check_bytes(len(source), max_bytes)
        data = source
    elif isinstance(source, (str, os.PathLike)):
        data = read_file(os.fspath(source), max_bytes)
    else:
        raise TypeError(f"Expected a path or bytes, but got {type(source).__name__}; pixels say nothing of their origin.")
    notes: list[str] = []
    parts: list[bytes] = []
    found = signs.claims(_texts(data, parts, notes))
    found += credentials.claims(data, parts)
    once = list({(claim.kind, claim.statement): claim for claim in reversed(found)}.values())[::-1]
    if len(once) > _MAX_CLAIMS:
        notes.append(f"The file makes {len(once)} statements of its origin; the first {_MAX_CLAIMS} are here.")
    ordered = sorted(once, key=lambda claim: get_args(Kind).index(claim.kind))[:_MAX_CLAIMS]
    return Provenance(describe_source(source), tuple(ordered), tuple(dict.fromkeys(notes[:_MAX_NOTES])))


def _texts(data: bytes, parts: list[bytes], notes: list[str]) -> Iterator[Field]:
    """Named texts of a file; what is not one goes to the two lists."""
    left = _MAX_BYTES
    for block in _whole(data, notes):
        if block.kind not in ("c2pa", "tiff"):
            left -= len(block.body) + _COST
        if left < 0:
            notes.append("The file has more metadata than pictures need; the rest was not read.")
            return
        yield from _read(block, parts, notes)


def _whole(data: bytes, notes: list[str]) -> Iterator[Block]:
    try:
        yield from blocks(data)
    except ImageError as error:
        notes.append(f"Not all of the file was looked at. {clipped(str(error))}")


def _read(block: Block, parts: list[bytes], notes: list[str]) -> Iterator[Field]:
    if block.kind == "c2pa":
        parts.append(block.body)
    elif block.kind == "note":
        notes.append(clipped(block.body.decode()))
    else:
        try:
            for item in fields(block):
                if isinstance(item, Block):
                    yield from _read(item, parts, notes)
                else:
                    yield item
        except Unread as error:
            notes.append(str(error))
