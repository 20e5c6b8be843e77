"""Would a copy get the same verdict? A picture under light re-encodings and rescalings, as sharing it would make them.

The variants are made of the decoded pixels, so they do not depend on the format of the file. The same picture and the same
versions of Pillow and its libraries give the same variants.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .calibration import Calibration, sigmoid
from .prediction import Stability

# Those of `vary` that a picture is scored under.
VARIANTS = ("q90", "q75", "half+q80", "webp80", "0.9x")

_CODED = re.compile(r"(half\+)?(q|webp)(\d{1,3})")
_CHROMA = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
_LONGEST_SIDE = {"jpeg": 65_500, "webp": 16_383}  # in pixels, by libjpeg and by the WebP format


def encode(
    image: Image.Image,
    codec: Literal["jpeg", "webp"],
    quality: int,
    *,
    chroma: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0",
) -> Image.Image:
    """Encodes and decodes an RGB picture.

    Args:
        image: RGB picture.
        codec: Lossy codec.
        quality: 1-100, as Pillow understands it.
        chroma: Chroma subsampling of JPEG; WebP always uses 4:2:0.
    """
    buffer = io.BytesIO()
    if codec == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling=_CHROMA[chroma])
    else:
        image.save(buffer, "WEBP", quality=quality, method=0)
    return Image.open(buffer).convert("RGB")


def vary(image: Image.Image, name: str) -> Image.Image:
    """A picture as a copy of it.

    Args:
        image: RGB picture.
        name: `qNN`: JPEG at that quality, 4:2:0; `webpNN`: lossy WebP; `half+qNN`: both sides halved (bicubic, antialiased),
            then JPEG; `0.9x`: both sides scaled by 0.9 in the same way, and not encoded.

    Raises:
        ValueError: Another name.
    """
    if name == "0.9x":
        return _scaled(image, 9, 10)
    if not (match := _CODED.fullmatch(name)):
        raise ValueError(f"Unknown variant {name!r}; available: qNN, webpNN, either after half+, and 0.9x.")
    halved, codec, quality = match.groups()
    return encode(_scaled(image, 1, 2) if halved else image, "jpeg" if codec == "q" else "webp", int(quality))


def _scaled(image: Image.Image, numerator: int, denominator: int) -> Image.Image:
    width, height = (max(1, n * numerator // denominator) for n in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def variants(pixels: Tensor) -> list[Tensor]:
    """The picture under each of `VARIANTS`.

    Args:
        pixels: (3, H, W) uint8 RGB.

    Returns:
        (3, H', W') uint8 RGB each. A codec that cannot hold so long a side is left out: WebP above 16,383 pixels, JPEG above
        65,500. The rescaled picture is always among them.
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return [_pixels(vary(image, name)) for name in VARIANTS if max(image.size) <= _longest(name)]


def _longest(name: str) -> int:
    if name == "0.9x":
        return 2**31
    side = _LONGEST_SIDE["webp" if "webp" in name else "jpeg"]
    return 2 * side if name.startswith("half+") else side


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def judge(
    calibration: Calibration, own: float, view_logits: Sequence[Sequence[float]], fpr: float | None
) -> Stability | None:
    """What the variants change.

    Args:
        calibration: Of the detector.
        own: Probability of the picture as it is, in [0, 1].
        view_logits: For each variant, the logits of its views; none if the variants were not asked for.
        fpr: See `Calibration.threshold`.

    Returns:
        None without variants.
    """
    if not view_logits:
        return None
    probabilities = [own, *(sigmoid(calibration.logit(logits)) for logits in view_logits)]
    verdicts = {calibration.verdict(probability, fpr) for probability in probabilities}
    return Stability(min(probabilities), max(probabilities), len(view_logits), len(verdicts) > 1)
