"""Cuts, flipped bits, and half pictures whose headers and checksums claim that they are whole."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .headers import set_tag
from .pictures import HEIGHT, WIDTH, Case, Seed, chunk, pixels, png, png_rows, save, seeds


def cut(rng: np.random.Generator) -> Iterator[Case]:
    """Every seed, cut at offsets from its first to its last byte; refused wherever picture data are missing."""
    for seed in _mixed(seeds(), rng):
        for at in np.unique(np.linspace(0, len(seed.data) - 1, 36).astype(int)):
            yield Case(f"{seed.name}-{at}.{seed.suffix}", seed.data[:at], "refuse" if at < seed.needed else "any")


def flipped(rng: np.random.Generator) -> Iterator[Case]:
    """One to eight flipped bits. PNG has checksums, so it has to be refused; of the others that cannot be asked."""
    for seed in _mixed(seeds(), rng):
        for number in range(24):
            data = bytearray(seed.data)
            # As a set, because a bit that is flipped twice is as it was.
            for place in {int(p) for p in rng.integers(0, 8 * len(data), rng.integers(1, 9))}:
                data[place // 8] ^= 1 << place % 8
            yield Case(f"{seed.name}-{number}.{seed.suffix}", bytes(data), "refuse" if seed.suffix == "png" else "any")


def zeroed(rng: np.random.Generator) -> Iterator[Case]:
    """A block in the middle lost, as on a bad disk: refused where there are checksums."""
    for seed in _mixed(seeds(), rng):
        for share in (0.3, 0.5, 0.7):
            data, start = bytearray(seed.data), int(share * len(seed.data))
            data[start : start + 128] = bytes(min(128, len(data) - start))
            checked = seed.suffix == "png" and bytes(data) != seed.data
            yield Case(f"{seed.name}-{share}.{seed.suffix}", bytes(data), "refuse" if checked else "any")


def _mixed(found: list[Seed], rng: np.random.Generator) -> list[Seed]:
    return [found[i] for i in rng.permutation(len(found))]


def half_jpeg(_: np.random.Generator) -> Iterator[Case]:
    """JPEGs that were cut and got an end marker, or a height that their data do not fill."""
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}):
        data = save(pixels(160, 200, seed=5), "JPEG", **options)
        start = data.index(b"\xff\xda") + 40
        for at in np.linspace(start, len(data) - 200, 20).astype(int):
            yield Case(f"{'-'.join(options) or 'plain'}-{at}.jpg", data[:at] + b"\xff\xd9", "refuse")
        frame = next(data.index(marker) for marker in (b"\xff\xc0\0\x11", b"\xff\xc2\0\x11") if marker in data)
        taller = data[: frame + 5] + struct.pack(">H", 320) + data[frame + 7 :]
        yield Case(f"{'-'.join(options) or 'plain'}-taller.jpg", taller, "refuse")


def half_png(_: np.random.Generator) -> Iterator[Case]:
    """Rows missing from a PNG whose checksums are right."""
    rows = png_rows(pixels())
    for share in np.linspace(0.02, 0.98, 20):
        yield Case(f"rows-{share:.2f}.png", png(WIDTH, HEIGHT, 8, 2, rows[: int(len(rows) * share)]), "refuse")
    stream = zlib.compress(rows)
    head = save(pixels(), "PNG")[:33]
    for share in np.linspace(0.02, 0.95, 20):
        body = stream[: int(len(stream) * share)]
        yield Case(f"stream-{share:.2f}.png", head + chunk(b"IDAT", body) + chunk(b"IEND"), "refuse")


def half_webp(_: np.random.Generator) -> Iterator[Case]:
    """A WebP that was cut, with both of its lengths put right."""
    for name, options in {"lossy": {}, "lossless": {"lossless": True}}.items():
        data = save(pixels(), "WEBP", **options)
        for share in np.linspace(0.1, 0.95, 20):
            size = int((len(data) - 20) * share) & ~1
            lengths = struct.pack("<4sI4s4sI", b"RIFF", size + 12, b"WEBP", data[12:16], size)
            yield Case(f"{name}-{share:.2f}.webp", lengths + data[20 : 20 + size], "refuse")


def half_gif(_: np.random.Generator) -> Iterator[Case]:
    """GIFs whose picture data end properly, but early."""
    data = save(Image.fromarray(pixels()).quantize(16), "GIF")
    start = data.index(b"\x2c", 13 + 48) + 11
    body = bytearray()
    position = start
    while size := data[position]:
        body += data[position + 1 : position + 1 + size]
        position += 1 + size
    for share in np.linspace(0.02, 0.9, 20):
        kept = bytes(body[: int(len(body) * share)])
        blocks = b"".join(bytes([len(kept[i : i + 255])]) + kept[i : i + 255] for i in range(0, len(kept), 255))
        yield Case(f"blocks-{share:.2f}.gif", data[:start] + blocks + b"\0;", "refuse")
    yield Case("end-code-at-once.gif", data[:start] + b"\x02\x10\x05\0;", "refuse")


def half_tiff(_: np.random.Generator) -> Iterator[Case]:
    """TIFFs with fewer or shorter strips than their height needs, and fax pages, where nobody can tell."""
    image = Image.fromarray(pixels(256, 64, seed=2))
    for scheme in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"):
        data = save(image, "TIFF", tiffinfo={278: 32}, **({"compression": scheme} if scheme else {}))
        for keep in (1, 4, 7):
            fewer = set_tag(set_tag(data, 273, count=keep), 279, count=keep)
            yield Case(f"{scheme}-{keep}-strips.tif", fewer, "refuse")
        taller = set_tag(data, 257, value=512)
        yield Case(f"{scheme}-taller.tif", taller, "refuse")
        yield Case(f"{scheme}-taller-strips.tif", set_tag(taller, 278, value=64), "refuse")
        yield Case(f"{scheme}-one-strip.tif", set_tag(taller, 278, value=512), "refuse")
    for scheme in ("group3", "group4", "tiff_ccitt"):
        fax = save(image.convert("1"), "TIFF", compression=scheme)
        for name, page in {"whole": fax, "taller": set_tag(fax, 257, value=512)}.items():
            yield Case(f"{scheme}-{name}.tif", page, "refuse")


def half_bmp(_: np.random.Generator) -> Iterator[Case]:
    """BMPs with more rows than data, and run-length coding, which may leave pixels out."""
    data = save(pixels(), "BMP")
    for rows in (46, 60, 90, -46, -90):
        yield Case(f"rows-{rows}.bmp", data[:22] + struct.pack("<i", rows) + data[26:], "refuse")
    palette = save(Image.fromarray(pixels()[..., 0]), "BMP")
    header = palette[:30] + struct.pack("<I", 1) + palette[34:1078]
    for name, runs in {"nothing": b"\0\1", "one-row": b"\x3d\5\0\0\0\1", "jump": b"\0\2\1\x2c\x3d\5\0\1"}.items():
        yield Case(f"run-length-{name}.bmp", header + runs, "refuse")
