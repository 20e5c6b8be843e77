"""A picture file -> the blocks of metadata in it, without decoding the picture.

References:
    | Portable Network Graphics (W3C, third edition), sections 11.3.3 (text) and 11.3.4.4 (eXIf)
    | XMP specification, part 3: storage in files (Adobe, 2020)
    | C2PA technical specification 2.2, "Embedding manifests into assets"
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

from PIL import Image, features

from ..containers import png_chunks
from ..errors import ImageTooLarge
from ..jpeg import segments

MAX_TEXT = 2**16  # bytes of a text that are read, after inflating; what tells a generator stands before that
MAX_BLOCK = 2**20  # bytes of any other block
MAX_CREDENTIALS = 2**26  # bytes of all C2PA blocks of a file, which may hold thumbnails

_XMP_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_PNG = "XML:com.adobe.xmp"
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_MAX_BOXES = 2**12


class Block(NamedTuple):
    """Metadata as they lie in the file.

    Attributes:
        kind: `"text"`, `"exif"` (a TIFF file of its own), `"xmp"`, `"iptc"` (Photoshop resources), `"c2pa"`, `"tiff"` (the
            whole file), or `"note"`, whose body is a sentence about what was not read.
        body: Its bytes.
        key: Keyword of a text.
    """

    kind: Literal["text", "exif", "xmp", "iptc", "c2pa", "tiff", "note"]
    body: bytes
    key: str = ""


def blocks(data: bytes) -> Iterator[Block]:
    """Blocks of a JPEG, PNG, WebP, TIFF or AVIF file, in file order.

    Raises:
        ImageError: The file is damaged, or has more parts than pictures need; blocks before that place came already.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] in (b"II", b"MM"):
        return iter([Block("tiff", data)])
    if data[4:8] == b"ftyp":
        return _bmff(data)
    return iter([Block("note", b"Origins are read of JPEG, PNG, WebP, TIFF and AVIF; this file is in another format.")])


def _jpeg(data: bytes) -> Iterator[Block]:
    for marker, body in segments(data):
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            yield Block("exif", body[6:])
        elif marker == 0xE1 and body.startswith(_XMP_JPEG):
            yield Block("xmp", body[len(_XMP_JPEG) :])
        elif marker == 0xED and body.startswith(b"Photoshop 3.0\0"):
            yield Block("iptc", body[14:])
        elif marker == 0xEB and body.startswith(b"JP"):
            # The header of the box is repeated in each segment after the first.
            yield Block("c2pa", body[8:] if body[4:8] == b"\0\0\0\1" else body[16:])
        elif marker == 0xFE:
            yield Block("text", body, "comment")


def _png(data: bytes) -> Iterator[Block]:
    for kind, view in png_chunks(data):
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            yield _png_text(kind, bytes(view[: 2 * MAX_BLOCK]))
        elif kind == b"eXIf":
            yield Block("exif", bytes(view[: 2 * MAX_BLOCK]))
        elif kind == b"caBX":
            yield Block("c2pa", bytes(view[:MAX_CREDENTIALS]))


def _png_text(kind: bytes, body: bytes) -> Block:
    key, _, rest = body.partition(b"\0")
    name, compressed = key[:79].decode("latin-1"), kind == b"zTXt"
    limit = MAX_BLOCK + 1 if name == _XMP_PNG else MAX_TEXT
    if compressed:
        rest = rest[1:]
    if kind == b"iTXt":
        compressed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if compressed:
        try:
            rest = zlib.decompressobj().decompress(rest, limit)
        except zlib.error:
            return Block("note", f"The compressed text {name!r} is damaged and was not read.".encode())
    return Block("xmp", rest[:limit]) if name == _XMP_PNG else Block("text", rest[:limit], name)


def _webp(data: bytes) -> Iterator[Block]:
    kinds: dict[bytes, Literal["exif", "xmp", "c2pa"]] = {b"EXIF": "exif", b"XMP ": "xmp", b"C2PA": "c2pa"}
    position = 12
    for _ in range(_MAX_BOXES):
        if position + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, position)
        if kind := kinds.get(name):
            body = data[position + 8 : position + 8 + min(length, MAX_CREDENTIALS)]
            yield Block(kind, body.removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    raise ImageTooLarge(f"The WebP has more than {_MAX_BOXES:,} chunks; what comes after them was not looked at.")


def _bmff(data: bytes) -> Iterator[Block]:
    yield from _boxes(data)
    if data[8:12] not in (b"avif", b"avis", b"mif1") or not features.check("avif"):
        yield Block("note", b"Of this file only Content Credentials were looked for; save it as JPEG or PNG for the rest.")
        return
    try:
        with Image.open(io.BytesIO(data), formats=["AVIF"]) as image:
            info = image.info
    except Exception:
        # libavif and Pillow raise whatever their parsers meet.
        yield Block("note", b"The AVIF is damaged; its EXIF and XMP were not read.")
        return
    if exif := info.get("exif"):
        yield Block("exif", exif.removeprefix(b"Exif\0\0"))
    if xmp := info.get("xmp"):
        yield Block("xmp", xmp)


def _boxes(data: bytes) -> Iterator[Block]:
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        body = position + 8
        if length == 1 and body + 8 <= len(data):
            length, body = struct.unpack_from(">Q", data, body)[0], body + 8
        end = position + length if length else len(data)  # 0: to the end of the file
        if kind == b"uuid" and data[body : body + 16] == _C2PA_UUID:
            yield Block("c2pa", data[body + 16 : min(end, body + MAX_CREDENTIALS)])
        if end < body:
            return
        position = end
    raise ImageTooLarge(f"The file has more than {_MAX_BOXES:,} boxes; what comes after them was not looked at.")
