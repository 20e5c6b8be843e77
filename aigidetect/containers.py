"""What a PNG, GIF, WebP or BMP says of itself, checked before Pillow reads it: checksums, counts and sizes.

Pillow does not compare the checksums of a PNG's picture data, walks chunks, blocks and frames in Python however many there
are, and a WebP's canvas is made before its size can be asked for. A few megabytes of empty parts would take minutes.

    PNG    every checksum up to the end mark must hold, the end mark must be there, and the data must fill all rows
    GIF    frames are counted here
    WebP   the canvas is compared with the limit
    BMP    run-length coding is refused: it may leave pixels out

References:
    | Portable Network Graphics (W3C, third edition), sections 5.3, 7.2, 8.1 and 11.2.5
    | Graphics Interchange Format, version 89a (CompuServe, 1990)
    | WebP container specification (Google), "Extended file format"
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .errors import ImageTooLarge, ImageTruncated, UnsupportedImage

MAX_FRAMES = 10_000
_MAX_CHUNKS = 2**16  # of a PNG; 256 MiB in the usual chunks of 8 KiB are half as many
_MAX_BLOCKS = 2**20  # of a GIF; 256 MiB in full blocks

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type of a PNG
# First column and row, and steps, of the seven passes of an interlaced PNG.
_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def check_container(data: bytes, max_pixels: int) -> int | None:
    """Frames of a GIF; None for other formats, whose frames Pillow reads from the header.

    Args:
        data: The file.
        max_pixels: Largest canvas, width times height.

    Raises:
        ImageTruncated: The file ends early, or a checksum is wrong.
        ImageTooLarge: More frames, chunks or blocks than any picture needs, or a canvas over the limit.
        UnsupportedImage: A BMP with run-length coding.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data, max_pixels)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        return _gif_frames(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        _check_webp(data, max_pixels)
    elif data.startswith(b"BM") and data[14:15] != b"\x0c" and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        raise UnsupportedImage("A BMP with run-length coding may leave pixels out; save it without compression, or as PNG.")
    return None


def check_frames(frames: int) -> int:
    """`frames`, unless there are more than `MAX_FRAMES`, which would take minutes to count."""
    if frames > MAX_FRAMES:
        raise ImageTooLarge(f"The file has more than {MAX_FRAMES:,} frames or pages; save the first as a file of its own.")
    return frames


def _check_png(data: bytes, max_pixels: int) -> None:
    stream = [body for kind, body in png_chunks(data) if kind == b"IDAT"]
    _check_rows(stream, struct.unpack_from(">IIBB2xB", data, 16), max_pixels)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of each chunk of a PNG, up to and with the end mark.

    Raises:
        ImageTruncated: There is no end mark, or a checksum is wrong.
        ImageTooLarge: More chunks than any picture needs.
    """
    view, position = memoryview(data), 8
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            raise ImageTruncated("The PNG ends before its end mark; copy or download the file again.")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        # One slice, because the checksum covers the kind too.
        if end + 4 > len(data) or zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ImageTruncated(f"The PNG is damaged or ends early in its chunk {kind!r}; copy or download the file again.")
        yield kind, view[position + 8 : end]
        if kind == b"IEND":
            return
        position = end + 4
    raise ImageTooLarge(f"The PNG has more than {_MAX_CHUNKS:,} chunks; save the picture again.")


def _check_rows(stream: list[memoryview], header: tuple[int, ...], max_pixels: int) -> None:
    """Inflates the picture data once more, only to count them: Pillow may take a stream that ends early for a whole one."""
    width, height, depth, colour, interlaced = header
    if width * height > max_pixels:
        return  # refused before it is decoded
    passes = _ADAM7 if interlaced else [(0, 0, 1, 1)]
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes if width > x and height > y]
    missing = sum(rows * (1 + (columns * depth * _CHANNELS.get(colour, 1) + 7) // 8) for columns, rows in sizes)
    inflate = zlib.decompressobj()
    # Small pieces, because each may become a thousand times as large.
    for piece in (part[at : at + 2**14] for part in stream for at in range(0, len(part), 2**14)):
        missing -= len(inflate.decompress(piece))
        if missing <= 0:
            return
    raise ImageTruncated("The PNG's picture data end before the last row; copy or download the file again.")


def _gif_frames(data: bytes) -> int:
    """Frames that begin in the file; what follows the first frame may be damaged, because it is not scored."""
    blocks = frames = 0
    position = 13 + _palette_bytes(data[10] if len(data) > 10 else 0)
    while position < len(data) and (kind := data[position]) in (0x00, 0x21, 0x2C):
        if kind == 0x2C:
            frames = check_frames(frames + 1)
            position += 11 + (_palette_bytes(data[position + 9]) if position + 9 < len(data) else 0)
        elif kind == 0x21:
            position += 2
        while position < len(data) and (size := data[position]):
            position += 1 + size
            blocks += 1
        position, blocks = position + 1, blocks + 1
        if blocks > _MAX_BLOCKS:
            raise ImageTooLarge(f"The GIF has more than {_MAX_BLOCKS:,} blocks; save the picture again.")
    if not frames:
        raise ImageTruncated("The GIF holds no picture where one has to begin; copy or download the file again.")
    return frames


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _check_webp(data: bytes, max_pixels: int) -> None:
    if data[12:16] == b"VP8X" and len(data) >= 30:
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        if width * height > max_pixels:
            raise ImageTooLarge(f"The canvas has {width}x{height} pixels, the limit is {max_pixels:,} in all; cut it out.")
