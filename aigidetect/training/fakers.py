"""Ways to turn a photograph into a fake of the same content, by name.

taef2:FOLDER           the tiny autoencoder of FLUX.2 latents
own:FILE               an autoencoder of this package, see `autoencoders`
hub:REPO_ID[@REVISION] AutoencoderKL or AutoencoderTiny of diffusers; needs the extra `aligned`
resample               down and up again by a fixed filter, the simplest up-sampler of all
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .aligned import Autoencoder, load_taef2, reconstruct
from .augment import Pixels
from .autoencoders import load_autoencoder
from .hub_autoencoder import load_hub_autoencoder

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
FACTORS = (2, 4)


@dataclass(frozen=True)
class Faker:
    """One way to make fakes.

    Attributes:
        name: Short name, part of the source's and the line's name.
        fingerprint: Changes whenever the fakes would: a hash of the weights, or a revision.
        fake: (pixels (H, W, 3) uint8, noise, seed) -> (H', W', 3) uint8, H' <= H and W' <= W, cut at the end only.
        takes_noise: Whether there is a code to add noise to.
        validation_only: Kept for validation: `aligned_set.make_aligned` makes no training data with it.
    """

    name: str
    fingerprint: str
    fake: Callable[[Pixels, float, int], Pixels]
    takes_noise: bool = True
    validation_only: bool = False


def load_faker(spec: str) -> Faker:
    """The faker that a specification names; the forms are listed above.

    Raises:
        ValueError: Not one of these forms.
        FileNotFoundError: Weights are missing.
        ModuleNotFoundError: diffusers is needed and not installed.
    """
    kind, _, rest = spec.partition(":")
    if kind not in _LOADERS or bool(rest) == (kind == "resample"):
        raise ValueError(
            f"No autoencoder {spec!r}; expected taef2:FOLDER, own:FILE, hub:REPO_ID, hub:REPO_ID@REVISION or resample."
        )
    return _LOADERS[kind](rest)


def resample_fake(pixels: Pixels, factor: int, filter: str) -> Pixels:
    """The picture made smaller by area averaging, then larger again by a fixed filter.

    Args:
        pixels: (H, W, 3) uint8; trailing rows and columns are dropped to multiples of `factor`.
        factor: By how much, 2 or more.
        filter: One of `FILTERS`, for the way up.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ValueError: An unknown filter, a factor below 2, or a side that is shorter than the factor.
    """
    if filter not in FILTERS or factor < 2:
        raise ValueError(f"Expected a factor of at least 2 and a filter among {FILTERS}, but got {factor} and {filter!r}.")
    h, w = pixels.shape[0] // factor, pixels.shape[1] // factor
    if not h or not w:
        raise ValueError(
            f"The picture has {pixels.shape[1]}x{pixels.shape[0]} pixels; factor {factor} needs {factor} a side."
        )
    small = Image.fromarray(pixels[: h * factor, : w * factor]).reduce(factor)
    return np.asarray(small.resize((w * factor, h * factor), Image.Resampling[filter.upper()]))


def blend(original: Pixels, fake: Pixels, rng: np.random.Generator) -> Pixels:
    """A soft-edged random rectangle of the fake in the original.

    Args:
        original: (H, W, 3) uint8.
        fake: (H', W', 3) uint8 of the same content, H' <= H and W' <= W.
        rng: Draws the rectangle, which covers between a quarter and nine tenths of the picture, and its edge.

    Returns:
        (H', W', 3) uint8.
    """
    h, w = fake.shape[:2]
    soft = rng.uniform(0.02, 0.1) * min(h, w)
    inside = [_inside(n, rng) for n in (h, w)]
    # Half a fake at the rectangle's border, so that the rectangle itself is what is more fake than not.
    mask = np.clip(0.5 + np.minimum(inside[0][:, None], inside[1][None]) / soft, 0, 1)[..., None]
    base = original[:h, :w].astype(np.float64)
    return np.asarray(base + mask * (fake - base)).round().astype(np.uint8)


def _inside(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How far each of `length` pixels lies within a random stretch of half to 95 % of them; negative outside."""
    covered = int(np.ceil(length * rng.uniform(0.5, 0.95)))
    start = rng.integers(length - covered + 1)
    place = np.arange(length)
    distance: NDArray[np.float64] = np.minimum(place - start, start + covered - 1 - place).astype(np.float64)
    return distance


def _of(name: str, fingerprint: str, autoencoder: Autoencoder, *, validation_only: bool = False) -> Faker:
    def fake(pixels: Pixels, noise: float, seed: int) -> Pixels:
        return reconstruct(autoencoder, pixels, noise=noise, seed=seed)

    return Faker(name, fingerprint, fake, validation_only=validation_only)


def _sha256(*paths: Path) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()


def _taef2(folder: str) -> Faker:
    files = [Path(folder) / f"taef2_{part}.safetensors" for part in ("encoder", "decoder")]
    return _of("taef2", _sha256(*files), load_taef2(folder))


def _resample(_: str) -> Faker:
    def fake(pixels: Pixels, noise: float, seed: int) -> Pixels:
        rng = np.random.default_rng(seed)
        return resample_fake(pixels, int(rng.choice(FACTORS)), str(rng.choice(FILTERS)))

    return Faker("resample", f"{FACTORS} {FILTERS}", fake, takes_noise=False)


def _own(file: str) -> Faker:
    network = load_autoencoder(file)
    config = network.config
    return _of(f"own-{config.name}", _sha256(Path(file)), network, validation_only=config.validation_only)


def _hub(name: str) -> Faker:
    autoencoder = load_hub_autoencoder(name)
    return _of(f"hub-{name.partition('@')[0].replace('/', '-')}", autoencoder.revision, autoencoder)


_LOADERS: dict[str, Callable[[str], Faker]] = {"taef2": _taef2, "own": _own, "hub": _hub, "resample": _resample}
