"""What all figures share: matplotlib, which is an optional extra, colours, and small PNG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

# Told apart by readers with any kind of colour vision, on white (Okabe and Ito, 2008); markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def new_figure(width: float, height: float) -> Any:
    """An empty white figure, which does not touch matplotlib's global state.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        ModuleNotFoundError: matplotlib is missing; the message says how to get it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModuleNotFoundError("Figures need matplotlib: pip install 'aigidetect[plots]'.") from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save_png(figure: Any, path: str | Path, *, dpi: int = 110) -> None:
    """Writes a figure as PNG of at most 256 colours: the same figure gives the same bytes.

    White behind everything, so that it can be read on light and on dark pages.

    Args:
        figure: What `new_figure` made.
        path: File to write.
        dpi: Pixels an inch.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT).save(path, "PNG", optimize=True)
