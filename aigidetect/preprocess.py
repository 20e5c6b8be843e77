"""Pixels -> views: the (T, 3, S, S) float32 stack that a network sees. Belongs to the weights.

Three kinds, which a manifest entry names by `kind`:

    tiles        native pixels, cut into squares; with `scales` below 1 also larger squares, shrunk
    whole        the whole picture at its native size, for networks that take any; one view (1, 3, H, W)
    squash-crop  the report's: squashed to 256x256, centre 224
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RGB = tuple[float, float, float]
Region = tuple[float, float, float, float]


class Preprocess(Protocol):
    """What a Detector needs of a preprocessing."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (T, 3, S, S) float32, T >= 1; of `Whole`, (1, 3, H, W)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready facts from which `from_dict` makes an equal object."""
        ...


@runtime_checkable
class Located(Protocol):
    """What a heat map needs of a preprocessing besides."""

    def regions(self, pixels: Tensor) -> list[Region]:
        """(top, left, bottom, right) of each view of (3, H, W) pixels, in view order, in pixels of the picture.

        They may reach beyond it where the picture was continued.
        """
        ...


def normalise(pixels: Tensor, mean: RGB = IMAGENET_MEAN, std: RGB = IMAGENET_STD) -> Tensor:
    """`(pixels / 255 - mean) / std` per channel.

    Args:
        pixels: (..., 3, H, W) uint8 RGB.
        mean: Mean of each channel, on the scale 0-1.
        std: Standard deviation of each channel, on the scale 0-1.

    Returns:
        Tensor of the same shape, float32.
    """
    shift = pixels.new_tensor(mean, dtype=torch.float32)[:, None, None]
    scale = pixels.new_tensor(std, dtype=torch.float32)[:, None, None]
    return pixels.float().div_(255.0).sub_(shift).div_(scale)


def pad_to(pixels: Tensor, size: int) -> Tensor:
    """Mirrors a picture to the right and downwards until both sides have at least `size` pixels.

    Mirroring keeps native pixels and their neighbours; enlarging would add the very traces that detectors look for.

    Args:
        pixels: (3, H, W), H, W >= 1.
        size: Least number of rows and columns.
    """
    h, w = pixels.shape[-2:]
    if h < size:
        pixels = pixels.index_select(-2, _mirror_index(h, size, pixels.device))
    if w < size:
        pixels = pixels.index_select(-1, _mirror_index(w, size, pixels.device))
    return pixels


def _mirror_index(n: int, size: int, device: torch.device) -> Tensor:
    position = torch.arange(size, device=device) % (2 * n)  # edge pixels are repeated, so one pixel is enough
    return torch.minimum(position, 2 * n - 1 - position)


@dataclass(frozen=True)
class Tiles:
    """Square tiles of native pixels.

    A picture up to `max_tiles` tiles large is covered from edge to edge by an even, slightly overlapping grid. A larger
    one gets `max_tiles` of them: spread evenly over the picture (`choose="spread"`) or, of a gapless grid, those with the
    most texture (`"texture"`). So the cost is bounded, whatever the size. A picture smaller than a tile is mirrored at its
    right and lower edge.

    Attributes:
        size: Side of a view in pixels.
        max_tiles: Most tiles a picture is cut into, at each scale.
        choose: Which tiles of a large picture.
        scales: For each of them the picture is cut anew. At 1, which has to be among them, views are native pixels; below it
            they are tiles of `round(size / scale)` pixels, shrunk (bicubic, antialiased), which show more of the picture. A
            picture with a side shorter than `size` is cut at 1 only: more of it there is not.
        mean: Normalisation, see `normalise`.
        std: Normalisation, see `normalise`.
    """

    kind: ClassVar[str] = "tiles"
    size: int = 224
    max_tiles: int = 9
    choose: Literal["spread", "texture"] = "spread"
    scales: tuple[float, ...] = (1.0,)
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size < 4 or self.max_tiles < 1 or self.choose not in ("spread", "texture"):
            raise ValueError(
                f"Expected size >= 4, max_tiles >= 1 and choose 'spread' or 'texture', but got {self.size}, "
                f"{self.max_tiles} and {self.choose!r}."
            )
        if 1 not in self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"Expected scales above 0 and up to 1, and 1 among them, but got {self.scales}.")

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of each tile of a padded picture's even grid, row by row; all of them for `"texture"`."""
        rows, columns = (max(1, math.ceil(n / self.size)) for n in (height, width))
        while self.choose == "spread" and rows * columns > self.max_tiles:
            if rows >= columns:
                rows -= 1
            else:
                columns -= 1
        return [(top, left) for top in self._starts(height, rows) for left in self._starts(width, columns)]

    def _starts(self, length: int, count: int) -> list[int]:
        free = max(0, length - self.size)
        if count == 1:
            return [free // 2]
        return [free * i // (count - 1) for i in range(count)]

    def boxes(self, pixels: Tensor) -> list[tuple[int, int]]:
        """(top, left) of each tile at the scale 1, in view order, in pixels of the padded picture."""
        pixels = pad_to(pixels, self.size)
        corners = self.corners(*pixels.shape[-2:])
        if len(corners) <= self.max_tiles:
            return corners
        texture = [_texture(pixels[:, top : top + self.size, left : left + self.size]) for top, left in corners]
        best = sorted(range(len(corners)), key=lambda i: (-texture[i], i))[: self.max_tiles]
        return [corners[i] for i in sorted(best)]

    def __call__(self, pixels: Tensor) -> Tensor:
        views = []
        for cut in self._cuts(pixels):
            padded, side = pad_to(pixels, cut.size), cut.size
            tiles = [padded[:, top : top + side, left : left + side] for top, left in cut.boxes(padded)]
            views += tiles if side == self.size else [_resized(tile, self.size) for tile in tiles]
        return normalise(torch.stack(views), self.mean, self.std)

    def regions(self, pixels: Tensor) -> list[Region]:
        """See `Located`."""
        return [
            (top, left, top + cut.size, left + cut.size) for cut in self._cuts(pixels) for top, left in cut.boxes(pixels)
        ]

    def _cuts(self, pixels: Tensor) -> list[Tiles]:
        scales = self.scales if min(pixels.shape[-2:]) >= self.size else (1.0,)
        return [dataclasses.replace(self, size=round(self.size / scale), scales=(1.0,)) for scale in scales]

    def to_dict(self) -> dict[str, Any]:
        facts = {"kind": self.kind, **dataclasses.asdict(self)}
        if self.scales == (1.0,):
            del facts["scales"]  # so that older packages read it too
        return facts


def _resized(pixels: Tensor, size: int) -> Tensor:
    """(3, H, W) uint8 -> (3, size, size) uint8, as Pillow does it (bicubic, antialiased), on every machine alike."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    resized = np.array(image.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized).permute(2, 0, 1)


def _texture(tile: Tensor) -> float:
    green = tile[1].to(torch.int16)
    return float((green[:, 1:] - green[:, :-1]).abs().float().mean() + (green[1:] - green[:-1]).abs().float().mean())


@dataclass(frozen=True)
class Whole:
    """The whole picture at its native size: one view (1, 3, H, W), for networks that take any size.

    A picture with a side shorter than `min_size` is mirrored there at both edges, evenly, the odd pixel at the right or
    lower one; edge pixels are not repeated. Views of different sizes do not go through the network together, and a view
    takes 12 bytes for each pixel.

    Attributes:
        min_size: Least number of rows and columns.
        mean: Normalisation, see `normalise`. The default leaves [0, 1], for networks that normalise by themselves.
        std: Normalisation, see `normalise`.
    """

    kind: ClassVar[str] = "whole"
    min_size: int = 224
    mean: RGB = (0.0, 0.0, 0.0)
    std: RGB = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.min_size < 1:
            raise ValueError(f"Expected min_size >= 1, but got {self.min_size}.")

    def __call__(self, pixels: Tensor) -> Tensor:
        for dimension in (-2, -1):
            if (n := pixels.shape[dimension]) < self.min_size:
                pixels = pixels.index_select(dimension, _reflection_index(n, self.min_size, pixels.device))
        return normalise(pixels[None], self.mean, self.std)

    def regions(self, pixels: Tensor) -> list[Region]:
        """See `Located`."""
        height, width = pixels.shape[-2:]
        top, left = (-(max(0, self.min_size - n) // 2) for n in (height, width))
        return [(top, left, top + max(height, self.min_size), left + max(width, self.min_size))]

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **dataclasses.asdict(self)}


def _reflection_index(n: int, size: int, device: torch.device) -> Tensor:
    period = max(1, 2 * n - 2)
    position = (torch.arange(size, device=device) - (size - n) // 2) % period
    return torch.minimum(position, period - position) if n > 1 else position


@dataclass(frozen=True)
class SquashCrop:
    """The report's preprocessing: squashed to a square with an antialiased bilinear filter, then the centre.

    It destroys the native neighbour relations and writes the original size into the pixels; it is here to run the
    report's checkpoints, not for new ones.

    Attributes:
        resize: Side in pixels after squashing.
        crop: Side in pixels of the centre crop.
        mean: Normalisation, see `normalise`.
        std: Normalisation, see `normalise`.
    """

    kind: ClassVar[str] = "squash-crop"
    resize: int = 256
    crop: int = 224
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 4 <= self.crop <= self.resize:
            raise ValueError(f"Expected 4 <= crop <= resize, but got crop {self.crop} and resize {self.resize}.")

    def __call__(self, pixels: Tensor) -> Tensor:
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        squashed = np.array(image.resize((self.resize, self.resize), Image.Resampling.BILINEAR))
        start = (self.resize - self.crop) // 2
        centre = squashed[start : start + self.crop, start : start + self.crop]
        return normalise(torch.from_numpy(centre).permute(2, 0, 1)[None], self.mean, self.std)

    def regions(self, pixels: Tensor) -> list[Region]:
        """See `Located`."""
        height, width = pixels.shape[-2:]
        start = (self.resize - self.crop) // 2
        first, last = start / self.resize, (start + self.crop) / self.resize
        return [(first * height, first * width, last * height, last * width)]

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **dataclasses.asdict(self)}


_KINDS: dict[str, type[Tiles] | type[Whole] | type[SquashCrop]] = {
    "tiles": Tiles,
    "whole": Whole,
    "squash-crop": SquashCrop,
}


def from_dict(facts: Mapping[str, Any]) -> Preprocess:
    """Inverse of `to_dict`.

    Raises:
        ValueError: Unknown kind, unknown option, or an option out of its range.
    """
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"Unknown preprocessing {kind!r}; available: {', '.join(_KINDS)}.")
    known = {field.name for field in dataclasses.fields(_KINDS[kind])}
    if unknown := options.keys() - known:
        raise ValueError(f"Preprocessing {kind!r} has no option {sorted(unknown)}; it has {sorted(known)}.")
    return _KINDS[kind](**options)
