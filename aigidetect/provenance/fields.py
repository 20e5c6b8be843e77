"""Blocks of metadata -> named texts.

XMP is XML, but is not parsed as such: a few properties are looked for with bounded patterns, so there are no entities to
expand, and a damaged packet is read as far as it goes.

References:
    | Exif 3.0 (CIPA DC-008, 2023); the tags in section 4.6
    | XMP specification, part 1 (Adobe, 2012), section 7: serialisation as RDF
    | IPTC Photo Metadata Standard 2025.1; IPTC-IIM 4.2, section 6
"""

from __future__ import annotations

import html
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import ImageError
from ..tiff import TiffHeader
from .blocks import MAX_BLOCK, Block


class Field(NamedTuple):
    """A named text: where it stands (`"EXIF"`, ...), its name there, and what it says."""

    place: str
    key: str
    text: str


class Unread(Exception):
    """A block that cannot be read; the message is a sentence for `Provenance.notes`."""


_EXIF_IFD, _USER_COMMENT = 34665, 37510
_TEXT_TAGS = {270: "ImageDescription", 305: "Software", 315: "Artist"}
_MAKE, _MODEL, _XMP_TAG, _PHOTOSHOP_TAG, _C2PA_TAG = 271, 272, 700, 34377, 52545
_PROPERTIES = (
    "DigitalSourceType", "CreatorTool", "softwareAgent", "Credit", "AISystemUsed", "AIGC", "Software", "Make", "Model",
    "provenance",
)  # fmt: skip
_IIM = {65: "OriginatingProgram", 110: "Credit"}
_MAX_VALUES = 20  # of one property; a history of edits may name its program hundreds of times
_MAX_RESOURCES = 2**10


_NAME = re.compile(rf"(?<=[\s:<])(?:{'|'.join(_PROPERTIES)})(?=[\s=>])")
# What follows the name: of an attribute, of an element with a resource, of an element with text or the first item of a list.
_VALUE = re.compile(
    r"""\s{0,99}=\s{0,99}(?:"([^"<]{0,4000})"|'([^'<]{0,4000})')"""
    r"""|\s[^<>]{0,100}?resource\s{0,99}=\s{0,99}["']([^"'<]{0,4000})["']"""
    r"""|(?:\s[^<>]{0,100})?>\s{0,200}(?:<[^<>/]{1,200}>\s{0,200}){0,3}([^<>]{1,4000})<"""
)


def fields(block: Block) -> Iterator[Field | Block]:
    """Texts of a block, and blocks inside it.

    Raises:
        Unread: The block is damaged or too large.
    """
    readers: dict[str, Callable[[bytes], Iterator[Field | Block]]] = {
        "exif": _exif, "tiff": _exif, "xmp": _xmp, "iptc": _photoshop,
    }  # fmt: skip
    if block.kind == "text":
        yield Field("text", block.key, _decoded(block.body))
    elif block.kind != "tiff" and len(block.body) > MAX_BLOCK:
        raise Unread(f"The {block.kind.upper()} block is longer than {MAX_BLOCK:,} bytes and was not read.")
    else:
        yield from readers[block.kind](block.body)


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("latin-1")


def _exif(data: bytes) -> Iterator[Field | Block]:
    try:
        header = TiffHeader(data)
        tags, _ = header.directory(header.start)
        below = header.directory(tags[_EXIF_IFD][0])[0] if _EXIF_IFD in tags else {}
    except (ImageError, struct.error, IndexError, OverflowError) as error:
        raise Unread("The EXIF data are damaged and were not read.") from error

    def value(found: list[int]) -> bytes:
        place, count = found if len(found) == 2 else (0, 0)
        return data[place : place + min(count, MAX_BLOCK + 1)]

    for tag, key in _TEXT_TAGS.items():
        if tag in tags:
            yield Field("EXIF", key, _until_null(value(tags[tag])))
    camera = [_until_null(value(tags[tag])) for tag in (_MAKE, _MODEL) if tag in tags]
    if any(camera):
        yield Field("EXIF", "Make and Model", " ".join(filter(None, camera)))
    if _USER_COMMENT in below:
        yield Field("EXIF", "UserComment", _user_comment(value(below[_USER_COMMENT])))
    if _XMP_TAG in tags:
        yield Block("xmp", value(tags[_XMP_TAG]))
    if _PHOTOSHOP_TAG in tags:
        yield Block("iptc", value(tags[_PHOTOSHOP_TAG]))
    if _C2PA_TAG in tags:
        yield Block("c2pa", value(tags[_C2PA_TAG]))


def _until_null(body: bytes) -> str:
    return _decoded(body.partition(b"\0")[0]).strip()


def _user_comment(body: bytes) -> str:
    code, text = body[:8], body[8:]
    if code != b"UNICODE\0":
        return _decoded(text).strip("\0 ")
    # Programs do not agree on the byte order; in most texts the zeros are the high bytes.
    big = text[::2].count(0) >= text[1::2].count(0)
    return text.decode("utf-16-be" if big else "utf-16-le", "replace").strip("\0 ")


def _xmp(body: bytes) -> Iterator[Field]:
    text = body.decode("utf-8", "replace")
    found: dict[str, dict[str, None]] = {name: {} for name in _PROPERTIES}
    for name in _NAME.finditer(text):
        values = found[name[0]]
        if len(values) < _MAX_VALUES and (match := _VALUE.match(text, name.end())):
            values[html.unescape(match[match.lastindex or 0]).strip()] = None
    camera = [next(iter(found.pop(name)), "") for name in ("Make", "Model")]
    if any(camera):
        yield Field("XMP", "Make and Model", " ".join(filter(None, camera)))
    yield from (Field("XMP", key, value) for key, values in found.items() for value in values if value)


def _photoshop(data: bytes) -> Iterator[Field]:
    position = 0
    for _ in range(_MAX_RESOURCES):
        if data[position : position + 4] != b"8BIM" or position + 12 > len(data):
            return
        number, name = struct.unpack_from(">HB", data, position + 4)
        body = position + 6 + name + 1 + (name + 1) % 2
        length = int.from_bytes(data[body : body + 4], "big")
        if number == 0x0404:
            yield from _iim(data[body + 4 : body + 4 + length])
        position = body + 4 + length + length % 2


def _iim(data: bytes) -> Iterator[Field]:
    position = 0
    while data[position : position + 1] == b"\x1c" and position + 5 <= len(data):
        record, number, length = struct.unpack_from(">BBH", data, position + 1)
        if length & 0x8000:
            return  # a data set of more than 32 kB, which none of these is
        if record == 2 and number in _IIM:
            yield Field("IPTC", _IIM[number], _decoded(data[position + 5 : position + 5 + length]))
        position += 5 + length
