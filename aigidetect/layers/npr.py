"""Neighbouring Pixel Relationships: what is left of a picture after a nearest-neighbour round trip.

Original:
    https://github.com/chuangchuangtan/NPR-DeepfakeDetection (not copied; implemented from its description)

References:
    | Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable
    | Deepfake Detection (Tan et al., CVPR 2024)
    | https://arxiv.org/abs/2312.10461

A generator's last up-sampling ties each pixel to its neighbours. `x - up(down(x))` with nearest-neighbour resampling
keeps just these ties. Both resamplings copy pixels, and the downward one keeps the first pixel of 4 or 2, or the first three
of 4. So it is a view here, and the round trip is a single gather: bit-equal to two calls of
`torch.nn.functional.interpolate`.

Deviation: sizes that do not survive the round trip make the original fail; here trailing rows and columns are dropped
until they do (to a multiple of 2 for scale 0.5, of 4 for 0.25 and 0.75).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

# Scale -> of each period of pixels, the leading ones that survive the downward step: (how many, period).
_KEPT = {0.25: (1, 4), 0.5: (1, 2), 0.75: (3, 4)}


def crop_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Drops trailing rows and columns until both sizes are multiples of `multiple`.

    Args:
        x: Any tensor (..., H, W).
        multiple: Size unit in pixels.

    Raises:
        ValueError: H or W is smaller than `multiple`.
    """
    h, w = x.shape[-2:]
    if h < multiple or w < multiple:
        raise ValueError(
            f"NPR needs at least {multiple}x{multiple} pixels, but got {h}x{w}; pad the picture or use a larger one."
        )
    return x[..., : h - h % multiple, : w - w % multiple]


def npr(x: Tensor, scale: float = 0.5) -> Tensor:
    """Residual of the nearest-neighbour round trip at one scale, `x - up(down(x))`.

    Args:
        x: Float tensor (N, 3, H, W), already normalised.
        scale: Factor of the downward step: 0.25, 0.5 or 0.75.

    Returns:
        Tensor (N, 3, H', W') of the same dtype; H', W' are H, W less the rest of the division by 2 (scale 0.5) or 4.

    Raises:
        ValueError: Unknown scale, or a picture smaller than one period.
    """
    if scale not in _KEPT:
        raise ValueError(f"Unknown NPR scale {scale}; available scales are {sorted(_KEPT)}.")
    kept, period = _KEPT[scale]
    x = crop_to_multiple(x, period)
    h, w = x.shape[-2:]
    # In rows of one channel, whatever the memory format was: the gather is twice as fast there.
    blocks = x.contiguous().view(*x.shape[:-2], h // period, period, w // period, period)
    small = blocks[..., :kept, :, :kept].reshape(*x.shape[:-2], h // period * kept, w // period * kept)
    source = interpolate(small, size=(h, w), mode="nearest")
    if source.requires_grad:
        return x - source
    # Over the gathered copy: fresh memory would cost more than the subtraction.
    return torch.sub(x, source, out=source)


class NPR(nn.Module):
    """Single-scale NPR as the networks use it: the residual at 0.5 times 2/3 (Tan et al., 2024, equation 2).

    Input (N, 3, H, W), output (N, 3, H', W') with even H', W'.
    """

    def forward(self, x: Tensor) -> Tensor:
        # Two steps as in the original: multiplying by 2/3 at once rounds differently.
        return npr(x, 0.5) * 2.0 / 3.0
