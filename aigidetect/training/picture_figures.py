"""Figures of the documentation from pictures: one picture's way to a verdict, and NPR residuals side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration import sigmoid
from ..detector import Detector
from ..images import load_image
from ..layers.npr import npr
from ..preprocess import Tiles
from .plotting import COLOURS, new_figure, save_png

# Residuals are small: this many times their size around middle grey can be seen, and little of them is cut off.
_MAGNIFIED = 4.0
_CROP = 64
_BLUE, _ORANGE = COLOURS[:2]


def draw_pipeline(detector: Detector, picture: str | Path, path: str | Path) -> None:
    """Writes one picture's way as PNG: tiles, NPR residuals, logits, probability and verdict.

    Args:
        detector: One whose preprocessing is `Tiles`, of at most four tiles.
        picture: The picture.
        path: File to write.

    Raises:
        ImageError: The picture does not decode.
        ModuleNotFoundError: matplotlib is missing.
        ValueError: The detector's preprocessing is another one.
    """
    tiles = detector.preprocess
    if not isinstance(tiles, Tiles) or tiles.max_tiles > 4:
        raise ValueError(f"The figure shows at most four tiles; {detector.name} sees {tiles.to_dict()}. Take npr-ms-ca.")
    pixels, _ = load_image(picture)
    record = detector.predict(picture)
    figure = new_figure(12, 3.1)
    columns = figure.subfigures(1, 5, width_ratios=[3.6, 2.2, 2.2, 2.0, 2.4])
    _draw_picture(columns[0], _shown(pixels), tiles, tiles.boxes(pixels))
    views = [pixels[:, top : top + tiles.size, left : left + tiles.size] for top, left in tiles.boxes(pixels)]
    residuals = [_residual(view) for view in views]
    _draw_grid(columns[1], [_shown(view) for view in views], f"2  views of {tiles.size} x {tiles.size} pixels")
    _draw_grid(columns[2], residuals, f"3  NPR residuals, times {_MAGNIFIED:g}")
    _draw_logits(columns[3], record.view_logits)
    _draw_verdict(columns[4], detector, record)
    save_png(figure, path)


def draw_residuals(photo: str | Path, decoded: str | Path, path: str | Path) -> None:
    """Writes two pictures, a crop of each and its NPR residuals at two scales, row by row, as PNG.

    Args:
        photo: A photograph.
        decoded: A generated picture, or the same photograph from a generator's decoder.
        path: File to write.

    Raises:
        ImageError: A picture does not decode.
        ModuleNotFoundError: matplotlib is missing.
        ValueError: A picture is smaller than the crop of 64 pixels a side.
    """
    figure = new_figure(10, 4.9)
    axes = figure.subplots(2, 4, gridspec_kw={"width_ratios": [1.5, 1, 1, 1]})
    for row, (name, source) in zip(axes, (("photograph", photo), ("from a decoder", decoded))):
        pixels, _ = load_image(source)
        if min(pixels.shape[1:]) < _CROP:
            raise ValueError(f"{source} is smaller than {_CROP} x {_CROP} pixels; take a larger picture.")
        top, left = ((side - _CROP) // 2 for side in pixels.shape[1:])
        crop = pixels[:, top : top + _CROP, left : left + _CROP]
        row[0].imshow(_shown(pixels))
        row[0].add_patch(_box(left, top, _CROP))
        row[1].imshow(_shown(crop), interpolation="nearest")
        for place, scale in zip(row[2:], (0.5, 0.25)):
            place.imshow(_residual(crop, scale), interpolation="nearest")
            size = float(npr(crop[None].float(), scale).abs().mean())
            place.set_xlabel(f"mean size {size:.1f} of 255", fontsize="small")
        row[0].set_ylabel(name)
        for place in row:
            place.set(xticks=[], yticks=[])
    titles = (
        "picture",
        f"{_CROP} x {_CROP} native pixels",
        f"NPR 0.5, times {_MAGNIFIED:g}",
        f"NPR 0.25, times {_MAGNIFIED:g}",
    )
    for place, title in zip(axes[0], titles):
        place.set_title(title, fontsize="medium")
    save_png(figure, path, dpi=90)


def _shown(pixels: Any) -> NDArray[np.uint8]:
    """(3, H, W) -> (H, W, 3), as matplotlib takes it."""
    return np.asarray(pixels.permute(1, 2, 0).numpy())


def _residual(pixels: Any, scale: float = 0.5) -> NDArray[np.uint8]:
    """(3, H, W) uint8 -> (H', W', 3) uint8: the residual around middle grey."""
    residual = npr(pixels[None].float(), scale)[0] * _MAGNIFIED + 128
    return _shown(residual.clamp(0, 255).byte())


def _box(left: int, top: int, size: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, top), size, size, fill=False, edgecolor=_ORANGE, linewidth=1.8)


def _draw_picture(part: Any, image: NDArray[np.uint8], tiles: Tiles, boxes: list[tuple[int, int]]) -> None:
    axes = part.subplots()
    axes.imshow(image)
    axes.axis("off")
    for number, (top, left) in enumerate(boxes):
        axes.add_patch(_box(left, top, tiles.size))
        axes.text(left + 8, top + 30, "abcd"[number], color="white", fontweight="bold", backgroundcolor=_ORANGE, fontsize=7)
    part.suptitle(f"1  picture, {image.shape[1]} x {image.shape[0]}", fontsize="medium")


def _draw_grid(part: Any, images: list[NDArray[np.uint8]], title: str) -> None:
    axes = np.ravel(part.subplots(2, 2))
    for number, place in enumerate(axes):
        place.axis("off")
        if number < len(images):
            place.imshow(images[number])
            place.set_title("abcd"[number], fontsize="small", pad=2)
    part.suptitle(title, fontsize="medium")


def _draw_logits(part: Any, logits: tuple[float, ...]) -> None:
    axes = part.subplots()
    mean = sum(logits) / len(logits)
    axes.barh(range(len(logits)), logits, color=[_ORANGE if value > 0 else _BLUE for value in logits], height=0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(mean, color="0.35", linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(logits)), "abcd"[: len(logits)])
    axes.invert_yaxis()
    axes.set_xlabel(f"logit; mean {mean:+.2f} (dashed)", fontsize="small")
    part.suptitle("4  network", fontsize="medium")


def _draw_verdict(part: Any, detector: Detector, record: Any) -> None:
    axes = part.subplots()
    ai_from, real_below, _ = detector.calibration.threshold()
    edges = [0, real_below, ai_from, 1]
    for low, high, colour, word in zip(edges, edges[1:], (_BLUE, "0.75", _ORANGE), ("real", "unsure", "ai")):
        axes.axhspan(low, high, color=colour, alpha=0.45, linewidth=0)
        if high > low:
            axes.text(0.95, (low + high) / 2, word, ha="right", va="center")
    logits = np.linspace(-4, 4, 200)
    calibration = detector.calibration
    curve = [sigmoid(logit / calibration.temperature + calibration.bias) for logit in logits]
    axes.plot((logits + 4) / 8, curve, color="black", linewidth=1)
    axes.plot((calibration.pooled(record.view_logits) + 4) / 8, record.probability, "o", color="black")
    axes.set_xticks([0, 0.5, 1], ["-4", "0", "4"])
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("pooled logit", fontsize="small")
    axes.set_ylabel("calibrated probability", fontsize="small")
    part.suptitle(f'5  {record.probability:.2f}: "{record.verdict}"', fontsize="medium")
