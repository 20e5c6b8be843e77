"""Headers that lie about sizes, counts and lengths."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, features

from .pictures import HEIGHT, WIDTH, Case, chunk, pixels, png, png_rows, save, several


def set_tag(data: bytes, tag: int, *, value: int | None = None, count: int | None = None, kind: int | None = None) -> bytes:
    """A little-endian TIFF with one entry of its first directory changed.

    Raises:
        KeyError: It has no such tag.
    """
    changed = bytearray(data)
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        found, old_kind, old_count, old_value = struct.unpack_from("<HHII", data, entry)
        if found == tag:
            kind, count = old_kind if kind is None else kind, old_count if count is None else count
            struct.pack_into("<HHII", changed, entry, tag, kind, count, old_value if value is None else value)
            return bytes(changed)
    raise KeyError(tag)


def lying(rng: np.random.Generator) -> Iterator[Case]:
    """Headers of every format with numbers that do not fit the data."""
    for part in (_png, _tiff, _jpeg, _gif, _bmp, _riff, _boxes):
        yield from part(rng)


def _png(_: np.random.Generator) -> Iterator[Case]:
    rows, sizes = png_rows(pixels()), (0, 1, 44, 46, 62, 65_535, 100_000, 2**31 - 1, 2**32 - 1)
    for width in sizes:
        yield Case(f"width-{width}.png", png(width, HEIGHT, 8, 2, rows), "any" if 0 < width <= WIDTH else "refuse")
    for height in sizes:
        yield Case(f"height-{height}.png", png(WIDTH, height, 8, 2, rows), "any" if 0 < height <= HEIGHT else "refuse")
    for colour in range(8):
        for depth in (0, 1, 3, 8, 16, 32, 255):
            yield Case(f"colour-{colour}-{depth}.png", png(WIDTH, HEIGHT, depth, colour, rows))
    whole = save(pixels(), "PNG")
    for length in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
        yield Case(f"chunk-{length}.png", whole[:33] + struct.pack(">I", length) + whole[37:], "refuse")
    for count in (0, 1, 2**16, 2**31, 2**32 - 1):
        control = chunk(b"acTL", struct.pack(">II", count, 0))
        yield Case(f"frames-{count}.png", whole[:33] + control + whole[33:])
    yield Case("no-header.png", whole[:8] + whole[33:], "refuse")
    yield Case("palette-missing.png", png(WIDTH, HEIGHT, 8, 3, png_rows(pixels()[..., 0])))
    yield Case("palette-short.png", png(WIDTH, HEIGHT, 8, 3, png_rows(pixels()[..., 0]), extra=chunk(b"PLTE", b"abc")))


def _tiff(_: np.random.Generator) -> Iterator[Case]:
    raw, lzw = save(pixels(), "TIFF"), save(pixels(), "TIFF", compression="tiff_lzw")
    for name, data in {"raw": raw, "lzw": lzw}.items():
        for tag in (256, 257, 258, 259, 262, 273, 277, 278, 279, 284):
            for value in (0, 1, 3, 255, 65_535, 2**31 - 1, 2**32 - 1):
                yield Case(f"{name}-{tag}-value-{value}.tif", set_tag(data, tag, value=value))
            for count in (0, 2, 1000, 2**24, 2**32 - 1):
                yield Case(f"{name}-{tag}-count-{count}.tif", set_tag(data, tag, count=count))
            for kind in (0, 2, 5, 7, 12, 16, 99):
                yield Case(f"{name}-{tag}-type-{kind}.tif", set_tag(data, tag, kind=kind))
    for offset in (0, 4, 7, len(raw) - 1, 2**31, 2**32 - 1):
        yield Case(f"directory-{offset}.tif", raw[:4] + struct.pack("<I", offset) + raw[8:], "refuse")
    for version in (0, 41, 44, 255):
        yield Case(f"version-{version}.tif", raw[:2] + struct.pack("<H", version) + raw[4:], "refuse")


def _jpeg(_: np.random.Generator) -> Iterator[Case]:
    data = save(pixels(), "JPEG")
    frame, scan, tables = data.index(b"\xff\xc0\0\x11"), data.index(b"\xff\xda"), data.index(b"\xff\xc4")
    for size in (0, 1, 8, 44, 62, 65_535):
        for at in (5, 7):
            changed = data[: frame + at] + struct.pack(">H", size) + data[frame + at + 2 :]
            yield Case(f"size-{at}-{size}.jpg", changed, "refuse" if size in (0, 65_535) else "any")
    for place, name in [
        (frame + 4, "precision"),
        (frame + 9, "components"),
        (frame + 11, "sampling"),
        (frame + 12, "table"),
    ]:
        for value in (0, 2, 4, 12, 0x22, 0xF1, 255):
            yield Case(f"{name}-{value}.jpg", data[:place] + bytes([value]) + data[place + 1 :])
    for place, name in [(frame, "frame"), (scan, "scan"), (tables, "tables"), (2, "first")]:
        for length in (0, 1, 2, 3, 9, 300, 65_535):
            yield Case(f"{name}-length-{length}.jpg", data[: place + 2] + struct.pack(">H", length) + data[place + 4 :])
    for kind in range(0xC0, 0xD0):
        yield Case(f"frame-{kind:x}.jpg", data[: frame + 1] + bytes([kind]) + data[frame + 2 :])
    pair = save(pixels(), "MPO", **several())
    number = pair.index(b"\x01\xb0\x04\0", pair.index(b"MPF")) if b"\x01\xb0\x04\0" in pair else pair.index(b"MPF")
    for count in (0, 1, 1000, 2**31, 2**32 - 1):
        yield Case(f"pictures-{count}.mpo", pair[: number + 8] + struct.pack("<I", count) + pair[number + 12 :])


def _gif(_: np.random.Generator) -> Iterator[Case]:
    data = save(Image.fromarray(pixels()).quantize(16), "GIF")
    start = data.index(b"\x2c", 13 + 48)
    for place, name in [
        (6, "screen-width"),
        (8, "screen-height"),
        (start + 1, "left"),
        (start + 5, "width"),
        (start + 7, "height"),
    ]:
        for size in (0, 1, 44, 100, 40_000, 65_535):
            yield Case(f"{name}-{size}.gif", data[:place] + struct.pack("<H", size) + data[place + 2 :])
    for flags in (0, 0x80, 0x87, 0xFF):
        yield Case(f"flags-{flags}.gif", data[:10] + bytes([flags]) + data[11:])
    for bits in (0, 1, 9, 12, 13, 255):
        yield Case(f"code-size-{bits}.gif", data[: start + 10] + bytes([bits]) + data[start + 11 :])


def _bmp(_: np.random.Generator) -> Iterator[Case]:
    data = save(pixels(), "BMP")
    for place, name in [(10, "offset"), (14, "header"), (18, "width"), (22, "height"), (30, "compression"), (46, "colours")]:
        for value in (0, 1, 12, 40, 64, 1000, 2**31 - 1, 2**31, 2**32 - 1):
            yield Case(f"{name}-{value}.bmp", data[:place] + struct.pack("<I", value) + data[place + 4 :])
    for bits in (0, 1, 2, 4, 8, 16, 32, 64, 65_535):
        yield Case(f"bits-{bits}.bmp", data[:28] + struct.pack("<H", bits) + data[30:])


def _riff(_: np.random.Generator) -> Iterator[Case]:
    for name, data in {"lossy": save(pixels(), "WEBP"), "moving": save(pixels(), "WEBP", **several())}.items():
        for place in (4, 16, 24, 27, 42, 46):
            for value in (0, 1, 5, 1000, 2**24 - 1, 2**31, 2**32 - 1):
                yield Case(f"{name}-{place}-{value}.webp", data[:place] + struct.pack("<I", value) + data[place + 4 :])


def _boxes(_: np.random.Generator) -> Iterator[Case]:
    if not features.check("avif"):
        return
    data = save(pixels(), "AVIF")
    for kind in (b"ftyp", b"meta", b"iloc", b"ispe", b"ipco", b"mdat"):
        place = data.index(kind)
        for value in (0, 1, 7, 2**16, 2**31 - 1, 2**32 - 1):
            yield Case(f"{kind.decode()}-size-{value}.avif", data[: place - 4] + struct.pack(">I", value) + data[place:])
            yield Case(
                f"{kind.decode()}-body-{value}.avif", data[: place + 8] + struct.pack(">I", value) + data[place + 12 :]
            )
