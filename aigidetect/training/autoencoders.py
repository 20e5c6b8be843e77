"""Small autoencoders of our own: many different decoders, each with traces of its own, trained in minutes.

One generator's decoder teaches a detector that decoder. The configurations differ in what is known to leave traces: the
up-sampler, the factor, the kind of code and the loss. Three are kept for validation, so that a choice is made on decoders
that no detector was trained on.

    encoder    conv 4x4 stride 2, residual blocks, ... -> code
    decoder    code -> residual blocks, up-sampler x2, ... -> conv 3x3 -> pixels

References:
    | Watch your Up-Convolution: CNN Based Generative Deep Neural Networks are Failing to Reproduce Spectral Distributions
    | (Durall et al., CVPR 2020): traces of up-samplers, and the idea of a spectral loss
    | https://arxiv.org/abs/2003.01826
    | Finite Scalar Quantization: VQ-VAE Made Simple (Mentzer et al., ICLR 2024): the code `vq`
    | https://arxiv.org/abs/2309.15505
    | Auto-Encoding Variational Bayes (Kingma and Welling, ICLR 2014): the code `kl`
    | https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .augment import Pixels, pad_reflect

log = logging.getLogger(__name__)

Up = Literal["nearest", "bilinear", "transposed", "pixelshuffle"]
Code = Literal["plain", "kl", "vq"]
Loss = Literal["l1", "l1+spectral"]
_CROP, _BATCH, _LEARNING_RATE, _KL_WEIGHT, _LEVELS = 96, 16, 2e-3, 1e-4, 4


@dataclass(frozen=True)
class AutoencoderConfig:
    """What tells one autoencoder from another.

    Attributes:
        name: Short name; part of the source's name in a data set.
        factor: Down-sampling factor, 2, 4 or 8.
        width: Channels at half resolution; twice as many below.
        depth: Residual blocks at each resolution, in encoder and decoder.
        up: Up-sampler of the decoder.
        code: `"plain"`, `"kl"` (Gaussian, with noise while training) or `"vq"` (each channel rounded to one of 4 levels).
        channels: Channels of the code.
        loss: Mean absolute difference of the pixels, with or without that of the spectrum's amplitudes.
        validation_only: Kept for validation; no training data are made with it.
    """

    name: str
    factor: int = 4
    width: int = 24
    depth: int = 1
    up: Up = "nearest"
    code: Code = "plain"
    channels: int = 8
    loss: Loss = "l1"
    validation_only: bool = False

    def __post_init__(self) -> None:
        known = {"factor": (2, 4, 8), "up": get_args(Up), "code": get_args(Code), "loss": get_args(Loss)}
        for field, values in known.items():
            if getattr(self, field) not in values:
                raise ValueError(
                    f"Expected {field} of {self.name!r} to be one of {values}, but got {getattr(self, field)!r}."
                )
        if min(self.width, self.depth, self.channels) < 1:
            raise ValueError(f"Expected width, depth and channels of at least 1, but got {self}.")


CONFIGS = {
    config.name: config
    for config in (
        AutoencoderConfig("nearest-4", 4),
        AutoencoderConfig("nearest-8-kl", 8, width=32, code="kl", channels=16),
        AutoencoderConfig("nearest-2-vq", 2, width=16, code="vq", channels=4),
        AutoencoderConfig("bilinear-4-kl", 4, up="bilinear", code="kl", loss="l1+spectral"),
        AutoencoderConfig("bilinear-8-vq", 8, up="bilinear", width=32, code="vq", channels=24),
        AutoencoderConfig("transposed-4-vq", 4, up="transposed", code="vq", channels=12),
        AutoencoderConfig("transposed-8", 8, up="transposed", width=32, channels=24, loss="l1+spectral"),
        AutoencoderConfig("pixelshuffle-4", 4, up="pixelshuffle", depth=2, loss="l1+spectral"),
        AutoencoderConfig("pixelshuffle-2-kl", 2, up="pixelshuffle", width=16, code="kl", channels=4),
        AutoencoderConfig("transposed-2", 2, up="transposed", width=16, channels=4, validation_only=True),
        AutoencoderConfig("pixelshuffle-8-vq", 8, up="pixelshuffle", width=32, code="vq", channels=24, validation_only=True),
        AutoencoderConfig("bilinear-4-deep", 4, up="bilinear", width=16, depth=2, channels=12, validation_only=True),
    )
}


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.body(x)
        return x + added


def _upsampler(up: Up, inputs: int, outputs: int) -> nn.Module:
    if up == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    if up == "pixelshuffle":
        return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2))
    return nn.Sequential(nn.Upsample(scale_factor=2, mode=up), nn.Conv2d(inputs, outputs, 3, padding=1))


class SmallAutoencoder(nn.Module):
    """One autoencoder of the family; an `aligned.Autoencoder`.

    Shape: (N, 3, H, W) float in [0, 1], H and W multiples of the factor -> the same, not clamped.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config, self.factor = config, config.factor
        stages = int(math.log2(config.factor))
        # Channels at full resolution, at a half, at a quarter, ...
        widths = [max(8, config.width // 2), config.width, *[2 * config.width] * (stages - 1)]
        down: list[nn.Module] = []
        for inputs, outputs in zip([3, *widths[1:]], widths[1:]):
            down += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), *self._blocks(outputs)]
        self.down = nn.Sequential(*down)
        self.to_code = nn.Conv2d(widths[-1], config.channels * (2 if config.code == "kl" else 1), 3, padding=1)
        up: list[nn.Module] = [nn.Conv2d(config.channels, widths[-1], 3, padding=1)]
        for inputs, outputs in zip(widths[:0:-1], widths[-2::-1]):
            up += [*self._blocks(inputs), nn.SiLU(), _upsampler(config.up, inputs, outputs)]
        self.up = nn.Sequential(*up, nn.SiLU(), nn.Conv2d(widths[0], 3, 3, padding=1))

    def _blocks(self, width: int) -> list[nn.Module]:
        return [_Residual(width) for _ in range(self.config.depth)]

    def encoder(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, channels, H/factor, W/factor), before rounding and without noise."""
        code: Tensor = self.to_code(self.down(2 * x - 1))
        return code[:, : self.config.channels]

    def decoder(self, code: Tensor) -> Tensor:
        """(N, channels, H/factor, W/factor) -> (N, 3, H, W), about [0, 1]."""
        if self.config.code == "vq":
            bounded = torch.tanh(code) * (_LEVELS / 2)
            # Rounded forwards, the identity backwards. An even number of levels: with one at zero, the small codes of an
            # untrained encoder would all become zero, and the decoder would learn nothing from them.
            levels = (bounded.floor() + 0.5).clamp(0.5 - _LEVELS / 2, _LEVELS / 2 - 0.5)
            code = bounded + (levels - bounded).detach()
        decoded: Tensor = self.up(code)
        return decoded / 2 + 0.5

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A training pass: the decoded pictures (N, 3, H, W) and the code's penalty, a scalar."""
        if self.config.code != "kl":
            return self.decoder(self.encoder(x)), x.new_zeros(())
        mean, log_variance = self.to_code(self.down(2 * x - 1)).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-20, 10)
        penalty = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return self.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean)), _KL_WEIGHT * penalty


def build(config: AutoencoderConfig | str) -> SmallAutoencoder:
    """An untrained autoencoder.

    Args:
        config: A configuration, or the name of one of `CONFIGS`.

    Raises:
        KeyError: No configuration of that name; the message lists the names.
    """
    if isinstance(config, str):
        if config not in CONFIGS:
            raise KeyError(f"No autoencoder {config!r}; known: {', '.join(CONFIGS)}.")
        config = CONFIGS[config]
    return SmallAutoencoder(config)


def reconstruction_loss(decoded: Tensor, x: Tensor, loss: Loss) -> Tensor:
    """Mean absolute difference of pixels; with `"l1+spectral"` plus that of the amplitudes of the orthonormal spectra.

    Args:
        decoded: (N, 3, H, W).
        x: (N, 3, H, W).
        loss: Which.

    Returns:
        Scalar.
    """
    pixels = (decoded - x).abs().mean()
    if loss == "l1":
        return pixels
    spectra: list[Tensor] = [torch.fft.rfft2(images, norm="ortho").abs() for images in (decoded, x)]
    return pixels + (spectra[0] - spectra[1]).abs().mean()


def fit_autoencoder(
    config: AutoencoderConfig | str,
    pixels: Sequence[Pixels],
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    bf16: bool = True,
) -> SmallAutoencoder:
    """Trains an autoencoder on random crops of 96 pixels, 16 a step, on the CPU.

    Args:
        config: See `build`.
        pixels: Pictures (H, W, 3) uint8 of any size; small ones are continued by reflection.
        steps: How long; deterministic by `seed`.
        minutes: How long instead; the number of steps, and so the result, depends on the machine.
        seed: Seed of weights, crops and noise.
        bf16: Compute in bfloat16 where that is safe.

    Returns:
        The network, in evaluation mode.

    Raises:
        ValueError: No pictures, or not exactly one of `steps` and `minutes`.
    """
    if (steps is None) == (minutes is None) or not pixels:
        raise ValueError("Give some pictures, and either steps or minutes.")
    rng, started, step, passed = np.random.default_rng(seed), time.monotonic(), 0, 0.0
    # A generator of torch's own cannot be handed to randn_like; the caller's random state is put back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(config).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-4)
        while passed < 1:
            loss = _step(network, optimiser, _crops(pixels, rng), passed, bf16)
            step += 1
            passed = step / steps if steps else (time.monotonic() - started) / (60 * (minutes or 1))
            if step % 50 == 0:
                log.info("step %d  loss %.4f  %.0f %%", step, loss, 100 * min(passed, 1))
    return network.eval()


def _step(network: SmallAutoencoder, optimiser: torch.optim.Optimizer, x: Tensor, passed: float, bf16: bool) -> float:
    for group in optimiser.param_groups:
        group["lr"] = _LEARNING_RATE * min(1, 20 * passed + 0.05) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * passed)))
    with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
        decoded, penalty = network(x)
    loss = reconstruction_loss(decoded.float(), x, network.config.loss) + penalty
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def _crops(pixels: Sequence[Pixels], rng: np.random.Generator) -> Tensor:
    crops = []
    for index in rng.integers(len(pixels), size=_BATCH):
        picture = pad_reflect(pixels[index], _CROP)
        top, left = (int(rng.integers(n - _CROP + 1)) for n in picture.shape[:2])
        crops.append(picture[top : top + _CROP, left : left + _CROP])
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    return x.contiguous(memory_format=torch.channels_last)


def save_autoencoder(network: SmallAutoencoder, path: str | Path) -> None:
    """Writes weights and configuration as safetensors, atomically."""
    path = Path(path)
    temporary = path.with_suffix(".tmp")
    tensors = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, temporary, metadata={"config": json.dumps(asdict(network.config))})
    os.replace(temporary, path)


def load_autoencoder(path: str | Path) -> SmallAutoencoder:
    """Reads what `save_autoencoder` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a file of `save_autoencoder`.
    """
    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
        if "config" not in facts:
            raise ValueError(f"{path} holds no autoencoder of this package; make one with the command `autoencoder`.")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    network = build(AutoencoderConfig(**json.loads(facts["config"])))
    network.load_state_dict(tensors)
    return network.eval()
