"""What Pillow does not say of a JPEG: whether its data are all there, and which quality it was saved with.

References:
    | Digital compression and coding of continuous-tone still images (ITU-T T.81, 1992)
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from .errors import ImageTruncated

# A marker is 0xFF and a byte that is neither stuffing (00), a fill byte (FF) nor a restart (D0-D7).
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


def find_end(data: bytes) -> int:
    """Offset of the end marker of the first picture in a JPEG file, -1 if it is missing (annex B)."""
    position = 0
    while match := _MARKER.search(data, position):
        marker = match[1][0]
        if marker == 0xD9:
            return match.start()
        # Segments are skipped by their length, so that thumbnails inside them do not count.
        alone = marker in (0xD8, 0x01)
        position = match.end() if alone else match.end() + max(2, int.from_bytes(data[match.end() : match.end() + 2], "big"))
    return -1


def check_whole(data: bytes, image: Image.Image) -> None:
    """Refuses a JPEG whose compressed data are not all there. Bytes after its end are fine: phones append pictures there.

    libjpeg fills what is missing with grey and does not always say so, for instance where a file that was cut off got an end
    marker. So where that may have happened, the file is decoded again with other bytes before its end
    marker: they change a picture that is still waiting for data, and none that is complete. It may have happened where the
    last block is flat, and in any progressive file. Not found are files cut within the last block, or, progressive ones,
    exactly between two scans.

    Args:
        data: The file.
        image: The same file, decoded.

    Raises:
        ImageTruncated: The end marker or some of the compressed data are missing.
    """
    end = find_end(data)
    if end < 0:
        raise ImageTruncated("The JPEG ends before its end marker; copy or download the file again.")
    left, top = ((n - 1) // 8 * 8 for n in image.size)
    low, high = image.crop((left, top, *image.size)).convert("L").getextrema()
    if high - low > 2 and not image.info.get("progressive"):  # type: ignore[operator]
        return
    with Image.open(io.BytesIO(data[:end] + b"\x5a" * 64 + data[end:]), formats=("JPEG",)) as other:
        if not np.array_equal(np.asarray(other), np.asarray(image)):
            raise ImageTruncated("The JPEG's compressed data end before the last row; copy or download the file again.")


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
