"""Which places of a picture a score comes from: evidence of each view -> a map over the picture.

How a network explains itself is written in the file of its architecture, as the method `evidence` of `Explainable`. Here its
maps are laid over the picture; where several views looked, their mean counts.

A map tells what moved this detector. It is no mask of what was generated: networks look at small traces, which may be
concentrated in one place of a picture that was generated as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .calibration import Calibration
from .errors import ExplanationError
from .layers.npr import npr
from .preprocess import Located, Preprocess, Region

# Evidence from which on a colour has its full strength, in logits: a probability of 0.98.
_STRONGEST = 4.0
_AI, _REAL = (235, 60, 20), (30, 110, 240)  # orange and blue, which colour-blind readers can tell apart
_UNSEEN = 0.35  # brightness of places where no view looked

Evidence = Callable[[Tensor], Tensor]
Regions = Callable[[Tensor], list[Region]]


@runtime_checkable
class Explainable(Protocol):
    """What a network has besides `forward` if it can say where a logit comes from."""

    def evidence(self, x: Tensor) -> Tensor:
        """Evidence of each place of a view: (N, 3, H, W) -> (N, h, w), any h and w, which cover the view evenly.

        In logits: above 0 speaks for "AI-generated". NaN where the network does not look.
        """
        ...


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where a score comes from.

    Attributes:
        map: (H, W) float32, in pixels of the picture after its EXIF orientation was applied. Calibrated logits: above 0
            speaks for "AI-generated", below 0 against it. NaN where no view looked.
        pixels: (H, W, 3) uint8 RGB, the picture.
    """

    map: NDArray[np.float32]
    pixels: NDArray[np.uint8]

    @property
    def energy(self) -> NDArray[np.float32]:
        """What the NPR residual at scale 0.5 holds: (H, W) float32 >= 0, mean over the channels of its squares.

        Of the pixels in [0, 1], whichever network scored them; see `aigidetect.layers.npr`. NaN in a last odd row or column,
        which NPR drops.
        """
        energy = np.full(self.map.shape, np.nan, np.float32)
        if min(energy.shape) > 1:
            residual = npr(torch.from_numpy(self.pixels).permute(2, 0, 1)[None].float() / 255)[0]
            energy[: residual.shape[1], : residual.shape[2]] = residual.square().mean(dim=0).numpy()
        return energy

    def overlay(self, *, longest: int | None = None) -> Image.Image:
        """The picture in grey, orange where the evidence speaks for "AI-generated" and blue where it speaks against it.

        The colours have the same scale for every picture: they are full from a logit of 4, a probability of 0.98, on. Places
        where no view looked are dark.

        Args:
            longest: Most pixels a side, for which the overlay is made smaller; None keeps the size of the picture.
        """
        image, evidence = Image.fromarray(self.pixels), self.map
        if longest is not None and longest < max(image.size):
            scale = longest / max(image.size)
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
            rows, columns = (np.arange(m) * n // m for m, n in zip(image.size[::-1], evidence.shape))
            evidence = evidence[rows][:, columns]
        unseen = np.isnan(evidence)
        grey = np.asarray(image.convert("L")) * np.where(unseen, np.float32(_UNSEEN), np.float32(1))
        share = np.minimum(np.abs(np.nan_to_num(evidence)) / _STRONGEST, 1) * np.float32(0.65)
        mixed = np.empty((*evidence.shape, 3), np.uint8)
        for channel, (ai, real) in enumerate(zip(_AI, _REAL)):
            mixed[..., channel] = np.rint(grey * (1 - share) + np.where(evidence > 0, ai, real) * share)
        return Image.fromarray(mixed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `overlay()` as a picture; the suffix of the path says in which format."""
        self.overlay().save(path)


def find_explainers(network: nn.Module, preprocess: Preprocess) -> tuple[Evidence, Regions]:
    """What heat maps are made with: `evidence` of the network and `regions` of the preprocessing.

    Raises:
        ExplanationError: There are none.
    """
    if not isinstance(network, Explainable):
        raise ExplanationError(
            f"There is no heat map of {type(network).__name__}: it does not say what each place of a picture contributes. "
            "Use another detector, such as npr-ms-ca, or give your own network a method evidence(views)."
        )
    if not isinstance(preprocess, Located):
        raise ExplanationError(
            f"There is no heat map behind {type(preprocess).__name__}: it does not say where its views lie. Give it a "
            "method regions(pixels), as aigidetect.Tiles has."
        )
    return network.evidence, preprocess.regions


def make_explanation(
    pixels: Tensor, evidence: Sequence[Tensor], regions: Sequence[Region], calibration: Calibration
) -> Explanation:
    """Lays the evidence of all views over the picture.

    Args:
        pixels: (3, H, W) uint8 RGB.
        evidence: For each view, (h, w) float in logits.
        regions: Where the views lie, see `aigidetect.preprocess.Located`.
        calibration: Whose temperature and bias make the evidence calibrated logits.
    """
    total = torch.zeros(pixels.shape[-2:])
    looks = torch.zeros(pixels.shape[-2:])
    for found, (top, left, bottom, right) in zip(evidence, regions, strict=True):
        down, rows = _cover(top, bottom, total.shape[0], found.shape[0])
        across, columns = _cover(left, right, total.shape[1], found.shape[1])
        piece = found.float().cpu()[rows][:, columns]
        total[down, across] += piece.nan_to_num(0.0)
        looks[down, across] += ~piece.isnan()
    # 0 / 0 is NaN, which marks what nobody looked at.
    calibrated = total / looks / calibration.temperature + calibration.bias
    return Explanation(_array(calibrated), _array(pixels.permute(1, 2, 0)))


def _cover(start: float, end: float, length: int, cells: int) -> tuple[slice, Tensor]:
    """The pixels of `length` that lie between `start` and `end`, and for each the nearest of `cells` even cells."""
    first, last = max(0, round(start)), min(length, round(end))
    place = (torch.arange(first, last) + 0.5 - start) / (end - start) * cells
    return slice(first, last), place.long().clamp(0, cells - 1)


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.contiguous().numpy()
    return array
