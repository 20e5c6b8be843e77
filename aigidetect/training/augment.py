"""One random pipeline for both classes, and the fixed conditions of evaluation.

A file's format, JPEG quality, size and resampling history must not tell its label. So every training view, real or
generated, goes through the same sequence with the same distribution of parameters:

    native crop -> (encode) -> (resample) -> (blur, colour, noise) -> encode -> crop at a random phase -> flip

The first encoding gives also pictures that were stored losslessly a compression history; the last crop starts anywhere
in the 8x8 block grid of the last encoding. `Augment` holds the distribution and is stored with the weights.

References:
    | Fake or JPEG? Revealing Common Biases in Generated Image Detection Datasets (Grommelt et al., 2024)
    | https://arxiv.org/abs/2403.17608
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..stability import encode, vary

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB

_FILTERS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.BOX,
)


@dataclass(frozen=True)
class Augment:
    """Distribution of the training pipeline. Probabilities are in [0, 1], ranges are inclusive.

    Attributes:
        scale: Range of the resampling factor, drawn log-uniformly.
        resample: Probability that a view is resampled at all.
        first_encode: Probability of an encoding before the resampling.
        encode: Probability of an encoding after it.
        quality: Range of the JPEG quality, drawn uniformly.
        webp: Probability that an encoding is lossy WebP instead of JPEG.
        blur: Probability of a Gaussian blur; `blur_sigma` its range in pixels.
        noise: Probability of Gaussian noise; `noise_sigma` its range in grey levels of 255.
        colour: Probability of a change of brightness, contrast and saturation by up to `colour_range`.
        flip: Probability of a mirror image, and of a reflection at the diagonal.
        mirror: What happens where a picture is too small for the factor. False: the factor is raised until the picture
            fills the view. True: the picture is made as small as the factor says and then continued by reflection, which
            is what detectors do with small pictures.
        squash: The report's pipeline instead of all this: the whole picture squashed with an antialiased bilinear filter
            to 8/7 of the view's side, a random crop, and with probability `flip` a mirror image. It leaves traces of
            format and size in the view, so it is here to show what that does.
    """

    scale: tuple[float, float] = (0.4, 1.5)
    resample: float = 0.7
    first_encode: float = 0.5
    encode: float = 0.95
    quality: tuple[int, int] = (45, 98)
    webp: float = 0.15
    blur: float = 0.1
    blur_sigma: tuple[float, float] = (0.3, 1.0)
    noise: float = 0.1
    noise_sigma: tuple[float, float] = (0.5, 4.0)
    colour: float = 0.2
    colour_range: float = 0.2
    flip: float = 0.5
    mirror: bool = False
    squash: bool = False

    @property
    def equalises(self) -> bool:
        """Whether nearly every view is re-encoded, so that format and quality of the files do not reach the network as they
        are, and views are native crops of one size, so that sizes do not either."""
        return self.encode >= 0.9 and not self.squash

    def __call__(self, pixels: Pixels, size: int, rng: np.random.Generator) -> Pixels:
        """One random view.

        Args:
            pixels: (H, W, 3) uint8 RGB, any size.
            size: Side of the view in pixels.
            rng: Source of every random choice; the same state gives the same view.

        Returns:
            (size, size, 3) uint8 RGB.
        """
        # 16 pixels more than needed let the last crop start at any phase of the block grid.
        wide = size + 16
        if self.squash:
            return self._squashed(pixels, size, rng)
        factor = self._factor(rng)
        side = wide
        if factor != 1.0:
            side = min(max(8, round(wide / factor)), *pixels.shape[:2])
        image = Image.fromarray(_random_crop(pad_reflect(pixels, side), side, rng))
        if rng.random() < self.first_encode:
            image = self._encode(image, rng)
        target = min(wide, max(8, round(side * factor))) if self.mirror else wide
        if image.width != target:
            image = image.resize((target, target), _FILTERS[rng.integers(len(_FILTERS))])
        image = self._disturb(image, rng)
        if rng.random() < self.encode:
            image = self._encode(image, rng)
        view = _random_crop(pad_reflect(np.asarray(image), size), size, rng)
        if rng.random() < self.flip:
            view = view[:, ::-1]
        if rng.random() < self.flip:
            view = view.transpose(1, 0, 2)
        return np.ascontiguousarray(view)

    def _squashed(self, pixels: Pixels, size: int, rng: np.random.Generator) -> Pixels:
        side = round(size * 8 / 7)
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
        view = _random_crop(np.asarray(image), size, rng)
        return np.ascontiguousarray(view[:, ::-1]) if rng.random() < self.flip else view

    def _factor(self, rng: np.random.Generator) -> float:
        if rng.random() < self.resample:
            return float(np.exp(rng.uniform(*np.log(self.scale))))
        return 1.0

    def _disturb(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() < self.blur:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*self.blur_sigma)))
        noisy, coloured = rng.random(2) < (self.noise, self.colour)
        if not (noisy or coloured):
            return image
        x = np.asarray(image).astype(np.float32)
        if coloured:
            brightness, contrast, saturation = 1 + rng.uniform(-self.colour_range, self.colour_range, size=3)
            grey = x.mean(axis=2, keepdims=True)
            x = (grey + (x - grey) * saturation - 127.5) * contrast + 127.5 * brightness
        if noisy:
            x = x + rng.normal(0.0, rng.uniform(*self.noise_sigma), size=x.shape).astype(np.float32)
        return Image.fromarray(np.clip(np.rint(x), 0, 255).astype(np.uint8))

    def _encode(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        quality = int(rng.integers(self.quality[0], self.quality[1] + 1))
        if rng.random() < self.webp:
            return encode(image, "webp", quality)
        return encode(image, "jpeg", quality, chroma="4:2:0" if rng.random() < 0.7 else "4:4:4")


def _random_crop(pixels: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    top, left = (int(rng.integers(0, n - side + 1)) for n in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def pad_reflect(pixels: Pixels, side: int) -> Pixels:
    """Mirrors the picture to the right and downwards until both sides have at least `side` pixels.

    Args:
        pixels: (H, W, 3) uint8.
        side: Least number of rows and columns.
    """
    down, right = (max(0, side - n) for n in pixels.shape[:2])
    if not (down or right):
        return pixels
    # "symmetric" repeats the edge pixel, so it also works for a single row, and for more than one reflection.
    return np.pad(pixels, ((0, down), (0, right), (0, 0)), mode="symmetric")


# The conditions of evaluation, in the order of the tables.
CONDITIONS = ("as-is", "q96", "q90", "q75", "q50", "webp80", "half+q80", "swap")
HEADLINE_CONDITIONS = ("q96", "q75", "half+q80")


def apply_condition(image: Image.Image, condition: str, *, is_ai: bool) -> Image.Image:
    """A picture under one condition of evaluation.

    Args:
        image: RGB picture.
        condition: One of `CONDITIONS`. `qNN`: JPEG at that quality, 4:2:0; `webp80`: lossy WebP; `half+q80`: both sides
            halved (bicubic, antialiased), then JPEG 80; `swap`: generated pictures as JPEG 96, real ones unchanged,
            the reverse of the usual bias; `as-is`: unchanged.
        is_ai: The label, which only `swap` uses.

    Raises:
        ValueError: Unknown condition.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"Unknown condition {condition!r}; available: {', '.join(CONDITIONS)}.")
    if condition == "as-is" or (condition == "swap" and not is_ai):
        return image
    return vary(image, "q96" if condition == "swap" else condition)
