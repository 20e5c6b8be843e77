"""Masked frequency modelling (MFM): the pre-training of SPAI's backbone, which needs no labels.

Original:
    https://github.com/Jiahao000/MFM (not copied; implemented from its description)

References:
    | Masked Frequency Modeling for Self-Supervised Visual Pre-Training (Xie et al., ICLR 2023)
    | https://arxiv.org/abs/2206.07706

Either the low or the high frequencies of a picture are removed, and the network restores the picture. The authors pre-train
on ImageNet-1k: 300 epochs, the first 20 of them warm-up, AdamW with betas 0.9 and 0.95 and weight decay 0.05, learning rate
3e-4 times batch size / 512, gradients clipped to the norm 3, views of 224 pixels cut out of 20 to 100 % of the picture's
area, half of them mirrored.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..layers.mfm_vit import EPSILON, MFMViT, initialise
from ..layers.spectral import centred_disc, half_plane, spectral_filter

Reduction = Literal["normal", "masked"]
_FLOOR = 1e-12  # under the square root, whose slope at 0 is infinite


def draw_masks(count: int, size: int = 224, radius: float = 16, *, generator: torch.Generator | None = None) -> Tensor:
    """For each picture, by a fair coin, the mask that keeps its low frequencies or the one that keeps the others.

    Args:
        count: Number of pictures N.
        size: Side S of a picture in pixels, even.
        radius: Of the low frequencies, in bins.
        generator: Source of the coin flips, on the CPU; None means PyTorch's own.

    Returns:
        (N, S, S) float32: 1 where a frequency is kept, in the order of `aigidetect.layers.spectral.centred_disc`.

    Raises:
        ValueError: Odd size.
    """
    low = centred_disc(size, radius)
    keeps_low = torch.rand(count, generator=generator) < 0.5
    return torch.where(keeps_low[:, None, None], low, 1 - low)


def corrupt(x: Tensor, masks: Tensor) -> Tensor:
    """Removes frequencies of pictures.

    Args:
        x: (N, 3, S, S) float in [0, 1], not normalised.
        masks: (N, S, S), see `draw_masks`.

    Returns:
        (N, 3, S, S), clamped to [0, 1]; to be normalised for the network.
    """
    factors = torch.stack([half_plane(mask) for mask in masks.to(x.device)])
    return spectral_filter(x, factors[:, None]).clamp(0, 1)


def spectral_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Distance of two pictures in every frequency, `|F(prediction) - F(target)|` with the orthonormal F (gamma = 1).

    Args:
        prediction: (N, 3, S, S).
        target: (N, 3, S, S).

    Returns:
        (N, 3, S, S) in the order of `aigidetect.layers.spectral.centred_disc`.
    """
    spectrum = torch.fft.fft2(prediction.float() - target.float(), norm="ortho")
    distance = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + _FLOOR)
    shifted: Tensor = torch.fft.fftshift(distance, dim=(-2, -1))
    return shifted


def mfm_loss(prediction: Tensor, target: Tensor, masks: Tensor, *, reduction: Reduction = "masked") -> Tensor:
    """Mean distance of restored pictures to the originals in the frequency domain.

    Args:
        prediction: (N, 3, S, S), restored.
        target: (N, 3, S, S), the originals, normalised.
        masks: (N, S, S), see `draw_masks`.
        reduction: `"masked"`, the setting of MFM's ViT-B, is the mean over removed frequencies; `"normal"` that over all.

    Returns:
        Scalar.

    Raises:
        ValueError: Unknown reduction.
    """
    if reduction not in ("normal", "masked"):
        raise ValueError(f"Unknown reduction {reduction!r}; use 'normal' or 'masked'.")
    distance = spectral_distance(prediction, target)
    if reduction == "normal":
        return distance.mean()
    removed = 1 - masks.to(distance)
    return (distance * removed[:, None]).sum() / (removed.sum() * distance.shape[1])


class MaskedFrequencyModel(nn.Module):
    """Restores pictures: the backbone, a layer norm, and a linear decoder of each patch.

    `encoder.state_dict()` is that of the attribute `backbone` of `aigidetect.models.spai.build()`.

    Args:
        width, blocks, heads: See `MFMViT`; the defaults are those of ViT-B/16.
        patch: Side of a patch in pixels.
        image_size: Side S of a picture in pixels, a multiple of `patch`.

    Shape: (N, 3, S, S) with frequencies removed -> (N, 3, S, S) restored, both normalised.
    """

    def __init__(
        self, *, width: int = 768, blocks: int = 12, heads: int = 12, patch: int = 16, image_size: int = 224
    ) -> None:
        super().__init__()
        self.side = image_size // patch
        self.encoder = MFMViT(width=width, blocks=blocks, heads=heads, patch=patch, image_size=image_size)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.decoder = nn.Conv2d(width, 3 * patch**2, kernel_size=1)
        self.shuffle = nn.PixelShuffle(patch)
        initialise(self.decoder)

    def features(self, x: Tensor) -> Tensor:
        """What the decoder reads: (N, 3, S, S) -> (N, D, S / patch, S / patch)."""
        tokens: Tensor = self.norm(self.encoder(x))[:, 1:]  # (N, L, D)
        return tokens.mT.reshape(len(x), -1, self.side, self.side)

    def forward(self, x: Tensor) -> Tensor:
        restored: Tensor = self.shuffle(self.decoder(self.features(x)))
        return restored
