"""Aligned fakes: a photograph passed through an autoencoder keeps its content, size and later compression, and gains the
traces of a generator's decoder. A detector that sees both cannot use content.

Original:
    https://github.com/madebyollin/taesd (MIT; layers implemented from their description)

References:
    | Aligned Datasets Improve Detection of Latent Diffusion-Generated Images (Rajan et al., ICLR 2025)
    | https://arxiv.org/abs/2410.11835
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .augment import Pixels


class Autoencoder(Protocol):
    """What `reconstruct` needs of an autoencoder.

    Attributes:
        factor: Height and width must be multiples of it.
        encoder: (N, 3, H, W) float32 in [0, 1] -> the code, any shape.
        decoder: The code -> (N, 3, H, W) float32, about [0, 1].
    """

    @property
    def factor(self) -> int: ...
    @property
    def encoder(self) -> Callable[[Tensor], Tensor]: ...
    @property
    def decoder(self) -> Callable[[Tensor], Tensor]: ...


class _Tanh3(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    """Residual block of three 3x3 convolutions; `gated` adds a grouped 1x1 mixing step before."""

    def __init__(self, width: int, gated: bool = False) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        if gated:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(4, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def _down(width: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)


def _up(width: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, width, 3, padding=1, bias=False)]


def _blocks(width: int, gated: bool = False) -> list[nn.Module]:
    return [_Block(width, gated) for _ in range(3)]


class TAEF2(nn.Module):
    """Tiny autoencoder of FLUX.2 latents.

    Shape: (N, 3, H, W) float in [0, 1], H and W multiples of 8 -> the same; the code is (N, 32, H/8, W/8).
    """

    factor = 8

    def __init__(self) -> None:
        super().__init__()
        w = 64
        self.encoder = nn.Sequential(
            nn.Conv2d(3, w, 3, padding=1), _Block(w),
            _down(w), *_blocks(w), _down(w), *_blocks(w), _down(w), *_blocks(w, gated=True),
            nn.Conv2d(w, 32, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            _Tanh3(), nn.Conv2d(32, w, 3, padding=1), nn.ReLU(), *_blocks(w, gated=True),
            *_up(w), *_blocks(w), *_up(w), *_blocks(w), *_up(w), _Block(w),
            nn.Conv2d(w, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(self.encoder(x))
        return decoded.clamp(0, 1)


def load_taef2(folder: str | Path) -> TAEF2:
    """TAEF2 with the weights `taef2_encoder.safetensors` and `taef2_decoder.safetensors` of a folder.

    Raises:
        FileNotFoundError: A file is missing.
        RuntimeError: The tensors do not fit.
    """
    model = TAEF2().eval()
    for part in ("encoder", "decoder"):
        state = load_file(Path(folder) / f"taef2_{part}.safetensors")
        getattr(model, part).load_state_dict({key: value.float() for key, value in state.items()})
    return model


@torch.inference_mode()
def reconstruct(autoencoder: Autoencoder, pixels: Pixels, *, noise: float = 0.0, seed: int = 0) -> Pixels:
    """The aligned fake of one photograph.

    Args:
        autoencoder: See `load_taef2`.
        pixels: (H, W, 3) uint8; trailing rows and columns are dropped to multiples of the autoencoder's factor.
        noise: Standard deviation of Gaussian noise added to the code, in standard deviations of the code.
        seed: Seed of that noise.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ValueError: A side is shorter than the factor.
    """
    factor = autoencoder.factor
    h, w = (n - n % factor for n in pixels.shape[:2])
    if not h or not w:
        raise ValueError(
            f"The picture has {pixels.shape[1]}x{pixels.shape[0]} pixels; the autoencoder needs {factor} a side."
        )
    x = torch.from_numpy(pixels[:h, :w].copy()).permute(2, 0, 1)[None].float() / 255
    code = autoencoder.encoder(x)
    if noise:
        generator = torch.Generator().manual_seed(seed)
        code = code + noise * code.std() * torch.randn(code.shape, generator=generator)
    y = autoencoder.decoder(code).clamp(0, 1)[0].permute(1, 2, 0)
    return np.ascontiguousarray((y * 255).round().byte().numpy())
