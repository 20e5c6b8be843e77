"""One input -> the views that a network sees, or the error that says why there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .errors import AigidetectError, ImageTooLarge
from .images import describe_source, load_image
from .prediction import ImageInfo
from .preprocess import Preprocess
from .stability import variants

Load = Callable[[object], tuple[Tensor, ImageInfo]]


@dataclass(frozen=True)
class Ready:
    """A decoded picture, waiting for the network."""

    source: str
    stacks: list[Tensor]  # the views (T, 3, S, S) of the picture as it is, then those of each variant
    image: ImageInfo


@dataclass(frozen=True)
class Broken:
    """An input without pixels, and the error that says why."""

    source: str
    error: Exception


def prepare(item: object, preprocess: Preprocess, *, load: Load = load_image, stability: bool = False) -> Ready | Broken:
    """Decodes and preprocesses one input.

    Args:
        item: What `load` takes.
        preprocess: (3, H, W) uint8 RGB -> (T, 3, S, S) float32.
        load: Input -> (3, H, W) uint8 RGB, and what decoding found.
        stability: Whether the variants of `aigidetect.stability` are made too.
    """
    source = describe_source(item)
    try:
        pixels, image = load(item)  # (3, H, W) uint8
        pictures = [pixels, *(variants(pixels) if stability else ())]
        return Ready(source, [preprocess(picture) for picture in pictures], image)
    except (AigidetectError, TypeError) as error:
        return Broken(source, error)
    except (MemoryError, RuntimeError) as error:
        # torch has no type of its own for this one.
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        return Broken(source, ImageTooLarge("The views do not fit into memory; cut out the part that matters."))
