"""Small files that ask for much memory or time. Those within the limits must be scored, with bounded memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .headers import set_tag
from .pictures import Case, chunk, frames, pixels, png, save, tiled_tiff


def huge(_: np.random.Generator) -> Iterator[Case]:
    """More pixels than allowed, by every format's header."""
    for width, height in [(20_000, 20_000), (65_535, 65_535), (400_000, 400), (2**31 - 1, 1), (1, 2**31 - 1)]:
        yield Case(f"{width}x{height}.png", png(width, height, 8, 2, bytes(1000)), "refuse")
        tall = set_tag(set_tag(save(pixels(), "TIFF"), 256, value=width, kind=4), 257, value=height, kind=4)
        yield Case(f"{width}x{height}.tif", tall, "refuse")
        bmp = save(pixels(), "BMP")
        yield Case(f"{width}x{height}.bmp", bmp[:18] + struct.pack("<II", width, height) + bmp[26:], "refuse")
    for size in (13_000, 65_535):
        gif = save(Image.fromarray(pixels()).quantize(16), "GIF")
        yield Case(f"screen-{size}.gif", gif[:6] + struct.pack("<HH", size, size) + gif[10:], "refuse")
        jpeg = save(pixels(), "JPEG")
        frame = jpeg.index(b"\xff\xc0\0\x11") + 5
        yield Case(f"frame-{size}.jpg", jpeg[:frame] + struct.pack(">HH", size, size) + jpeg[frame + 4 :], "refuse")
    webp = save(pixels(), "WEBP", save_all=True, append_images=frames()[1:])
    for canvas in (16_383, 2**24 - 1):
        size = canvas.to_bytes(3, "little")
        yield Case(f"canvas-{canvas}.webp", webp[:24] + size + size + webp[30:], "refuse")


def deep(_: np.random.Generator) -> Iterator[Case]:
    """Text and profiles that inflate a thousandfold, and structures that lead back to themselves."""
    picture = save(pixels(), "PNG")
    packed = zlib.compress(bytes(64 * 2**20), 9)
    for name, body in {
        "zTXt": b"a\0\0" + packed, "iCCP": b"a\0\0" + packed, "iTXt": b"a\0\1\0\0\0" + packed,
        "iCCP-garbage": b"a\0\0garbage",
        "eXIf": b"MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08",
    }.items():  # fmt: skip
        kind = name.partition("-")[0].encode()
        yield Case(f"{name}.png", picture[:33] + chunk(kind, body) + picture[33:])
    yield Case("many-texts.png", picture[:33] + chunk(b"zTXt", b"a\0\0" + packed[: len(packed) // 80]) * 2000 + picture[33:])
    for order, head in {"II": b"II*\0\x08\0\0\0", "MM": b"MM\0*\0\0\0\x08"}.items():
        pack = "<" if order == "II" else ">"
        for tag in (0x8769, 0x8825, 0xA005, 0x014A):
            loop = struct.pack(f"{pack}HHHIII", 1, tag, 4, 1, 8, 8)
            exif = Image.Exif()
            exif[0x0112] = 3
            for format in ("JPEG", "PNG", "WEBP"):
                data = save(pixels(), format, exif=b"Exif\0\0" + head + loop)
                yield Case(f"exif-loop-{order}-{tag:x}.{format.lower()}", data, "score")
    for format in ("JPEG", "WEBP", "TIFF"):
        yield Case(f"profile.{format.lower()}", save(pixels(), format, icc_profile=b"garbage" * 5000), "score")
        for start in (b"", b"Exif\0\0"):
            if format != "TIFF":
                data = save(pixels(), format, exif=start + b"\xff\0garbage" * 100)
                yield Case(f"exif-garbage-{len(start)}.{format.lower()}", data, "score")


def many(_: np.random.Generator) -> Iterator[Case]:
    """Empty parts by the ten thousand."""
    picture, jpeg = save(pixels(), "PNG"), save(pixels(), "JPEG")
    gif = save(Image.fromarray(pixels()).quantize(16), "GIF")
    for count in (50, 200_000):
        expect = "score" if count == 50 else "refuse"
        yield Case(f"chunks-{count}.png", picture[:33] + chunk(b"prVt") * count + picture[33:], expect)
        yield Case(f"segments-{count}.jpg", jpeg[:2] + b"\xff\xe5\0\x02" * count + jpeg[2:], expect)
        yield Case(f"fill-{count}.jpg", jpeg[:2] + b"\xff" * count + jpeg[2:], expect)
        small = b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
        yield Case(f"frames-{count}.gif", gif[:-1] + small * count + b";", expect)
        yield Case(f"pages-{count}.tif", pages(count), expect)
        yield Case(f"comments-{count}.gif", gif[:61] + b"!\xfe\1a\0" * count + gif[61:], "score" if count == 50 else "any")
        yield Case(f"sub-blocks-{count}.gif", gif[:61] + b"!\xfe" + b"\1a" * (8 * count) + b"\0" + gif[61:],
                   "score" if count == 50 else "refuse")  # fmt: skip
    yield Case("page-loop.tif", pages(3, last=8), "score")
    yield Case(
        "strips-100000.tif", set_tag(set_tag(save(pixels(), "TIFF"), 273, count=100_000), 279, count=100_000), "refuse"
    )
    yield Case("tiles-1x1.tif", set_tag(set_tag(tiled_tiff(), 322, value=1), 323, value=1), "refuse")
    yield Case("tags.tif", _tags(), "refuse")
    progressive = save(pixels(), "JPEG", progressive=True)
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    for count in (5, 500):
        yield Case(f"scans-{count}.jpg", progressive[:-2] + last * count + b"\xff\xd9", "any" if count == 5 else "refuse")
    exif = b"\xff\xe1" + struct.pack(">H", 60_008) + b"Exif\0\0" + bytes(60_000)
    yield Case("exif-500.jpg", jpeg[:2] + exif * 500 + jpeg[2:])
    yield Case("frames-3000.webp", save(pixels(8, 8), "WEBP", save_all=True, append_images=[
        Image.fromarray(pixels(8, 8, seed=i)) for i in range(3000)
    ]), "score")  # fmt: skip


def pages(count: int, *, last: int = 0) -> bytes:
    """A TIFF of `count` pages that share one strip; the last one points to the offset `last`."""
    size = 2 + 12 * 8 + 4
    strip, made = 8 + size * count, bytearray(b"II*\0\x08\0\0\0")
    tags = [(256, 4), (257, 4), (258, 8), (259, 1), (262, 1), (273, strip), (277, 1), (279, 16)]
    body = struct.pack("<H", 8) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    for page in range(count):
        made += body + struct.pack("<I", 8 + size * (page + 1) if page < count - 1 else last)
    return bytes(made) + bytes(range(16))


def _tags() -> bytes:
    """Hundreds of tags that all claim the same megabyte."""
    data, extra = save(pixels(), "TIFF"), 400
    tags = b"".join(struct.pack("<HHII", 40_000 + i, 7, 2**20, 0) for i in range(extra))
    start = struct.unpack_from("<I", data, 4)[0]
    old = struct.unpack_from("<H", data, start)[0]
    directory = struct.pack("<H", old + extra) + data[start + 2 : start + 2 + 12 * old] + tags + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory + bytes(2**20)


def giant(_: np.random.Generator) -> Iterator[Case]:
    """Honest pictures just under the limit of pixels, a few kilobytes to megabytes each."""
    side = 12_200
    rows = io.BytesIO()
    packer = zlib.compressobj(1)
    for _row in range(side):
        rows.write(packer.compress(bytes(1 + 2 * side)))
    rows.write(packer.flush())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0))
    yield Case("16-bit.png", b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows.getvalue()) + chunk(b"IEND"), "score")
    flat = Image.new("L", (side, side), 99)
    yield Case("flat.png", save(flat, "PNG", compress_level=1), "score")
    yield Case("flat.gif", save(flat, "GIF"), "score")
    yield Case("flat.jpg", save(flat, "JPEG"), "score")
    yield Case("progressive.jpg", save(flat, "JPEG", progressive=True), "score")
    yield Case("lzw.tif", save(flat, "TIFF", compression="tiff_lzw"), "score")
    yield Case("lossless.webp", save(Image.new("RGB", (16_383, 9_000), "teal"), "WEBP", lossless=True, method=0), "score")
