"""Low and high frequencies of a picture: two discs in the Fourier domain, and the filter that they make.

Original:
    https://github.com/mever-team/spai (not copied; implemented from its description)

References:
    | Any-Resolution AI-Generated Image Detection by Spectral Learning (Karageorgiou et al., CVPR 2025)
    | https://arxiv.org/abs/2411.19417
    | Masked Frequency Modeling for Self-Supervised Visual Pre-Training (Xie et al., ICLR 2023)
    | https://arxiv.org/abs/2206.07706

Masks are in the order of `torch.fft.fftshift`: frequency 0 has the index S / 2 on both axes. MFM's disc is centred there.
SPAI's is centred between the indices S / 2 - 1 and S / 2, half a bin off, so that a filtered picture gets an imaginary part,
which is dropped. The same weights give other logits under the other disc.

Deviation: the original transforms the whole spectrum, twice. Dropping the imaginary part equals filtering with the mean of
the mask and its reflection at frequency 0, which real transforms of half the spectrum can do; and what is not low is high.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def centred_disc(size: int, radius: float) -> Tensor:
    """MFM's mask: 1 where the distance from frequency 0 is less than `radius`, else 0.

    Args:
        size: Side S of the picture in pixels, even.
        radius: In frequency bins.

    Returns:
        (S, S) float32.

    Raises:
        ValueError: Odd size.
    """
    return _disc(torch.arange(_even(size), dtype=torch.float32) - size // 2, radius)


def doubled_disc(size: int, radius: float) -> Tensor:
    """SPAI's mask: a quadrant of a disc, mirrored at both axes, so that the middle row and column are there twice.

    Args:
        size: Side S of the picture in pixels, even.
        radius: In frequency bins.

    Returns:
        (S, S) float32 of 0 and 1, centred half a bin before frequency 0.

    Raises:
        ValueError: Odd size.
    """
    rising = torch.arange(_even(size) // 2, dtype=torch.float32)
    return _disc(torch.cat((rising.flip(0), rising)), radius)


def _disc(coordinates: Tensor, radius: float) -> Tensor:
    squares = coordinates.square()
    return (squares[:, None] + squares[None, :] < radius**2).float()


def _even(size: int) -> int:
    if size < 2 or size % 2:
        raise ValueError(f"Expected an even size in pixels, but found {size}; crop one row and column.")
    return size


def symmetric(mask: Tensor) -> Tensor:
    """Mean of a mask and its reflection at frequency 0: what the mask does to the real part of a filtered picture.

    Args:
        mask: (S, S) float, S even.

    Returns:
        (S, S) float of the same type.
    """
    # Index i belongs to the frequency i - S / 2, and index (S - i) mod S to its opposite.
    return (mask + mask.flip(0, 1).roll((1, 1), (0, 1))) / 2


def half_plane(mask: Tensor) -> Tensor:
    """A mask as factors for `torch.fft.rfft2`: symmetric, frequency 0 first, and without the redundant columns.

    Args:
        mask: (S, S) float, S even.

    Returns:
        (S, S / 2 + 1) float of the same type.
    """
    first: Tensor = torch.fft.ifftshift(symmetric(mask))
    return first[:, : len(mask) // 2 + 1].contiguous()


def spectral_filter(x: Tensor, factors: Tensor) -> Tensor:
    """Real part of the inverse Fourier transform of a picture's masked spectrum.

    Args:
        x: Float tensor (..., S, S), in any range.
        factors: (..., S, S / 2 + 1), see `half_plane`.

    Returns:
        Tensor of the shape and type of `x`; the transforms run in float32 at least.
    """
    spectrum = torch.fft.rfft2(x.to(torch.promote_types(x.dtype, torch.float32)))
    filtered: Tensor = torch.fft.irfft2(spectrum * factors, s=x.shape[-2:])
    return filtered.to(x.dtype)


class FrequencySplit(nn.Module):
    """Splits pictures into low and high frequencies; their sum is the picture.

    Args:
        mask: (S, S) float of 0 and 1; 1 marks a low frequency.

    Shape: (N, 3, S, S) -> two tensors (N, 3, S, S), low and high; neither is clamped to the range of the input.
    """

    factors: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", half_plane(mask), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = spectral_filter(x, self.factors)
        return low, x - low
