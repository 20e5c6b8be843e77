"""path | bytes | file object | PIL | array | tensor -> (3, H, W) uint8 RGB, hardened.

Policies:

    limits        bytes and pixels are checked before anything is decoded
    formats       an allow-list; the content decides, not the file's name
    damage        a file that ends early or is corrupt is an error, never half a picture
    effort        files of more frames, segments, chunks or strips than pictures need are refused before they are walked
    orientation   the EXIF orientation is applied by transposing, which moves pixels and changes none
    16 bit        scaled to 8 bit by rounding, not clipped
    alpha         composited over white
    CMYK, grey, palette, LAB, YCbCr   converted by Pillow; colour profiles are not applied
    animation     the first frame or page is scored, and the count is noted

Nothing is ever resampled here, and Pillow's fast JPEG modes are not used: both change the pixels that detectors measure.

Two kinds of damage cannot be told: bits flipped inside the compressed data of a JPEG, if they still decode to something, and
the rare cuts that `aigidetect.jpeg.read_whole` names. Of a PIL image, only Pillow's own checks are left.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.MpoImagePlugin import MpoImageFile
from torch import Tensor

from .containers import check_container
from .errors import AigidetectError, ImageError, ImageTooLarge, ImageTruncated, UnsupportedImage
from .files import check_bytes, read_file, read_object
from .jpeg import estimate_jpeg_quality, read_whole
from .prediction import ImageInfo
from .tiff import check_tiff

DEFAULT_MAX_BYTES = 256 * 2**20
DEFAULT_MAX_PIXELS = 150_000_000  # below Pillow's own limit of twice 89,478,485

# MPO is what phones write: a JPEG followed by further JPEGs. AVIF exists only in some builds of Pillow.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_TAKES = (
    "a path (str or Path), bytes, a binary file object, a PIL image, a numpy array (H, W), (H, W, 3) or (H, W, 4), or a "
    "torch tensor (3, H, W); arrays and tensors RGB, uint8 or float in [0, 1]"
)
_ORIENTATION = 0x0112
_FLIP = Image.Transpose
_TURNS = {
    2: _FLIP.FLIP_LEFT_RIGHT, 3: _FLIP.ROTATE_180, 4: _FLIP.FLIP_TOP_BOTTOM, 5: _FLIP.TRANSPOSE, 6: _FLIP.ROTATE_270,
    7: _FLIP.TRANSVERSE, 8: _FLIP.ROTATE_90,
}  # fmt: skip


def load_image(
    source: object, *, max_bytes: int = DEFAULT_MAX_BYTES, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[Tensor, ImageInfo]:
    """One input as pixels.

    Args:
        source: A path, bytes, a binary file object, a PIL image, a numpy array (H, W), (H, W, 3) or (H, W, 4), or a torch
            tensor (3, H, W) or (1, H, W). Arrays and tensors are RGB, uint8 or float in [0, 1].
        max_bytes: Largest file.
        max_pixels: Largest picture, width times height.

    Returns:
        (3, H, W) uint8 RGB, contiguous, and what decoding found and did.

    Raises:
        ImageTooLarge: Over a limit.
        ImageTruncated: The data end early or are damaged.
        UnsupportedImage: Not a picture, not in a supported format, or not a regular file.
        ImageError: The file cannot be read, or an array has a wrong shape or values out of range.
        TypeError: Any other type of input; the message lists what works.
    """
    try:
        return _load(source, max_bytes, max_pixels)
    except (AigidetectError, TypeError):
        raise
    except MemoryError as error:
        raise ImageTooLarge("The picture does not fit into memory; cut out the part that matters.") from error
    except Exception as error:
        # A file object or a tensor subclass may raise anything; a stream must survive it.
        raise ImageError(f"The input cannot be read: {type(error).__name__}: {error}") from error


def _load(source: object, max_bytes: int, max_pixels: int) -> tuple[Tensor, ImageInfo]:
    if isinstance(source, (str, os.PathLike)):
        return _decode(read_file(os.fspath(source), max_bytes), max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        check_bytes(source.nbytes if isinstance(source, memoryview) else len(source), max_bytes)
        return _decode(bytes(source), max_pixels)
    if isinstance(source, Image.Image):
        return _from_pil(source, max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Tensor):
        return _from_tensor(source, max_pixels)
    if callable(read := getattr(source, "read", None)):
        return _decode(read_object(read, max_bytes), max_pixels)
    raise TypeError(f"Expected {_TAKES}; but got {type(source).__name__}.")


def describe_source(source: object) -> str:
    """What a record calls an input: its path, or its kind in angle brackets."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    names = {Image.Image: "<PIL.Image>", np.ndarray: "<array>", Tensor: "<tensor>"}
    for kind, name in {**names, bytes: "<bytes>", bytearray: "<bytes>", memoryview: "<bytes>"}.items():
        if isinstance(source, kind):
            return name
    if hasattr(source, "read"):
        return f"<file {getattr(source, 'name', '')}>"
    return f"<{type(source).__name__}>"


def _check_pixels(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise ImageTooLarge(
            f"The picture has {width}x{height} pixels, {width * height:,} in all, the limit is {limit:,}; cut out the part "
            "that matters, at its native size, or raise max_pixels if you trust the file."
        )
    if min(width, height) < 1:
        raise ImageError(f"Expected at least one pixel, but the picture has {width}x{height}.")


def _decode(data: bytes, max_pixels: int) -> tuple[Tensor, ImageInfo]:
    if not data:
        raise ImageTruncated("The file is empty; copy or download it again.")

    def read(data: bytes) -> tuple[Tensor, ImageInfo]:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            _check_pixels(*image.size, max_pixels)
            return _convert(image, str(image.format), frames)

    with _own_errors(data):
        frames = check_tiff(data) if data[:2] in (b"II", b"MM") else check_container(data, max_pixels)
        return read_whole(data, read) if data.startswith(b"\xff\xd8") else read(data)


@contextmanager
def _own_errors(data: bytes = b"") -> Iterator[None]:
    """Translates what Pillow raises while it decodes."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so half a picture could get a score; set it to False.")
    try:
        yield
    except (AigidetectError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnsupportedImage(_unidentified(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"Pillow refuses the picture: {error}") from error
    except Exception as error:
        # Pillow's plug-ins raise whatever their parsers meet (struct.error, SyntaxError, zlib.error, ...): whatever it is,
        # the file did not decode.
        raise ImageTruncated(f"The file is damaged or ends early: {type(error).__name__}: {error}") from error


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _unidentified(data: bytes) -> str:
    start = data.lstrip()[:512].lower()
    kind = "an HTML page" if start.startswith((b"<!doctype html", b"<html")) else "not a picture in a supported format"
    return f"The content is {kind}, whatever the file is called; supported: {', '.join(_formats())}."


def _convert(image: Image.Image, format: str, frames: int | None = None) -> tuple[Tensor, ImageInfo]:
    """An opened picture -> pixels. What Pillow raises while it decodes is the caller's to translate."""
    notes: list[str] = []
    frames = getattr(image, "n_frames", 1) if frames is None else frames
    mpo = isinstance(image, MpoImageFile)  # its further pictures are previews and depth maps
    if frames > 1 and not mpo:
        notes.append(f"Only the {'current' if format == 'PIL' else 'first'} of {frames} frames is scored.")
    if image.mode != "I;16" and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        notes.append("Colours of 16 bit were cut to 8 bit by Pillow.")
    tables = getattr(image, "quantization", None) if mpo or isinstance(image, JpegImageFile) else None
    mode, found = image.mode, _orientation(image, notes)
    image.load()
    turn = _orientation(image, [])  # Pillow turns TIFF files by itself while it loads them
    rgb = _to_rgb(image, notes)
    if turn in _TURNS:
        rgb = rgb.transpose(_TURNS[turn])
    quality = estimate_jpeg_quality(tables) if tables else None
    return _planes(rgb), ImageInfo(format, rgb.width, rgb.height, mode, found, frames, quality, tuple(notes))


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # EXIF is written by anything and anyone; broken metadata do not make the pixels wrong.
        notes.append("The EXIF data are broken and were ignored.")
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _scale_deep(image, notes)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = (image.convert(mode.upper()) if mode in ("La", "RGBa") else image).convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("Transparency was composited over white.")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _planes(image: Image.Image) -> Tensor:
    """A picture of mode RGB -> (3, H, W) uint8. Channel by channel: turning (H, W, 3) round takes longer."""
    planes = torch.empty(3, image.height, image.width, dtype=torch.uint8)
    for plane, channel in zip(planes.numpy(), "RGB"):
        plane[...] = np.frombuffer(image.tobytes("raw", channel), np.uint8).reshape(plane.shape)
    return planes


def _scale_deep(image: Image.Image, notes: list[str]) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.size and np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        wrong = f"Pixels of mode {image.mode!r} have to lie between 0 and {top:g}, but these do not"
        raise UnsupportedImage(f"{wrong}; save the picture with 8 or 16 bits a channel.")
    notes.append(f"Values of mode {image.mode} were scaled to 8 bit.")
    values *= 255.0 / top  # in place, because a large picture would need gigabytes more
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8)).convert("RGB")


def _from_pil(image: Image.Image, max_pixels: int) -> tuple[Tensor, ImageInfo]:
    _check_pixels(*image.size, max_pixels)
    with _own_errors():
        return _convert(image, "PIL")


def _from_array(array: np.ndarray[Any, Any], max_pixels: int) -> tuple[Tensor, ImageInfo]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"Expected an array (H, W), (H, W, 3) or (H, W, 4), but got the shape {array.shape}.")
    _check_pixels(array.shape[1], array.shape[0], max_pixels)
    pixels = _to_bytes(array)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[1 if pixels.ndim == 2 else pixels.shape[2]]
    return _convert(Image.fromarray(pixels.squeeze(2) if mode == "L" and pixels.ndim == 3 else pixels), "array")


def _from_tensor(tensor: Tensor, max_pixels: int) -> tuple[Tensor, ImageInfo]:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ImageError(f"Expected a tensor (3, H, W) or (1, H, W), but got the shape {tuple(tensor.shape)}.")
    _check_pixels(tensor.shape[2], tensor.shape[1], max_pixels)
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    pixels = torch.from_numpy(_to_bytes(array)).expand(3, -1, -1).contiguous()
    return pixels, ImageInfo("tensor", tensor.shape[2], tensor.shape[1], "L" if len(tensor) == 1 else "RGB")


def _to_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 as it is, float from [0, 1] by rounding. The type alone decides the scale, never the values."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"Expected uint8, or float in [0, 1], but got {array.dtype}; convert it first.")
    values = array.astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ImageError("Expected float values in [0, 1], but some lie outside or are not finite; divide by 255 first?")
    return np.asarray(np.rint(values * 255), dtype=np.uint8)
