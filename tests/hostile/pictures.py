"""Valid pictures of every format and mode that can be written here, however rare."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

HEIGHT, WIDTH = 45, 61


@dataclass(frozen=True)
class Case:
    """A file of the corpus: its name, its bytes and what has to come of it (`score`, `refuse` or `any`)."""

    name: str
    data: bytes
    expect: str = "any"


@dataclass(frozen=True)
class Seed:
    """A valid picture, and how many of its leading bytes are needed for the picture that is scored."""

    name: str
    data: bytes
    needed: int

    @property
    def suffix(self) -> str:
        return self.name.partition("-")[0]


def pixels(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) uint8 with low and high frequencies."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 3 + columns, columns * 2, rows + columns * 3], axis=2) % 200
    return (smooth + rng.integers(0, 50, (height, width, 3))).astype(np.uint8)


def save(image: Any, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()).save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """A PNG chunk with its right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, interlace: int = 0, extra: bytes = b"") -> bytes:
    """A PNG of the given filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND")


def png_rows(image: np.ndarray[Any, Any]) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(image))


def interlaced_png() -> bytes:
    """Adam7, which Pillow reads and does not write."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    raw = b"".join(png_rows(pixels()[y::dy, x::dx]) for y, x, dy, dx in passes if pixels()[y::dy, x::dx].size)
    return png(WIDTH, HEIGHT, 8, 2, raw, interlace=1)


def tiled_tiff(side: int = 16) -> bytes:
    """Uncompressed tiles, which Pillow reads and does not write."""
    across, down = -(-WIDTH // side), -(-HEIGHT // side)
    padded = np.zeros((down * side, across * side, 3), np.uint8)
    padded[:HEIGHT, :WIDTH] = pixels()
    tiles = [padded[y * side :][:side, x * side :][:, :side].tobytes() for y in range(down) for x in range(across)]
    count, begin = across * down, 8 + 2 + 12 * 11 + 4
    offsets = [begin + 8 * count + 6 + i * len(tiles[0]) for i in range(count)]
    tags = [
        (256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (258, 3, 3, begin + 8 * count), (259, 3, 1, 1), (262, 3, 1, 2),
        (277, 3, 1, 3), (284, 3, 1, 1), (322, 3, 1, side), (323, 3, 1, side), (324, 4, count, begin),
        (325, 4, count, begin + 4 * count),
    ]  # fmt: skip
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    lists = struct.pack(f"<{2 * count}I", *offsets, *[len(tile) for tile in tiles]) + struct.pack("<3H", 8, 8, 8)
    return head + lists + b"".join(tiles)


def frames(count: int = 3) -> list[Image.Image]:
    return [Image.fromarray(pixels(seed=i)) for i in range(count)]


def several() -> dict[str, Any]:
    """Options of `save` for three frames; new ones each time, because saving leaves settings of the format behind."""
    return {"save_all": True, "append_images": frames()[1:]}


def first_gif_frame(data: bytes) -> int:
    """Offset behind the picture data of a GIF's first frame."""
    position = data.index(b"\x2c", 13 + (3 << ((data[10] & 7) + 1)) if data[10] & 128 else 13)
    position += 11 + (3 << ((data[position + 9] & 7) + 1) if data[position + 9] & 128 else 0)
    while data[position]:
        position += 1 + data[position]
    return position


@functools.cache
def seeds() -> list[Seed]:
    """One valid picture for each way of coding; what is cut and damaged."""
    image, grey = Image.fromarray(pixels()), Image.fromarray(pixels()[..., 0])
    palette, first = image.quantize(32), frames()[0]
    made: dict[str, bytes] = {
        "jpg-baseline": save(image, "JPEG"),
        "jpg-progressive": save(image, "JPEG", progressive=True),
        "jpg-restarts": save(image, "JPEG", restart_marker_blocks=3),
        "jpg-grey": save(grey, "JPEG"),
        "jpg-cmyk": save(image.convert("CMYK"), "JPEG"),
        "mpo-two": save(first, "MPO", **several()),
        "png-rgb": save(image, "PNG"),
        "png-palette": save(palette, "PNG"),
        "png-alpha": save(image.convert("RGBA"), "PNG"),
        "png-interlaced": interlaced_png(),
        "png-sixteen": save(Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257), "PNG"),
        "png-animated": save(first, "PNG", **several()),
        "webp-lossy": save(image, "WEBP"),
        "webp-lossless": save(image, "WEBP", lossless=True),
        "webp-animated": save(first, "WEBP", **several()),
        "gif-still": save(palette, "GIF"),
        "gif-animated": save(first, "GIF", **several()),
        "bmp-rgb": save(image, "BMP"),
        "bmp-palette": save(palette, "BMP"),
        "tif-raw": save(image, "TIFF"),
        "tif-tiles": tiled_tiff(),
        "tif-pages": save(first, "TIFF", **several()),
        "tif-bigtiff": save(image, "TIFF", big_tiff=True),
    }
    for name, scheme in {
        "lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate", "packbits": "packbits", "jpeg": "jpeg", "lzma": "lzma",
        "zstd": "zstd",
    }.items():  # fmt: skip
        made[f"tif-{name}"] = save(image, "TIFF", compression=scheme, tiffinfo={278: 16})
    if features.check("avif"):
        made["avif-lossy"] = save(image, "AVIF")
    return [Seed(name, data, _needed(name, data)) for name, data in made.items()]


def _needed(name: str, data: bytes) -> int:
    if name == "mpo-two":
        return data.index(b"\xff\xd9") + 2
    if name in ("webp-animated", "tif-pages"):
        return 200  # of the first frame, certainly
    if name.startswith("gif"):
        return first_gif_frame(data) - 3  # the end code needs no pixels
    # The padding of a row, or of a chunk, and tables behind the pixels may be missing.
    return len(data) - {"bmp": 4, "webp": 1, "tif": 16, "avif": 16}.get(name.partition("-")[0], 0)


def valid(_: np.random.Generator) -> Iterator[Case]:
    """Everything that has to get a score: all seeds, rare modes, and one or two pixels in a row."""
    for seed in seeds():
        yield Case(f"{seed.name}.{seed.suffix}", seed.data, "score")
    yield from _tiny()
    yield from _modes()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for format in ("JPEG", "PNG", "TIFF", "WEBP"):
            yield Case(f"turned-{orientation}.{format.lower()}", save(pixels(), format, exif=exif), "score")


def _tiny() -> Iterator[Case]:
    for height, width in [(1, 1), (1, 2), (1, 700), (700, 1), (2, 3), (3, 2000)]:
        image = Image.fromarray(pixels(height, width))
        for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
            yield Case(f"tiny-{height}x{width}.{format.lower()}", save(image, format), "score")


def _modes() -> Iterator[Case]:
    image, sixteen = Image.fromarray(pixels()), (pixels().astype(">u2") * 257).astype(">u2")
    cmyk = save(image.convert("CMYK"), "JPEG")
    marker = cmyk.index(b"Adobe")
    yield Case("cmyk-adobe.jpg", cmyk, "score")
    yield Case("ycck-adobe.jpg", cmyk[: marker + 11] + b"\2" + cmyk[marker + 12 :], "score")
    yield Case("cmyk-no-adobe.jpg", cmyk[: marker - 4] + cmyk[marker + 12 :], "score")
    yield Case("rgb-adobe.jpg", save(image, "JPEG", keep_rgb=True), "score")
    for depth in (1, 2, 4):
        columns = -(-WIDTH * depth // 8)
        raw = png_rows(np.arange(HEIGHT * columns, dtype=np.uint32).astype(np.uint8).reshape(HEIGHT, columns))
        yield Case(f"grey-{depth}-bit.png", png(WIDTH, HEIGHT, depth, 0, raw), "score")
        table = chunk(b"PLTE", bytes(range(3 << depth)))
        yield Case(f"palette-{depth}-bit.png", png(WIDTH, HEIGHT, depth, 3, raw, extra=table), "score")
    yield Case("rgb-16-bit.png", png(WIDTH, HEIGHT, 16, 2, png_rows(sixteen)), "score")
    yield Case("grey-16-bit.tif", save(pixels()[..., 0].astype(np.uint16) * 257, "TIFF"), "score")
    yield Case("float.tif", save((pixels()[..., 0] / 255).astype(np.float32), "TIFF"), "score")
    yield Case("float-outside.tif", save(pixels()[..., 0].astype(np.float32), "TIFF"), "refuse")
    for mode in ("1", "L", "LA", "P", "RGBA"):
        yield Case(f"mode-{mode}.png", save(image.convert(mode), "PNG"), "score")
    yield Case("mode-LAB.tif", save(Image.merge("LAB", image.split()), "TIFF"), "score")
    for mode in ("L", "P", "RGBA", "CMYK", "YCbCr"):
        yield Case(f"mode-{mode}.tif", save(image.convert(mode), "TIFF"), "score")
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"quality": 1}, {"quality": 100}, {"optimize": True}):
        yield Case(f"{'-'.join(f'{k}-{v}' for k, v in options.items())}.jpg", save(image, "JPEG", **options), "score")
    # No encoder of arithmetic coding is at hand: its marker over Huffman data decodes to noise, or not at all.
    baseline = save(image, "JPEG")
    yield Case("arithmetic-marker.jpg", baseline.replace(b"\xff\xc0\0\x11", b"\xff\xc9\0\x11", 1))
