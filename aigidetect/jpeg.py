"""What Pillow does not say of a JPEG: whether its data are all there, and which quality it was saved with.

References:
    | Digital compression and coding of continuous-tone still images (ITU-T T.81, 1992)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import numpy as np
from torch import Tensor

from .errors import ImageTooLarge, ImageTruncated

T = TypeVar("T")

# A marker is 0xFF and a byte that is neither stuffing (00), a fill byte (FF) nor a restart (D0-D7).
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
# Real files have tens of segments and scans; empty ones by the thousand keep Pillow, or libjpeg, busy for minutes.
_MAX_SEGMENTS, _MAX_SCANS, _MAX_FILL = 1000, 50, 4096
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# 56 one bits: as many as libjpeg reads ahead at most, and no valid code, so that hardly a block can be made of them.
_ONES = b"\xff\x00" * 7
# Codes of all kinds, and each restart marker, for the decoder may be waiting for one.
_OTHER = b"".join(bytes(37 * i % 251 for i in range(1, 65)) + bytes((0xFF, 0xD0 + n)) for n in range(8))


def read_whole(data: bytes, read: Callable[[bytes], tuple[Tensor, T]]) -> tuple[Tensor, T]:
    """Decodes a JPEG, and refuses one whose compressed data are not all there. Bytes after its end are fine.

    libjpeg fills what is missing with grey and does not say so, for instance where a file that was cut off got an end
    marker. It does ask for more where the data stop without one, so a file of one scan is decoded without its end marker.
    Any other file is decoded twice, with different bytes behind each scan: they change a scan that waits for data, and none
    that is complete. Not found are cuts within the last 16x16 pixels of a scan.

    Args:
        data: The file.
        read: Decodes a file to pixels and anything else; raises OSError if the data do not suffice.

    Returns:
        What `read` returns.

    Raises:
        ImageTruncated: The end marker, a scan, or some of the compressed data are missing.
        ImageTooLarge: More segments or scans than any picture needs.
    """
    end, scans = outline(data)
    if len(scans) == 1:
        with suppress(OSError):
            return read(data[:end] + _ONES)
    result = read(data)
    starts = [0, *scans]
    pieces = [data[start:stop] for start, stop in zip(starts, scans)]
    if not result[0].equal(read(_OTHER.join([*pieces, data[scans[-1] :]]) if scans else data)[0]):
        raise ImageTruncated("The JPEG's compressed data end before the last row; copy or download the file again.")
    return result


def outline(data: bytes) -> tuple[int, list[int]]:
    """Offsets of the end marker and of the end of every scan of the first picture in a JPEG file (annex B).

    Raises:
        ImageTruncated: There is no end marker, or no scan brings some coefficient to its full precision (annex G).
        ImageTooLarge: More segments or scans than any picture needs.
    """
    position, sequential, in_scan, segments = 0, True, False, 0
    missing: set[tuple[int, int]] = set()  # component, coefficient
    scans: list[int] = []
    while match := _MARKER.search(data, position):
        gap, marker, position = match.start() - position, match[1][0], match.end()
        segments += 1
        _check_effort(segments, len(scans), 0 if in_scan else gap)
        if marker in (0xD8, 0x01):
            continue
        if in_scan:
            scans.append(match.start())
        if marker == 0xD9:
            if missing:
                raise ImageTruncated("The JPEG ends before its last scan; copy or download the file again.")
            return match.start(), scans
        # Segments are skipped by their length, so that thumbnails inside them do not count.
        length = max(2, int.from_bytes(data[position : position + 2], "big"))
        body = data[position + 2 : position + length]
        position += length
        in_scan = marker == 0xDA
        if marker in _FRAMES:
            sequential = marker in _SEQUENTIAL
            missing = {(component, k) for component in body[6::3] for k in range(64)}
        elif in_scan and body:
            missing -= _refined(body, sequential)
    raise ImageTruncated("The JPEG ends before its end marker; copy or download the file again.")


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment before the first scan of a JPEG file, which is where metadata are.

    Raises:
        ImageTruncated: The file ends before a scan, or has something else where a marker has to be.
        ImageTooLarge: More segments than any picture needs.
    """
    position = 2
    for number in range(_MAX_SEGMENTS + 2):
        match = _MARKER.search(data, position)
        if match is None:
            break
        _check_effort(number, 0, match.start() - position)
        marker, position = match[1][0], match.end()
        if marker in (0xD9, 0xDA):
            return
        length = max(2, int.from_bytes(data[position : position + 2], "big"))
        if position + length > len(data):
            break
        yield marker, data[position + 2 : position + length]
        position += length
    raise ImageTruncated("The JPEG ends before its picture data; copy or download the file again.")


def _check_effort(segments: int, scans: int, gap: int) -> None:
    if segments > _MAX_SEGMENTS or scans > _MAX_SCANS:
        raise ImageTooLarge(
            f"The JPEG has more than {_MAX_SEGMENTS:,} segments or {_MAX_SCANS} scans; save the picture again, as PNG."
        )
    if gap > _MAX_FILL:
        raise ImageTruncated(f"The JPEG has {gap:,} bytes where a marker has to be; copy or download the file again.")


def _refined(body: bytes, sequential: bool) -> set[tuple[int, int]]:
    """(component, coefficient) that a scan header announces at full precision."""
    names = body[1 : 1 + 2 * body[0] : 2]
    first, last, precision = (0, 63, 0) if sequential else body[1 + 2 * body[0] : 4 + 2 * body[0]]
    # The low half byte counts the bits that later scans still have to bring.
    return {(name, k) for name in names for k in range(first, last + 1)} if precision & 15 == 0 else set()


# The luminance table of the JPEG standard (ITU-T T.81, table K.1), in raster order.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87,
    80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92,
    95, 98, 112, 100, 103, 99,
)  # fmt: skip


def estimate_jpeg_quality(tables: Mapping[int, Sequence[int]]) -> int:
    """The quality of the standard's luminance table, as libjpeg scales it, that is nearest to a file's.

    Args:
        tables: Table number -> 64 values in raster order, as Pillow's `quantization` gives them; table 0 is luminance.

    Returns:
        1-100. Exact for files of libjpeg; for cameras with tables of their own, an estimate.
    """
    table = np.asarray(tables[min(tables)], dtype=np.float64)
    quality = np.arange(1, 101)[:, None]
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    scaled = np.clip((np.array(_LUMINANCE) * percent + 50) // 100, 1, 255)  # (100, 64)
    distance = np.abs(scaled - table).sum(axis=1)
    # Several qualities share the all-ones table; the highest of the nearest is what was asked for most likely.
    return int(100 - np.argmin(distance[::-1]))
