"""Do heat maps point at what was generated? Pictures of which one half is a photograph and the other is generated, and how
often the generated half has the higher mean evidence.

A collage is easier than a picture that was retouched: its seam is straight, its halves are large, and each was encoded on
its own. A heat map that fails here is worth nothing; one that passes is not thereby an outline of what was generated.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..detector import Detector
from ..errors import ImageError
from ..images import load_image
from .augment import Pixels
from .calibrate import wilson
from .datasets import AI, REAL, Sample

SIDE = 224  # of a collage in pixels: small enough for a detector that looks at the centre only


@dataclass(frozen=True)
class Collage:
    """One picture of two halves.

    Attributes:
        pixels: (SIDE, SIDE, 3) uint8.
        right: Whether the generated half is the right one, else the left.
    """

    pixels: Pixels
    right: bool


@dataclass(frozen=True)
class Pointing:
    """How often the generated half had the higher mean evidence.

    Attributes:
        detector: Name and version.
        hits: Collages where it had.
        n: Collages.
        low: Lower end of the 95 % interval of `hits / n`, by Wilson.
        high: Its upper end.
    """

    detector: str
    hits: int
    n: int
    low: float
    high: float


def make_collages(samples: Sequence[Sample], count: int, *, seed: int = 0) -> list[Collage]:
    """Photographs and generated pictures in pairs, each picture in one pair only, the generated half left and right in turn.

    A half is cut from where it stands in the collage, so that the grid of a JPEG's blocks goes on over the seam.

    Args:
        samples: Labelled pictures. Those smaller than `SIDE`, and those that do not decode, are passed over.
        count: How many at most.
        seed: Of the order in which pictures are taken.

    Raises:
        ValueError: There is no pair among the samples.
    """
    rng = np.random.default_rng(seed)
    drawn = [samples[i] for i in rng.permutation(len(samples))]
    reals, fakes = (itertools.islice(_squares(drawn, label), count) for label in (REAL, AI))
    half = SIDE // 2
    collages: list[Collage] = []
    for real, fake in zip(reals, fakes):
        right = bool(len(collages) % 2)
        left_half, right_half = (real, fake) if right else (fake, real)
        collages.append(Collage(np.concatenate((left_half[:, :half], right_half[:, half:]), axis=1), right))
    if not collages:
        raise ValueError(
            f"Expected real and generated pictures of at least {SIDE} x {SIDE} pixels, but one kind is missing."
        )
    return collages


def _squares(samples: Iterable[Sample], label: int) -> Iterator[Pixels]:
    for sample in samples:
        if sample.label != label:
            continue
        with contextlib.suppress(ImageError):
            pixels = load_image(sample.path)[0].permute(1, 2, 0).numpy()
            if min(pixels.shape[:2]) >= SIDE:
                yield pixels[:SIDE, :SIDE]


def point(detector: Detector, collages: Sequence[Collage]) -> Pointing:
    """Explains every collage; places where no view looked do not count.

    Raises:
        ExplanationError: There are no heat maps of this detector.
    """
    hits = 0
    for collage in collages:
        left, right = (float(np.nanmean(half)) for half in np.split(detector.explain(collage.pixels).map, 2, axis=1))
        hits += (right > left) == collage.right and left != right
    return Pointing(detector.name, hits, len(collages), *wilson(hits, len(collages)))
