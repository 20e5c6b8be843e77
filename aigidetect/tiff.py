"""What Pillow does not say of a TIFF: whether its strips or tiles cover the picture and are all there; and its pages.

Pillow leaves rows black for which an uncompressed file names no strip, decodes as many strips as a file names, and compares
each page with all pages before. libtiff fills JPEG strips that are too short, and continues in fax data that make no sense.

References:
    | TIFF, revision 6.0 (Aldus, 1992); the tags in sections 8, 15 and 22
    | TIFF Technical Note 2 (1995), JPEG compression
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .containers import check_frames
from .errors import ImageTooLarge, ImageTruncated, UnsupportedImage
from .jpeg import read_whole

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _JPEG_TABLES = 322, 323, 324, 325, 347
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_TEXT = (1, 2, 6, 7)  # types that stay bytes

# Schemes whose decoders fail where data are missing; JPEG is looked into here. Neither fax pages nor old JPEG.
_JPEG = 7
_SCHEMES = {
    1: "none", 5: "LZW", _JPEG: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard",
    50001: "WebP",
}  # fmt: skip
_MAX_PIECES = 2**16  # strips or tiles
_MAX_JPEGS = 2**13
_MAX_TAGS, _MAX_VALUES = 2**12, 2**20


def check_tiff(data: bytes) -> int:
    """Number of pages of a TIFF file whose first page names all of its picture.

    Args:
        data: A file that begins with `II` or `MM`.

    Raises:
        ImageTruncated: Strips or tiles are missing, lie outside of the file or do not cover the picture.
        ImageTooLarge: More pages, tags, strips or tiles than any picture needs.
        UnsupportedImage: A compression of which a missing part would not be noticed.
        struct.error: The file ends within its header or a directory.
    """
    header = TiffHeader(data)
    first, following = header.directory(header.start)
    _check_cover(data, first)
    return _count_pages(header, following)


@dataclass(frozen=True)
class TiffHeader:
    """The byte order and the width of offsets, which decide how directories are read."""

    data: bytes

    def __post_init__(self) -> None:
        if self.version not in (42, 43):
            raise UnsupportedImage(f"Expected a TIFF of version 42 or 43, but got {self.version}; save the picture again.")

    @property
    def order(self) -> str:
        return "<" if self.data.startswith(b"II") else ">"

    @property
    def version(self) -> int:
        return self.unpack("H", 2)

    @property
    def start(self) -> int:
        return self.unpack(*(("I", 4) if self.version == 42 else ("Q", 8)))

    def unpack(self, code: str, at: int) -> int:
        value: int = struct.unpack_from(self.order + code, self.data, at)[0]
        return value

    def next_of(self, at: int) -> tuple[int, int]:
        """Number of tags of the directory at an offset, and the offset of the next directory; 0: none."""
        tags = self.unpack("H" if self.version == 42 else "Q", at)
        link = at + 2 + 12 * tags if self.version == 42 else at + 8 + 20 * tags
        return tags, self.unpack("I" if self.version == 42 else "Q", link)

    def directory(self, at: int) -> tuple[dict[int, list[int]], int]:
        """Tag -> values of those types that are whole numbers, and the offset of the next directory."""
        tags, following = self.next_of(at)
        if tags > _MAX_TAGS:
            raise ImageTooLarge(f"The TIFF has {tags:,} tags on its first page, the limit is {_MAX_TAGS:,}; save it again.")
        values: dict[int, list[int]] = {}
        total = 0
        inline, size, code = (4, 12, "HHI") if self.version == 42 else (8, 20, "HHQ")
        begin = at + (2 if self.version == 42 else 8)
        for entry in range(begin, begin + size * tags, size):
            tag, kind, count = struct.unpack_from(self.order + code, self.data, entry)
            length = _SIZES.get(kind, 1) * count
            total += length if length > inline else 0
            if total > len(self.data) or (kind not in _TEXT and count > _MAX_VALUES):
                raise ImageTruncated(f"The TIFF is damaged: its tag {tag} announces {count:,} values; save it again.")
            if tag in values:
                raise ImageTruncated(f"The TIFF is damaged: its tag {tag} occurs twice; save it again.")
            place = (
                entry + size - inline
                if length <= inline
                else self.unpack("I" if inline == 4 else "Q", entry + size - inline)
            )
            known = kind in _WHOLE and (count <= 16 or tag in (_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES))
            values[tag] = (
                list(struct.unpack_from(f"{self.order}{count}{_WHOLE[kind]}", self.data, place)) if known else [place, count]
            )
        return values, following


def _count_pages(header: TiffHeader, following: int) -> int:
    seen = {header.start}
    while following and following not in seen:
        seen.add(following)
        check_frames(len(seen))
        try:
            following = header.next_of(following)[1]
        except struct.error:
            break  # later pages are not scored
    return len(seen)


def _check_cover(data: bytes, tags: dict[int, list[int]]) -> None:
    """The first page's strips or tiles, as many as the picture needs, lie in the file and are long enough."""
    width, height, compression = (_one(tags, tag) for tag in (_WIDTH, _HEIGHT, _COMPRESSION))
    if compression not in _SCHEMES:
        raise UnsupportedImage(
            f"In a TIFF with compression {compression} missing parts would not be noticed; save it with one of "
            f"{', '.join(dict.fromkeys(_SCHEMES.values()))}."
        )
    tiled = _TILES in tags
    if tiled == (_STRIPS in tags):
        raise ImageTruncated("The TIFF is damaged: expected either strips or tiles on its first page; save it again.")
    across, down = (
        (_one(tags, _TILE_WIDTH), _one(tags, _TILE_HEIGHT)) if tiled else (width, min(_one(tags, _ROWS, height), height))
    )
    if min(across, down) < 1:
        raise ImageTruncated(f"The TIFF is damaged: its parts have {across}x{down} pixels; save it again.")
    planes = _one(tags, _SAMPLES, 1) if _one(tags, _PLANAR, 1) == 2 else 1
    expected = -(-width // across) * -(-height // down) * planes
    if expected > (_MAX_JPEGS if compression == _JPEG else _MAX_PIECES):
        raise ImageTooLarge(f"The TIFF has {expected:,} strips or tiles; save it with larger ones, or as PNG.")
    offsets, sizes = tags[_TILES if tiled else _STRIPS], tags.get(_TILE_BYTES if tiled else _STRIP_BYTES)
    rows = [down if tiled else min(down, height - down * (i % (expected // planes))) for i in range(expected)]
    if sizes is None and compression == 1:
        sizes = [_raw_bytes(tags, across, count) for count in rows]
    if sizes is None or not len(offsets) == len(sizes) == expected:
        raise ImageTruncated(f"The TIFF needs {expected:,} strips or tiles, but names {len(offsets):,}; save it again.")
    for offset, size, count in zip(offsets, sizes, rows):
        if size < 1 or offset + size > len(data) or (compression == 1 and size < _raw_bytes(tags, across, count)):
            raise ImageTruncated(
                "A strip or tile of the TIFF lies outside of the file or is too short; copy the file again."
            )
        if compression == _JPEG:
            _check_jpeg(data, tags, data[offset : offset + size], across, count)


def _one(tags: dict[int, list[int]], tag: int, default: int | None = None) -> int:
    if tag not in tags and default is not None:
        return default
    if tag not in tags and tag == _COMPRESSION:
        return 1
    if len(tags.get(tag, [])) != 1:
        raise ImageTruncated(f"The TIFF is damaged: expected one value of its tag {tag}; save it again.")
    return tags[tag][0]


def _raw_bytes(tags: dict[int, list[int]], columns: int, rows: int) -> int:
    """Bytes of an uncompressed strip or tile. Of YCbCr, whose colours may be stored coarser, the brightness only."""
    whole = _one(tags, _PLANAR, 1) != 2 and _one(tags, _PHOTOMETRIC, 1) != 6
    samples = _one(tags, _SAMPLES, 1) if whole else 1
    return (columns * samples * min(tags.get(_BITS, [1])) + 7) // 8 * rows


def _check_jpeg(data: bytes, tags: dict[int, list[int]], piece: bytes, columns: int, rows: int) -> None:
    tables = b""
    if _JPEG_TABLES in tags:
        place, count = tags[_JPEG_TABLES]
        tables = data[place : place + count]

    def read(stream: bytes) -> tuple[Tensor, None]:
        with Image.open(io.BytesIO(stream), formats=["JPEG"]) as image:
            if image.width != columns or image.height < rows or image.height > max(rows, tags.get(_ROWS, [rows])[0]):
                raise ImageTruncated(
                    f"The TIFF is damaged: expected a JPEG of {columns}x{rows} pixels in it, but got "
                    f"{image.width}x{image.height}; save it again."
                )
            return torch.from_numpy(np.array(image)), None

    # An abbreviated stream lacks the tables, and a stream of tables has no picture between its two end markers.
    read_whole(tables[:-2] + piece[2:] if tables else piece, read)
