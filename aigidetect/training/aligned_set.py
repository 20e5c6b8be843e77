"""A data set of aligned fakes: the real pictures of one split, each through an autoencoder, as lossless PNG files.

The folder is a data set of its own (`datasets.read_index`) and meant to be used beside the one it was made from. A fake
keeps the original's group, split and style, so no fake can leave the split of its original. Every fake is a function of the
original's pixels, its names and the settings: an interrupted call is continued, and the same call gives the same bytes.

References:
    | Aligned Datasets Improve Detection of Latent Diffusion-Generated Images (Rajan et al., ICLR 2025)
    | https://arxiv.org/abs/2410.11835
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ImageError
from ..images import load_image
from .augment import Pixels
from .datasets import REAL, Sample, take_split
from .fakers import Faker, blend

log = logging.getLogger(__name__)
_COLUMNS = ("file", "label", "source", "line", "split", "group", "style", "noise", "original")


@dataclass(frozen=True)
class AlignedSettings:
    """What decides the content of the folder, apart from originals and autoencoder.

    Attributes:
        split: Whose real pictures are taken.
        styles: Only pictures of these styles; all if empty.
        noise: Levels of noise on the code, in its standard deviations; each picture gets one of them.
        limit: At most so many pictures, from all sources in turn.
        partial: Share of pictures in which only a region is fake, in [0, 1].
        largest: Longest side in pixels; of larger pictures a random part is taken, at native size.
        pairs: Whether the folder also holds the originals, cut alike and lossless too, as real pictures: pairs to
            measure a detector on.
        seed: Seed of every choice.
    """

    split: str = "train"
    styles: tuple[str, ...] = ("photo", "face")
    noise: tuple[float, ...] = (0.0,)
    limit: int | None = None
    partial: float = 0.0
    largest: int = 1024
    pairs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.noise or min(self.noise) < 0 or not 0 <= self.partial <= 1 or self.largest < 64:
            raise ValueError(f"Expected noise >= 0, partial in [0, 1] and largest >= 64, but got {self}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"Expected a limit of at least one picture, but got {self.limit}.")


def choose_originals(samples: Sequence[Sample], settings: AlignedSettings) -> list[Sample]:
    """The real pictures to reconstruct: one of each source in turn, so that no large source dominates.

    Raises:
        ValueError: No real picture of these styles in the split, or two that cannot be told apart by their names.
    """
    real = [sample for sample in take_split(samples, settings.split) if sample.label == REAL]
    kept = [sample for sample in real if not settings.styles or sample.style in settings.styles]
    if not kept:
        raise ValueError(
            f"No real pictures of the styles {list(settings.styles)} in split {settings.split!r}; its real pictures have "
            f"the styles {sorted({sample.style for sample in real})}."
        )
    keys = {_key(sample): sample for sample in kept}
    if len(keys) < len(kept):
        twice = next(sample for sample in kept if keys[_key(sample)] is not sample)
        raise ValueError(f"{twice.path} and {keys[_key(twice)].path} share source, group and file name; rename one.")
    turns: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda key: _draws(key, settings.seed).random()):
        turns.setdefault(keys[key].source, []).append(key)
    ranked = sorted((rank, order, key) for order, own in enumerate(turns.values()) for rank, key in enumerate(own))
    return [keys[key] for _, _, key in ranked][: settings.limit]


def make_aligned(faker: Faker, samples: Sequence[Sample], settings: AlignedSettings, out: str | Path) -> list[str]:
    """Makes, or completes, the folder.

    Writes `aligned.json` (the settings), `ai/*.png`, `undecodable.txt` and, when all is done, `index.tsv`.

    Args:
        faker: How a fake is made.
        samples: A whole labelled data set; the originals are chosen from it.
        settings: Which originals, and how.
        out: Folder; one that was begun with the same arguments is continued.

    Returns:
        One line for each original that could not be used.

    Raises:
        ValueError: The folder was begun with other arguments; a faker that is kept for validation, or that takes no noise,
            is asked for the other; or see `choose_originals`.
    """
    _check(faker, settings)
    out, originals = Path(out), choose_originals(samples, settings)
    _claim(out, faker, settings, originals)
    rows, failures, made, started = [], [], 0, time.monotonic()
    for number, sample in enumerate(originals, start=1):
        try:
            own, new = _files(faker, sample, settings, out)
        except ImageError as error:
            failures.append(f"{sample.path}: {type(error).__name__}: {error}")
            continue
        rows += own
        made += new
        if new and made % 50 == 0:
            each = (time.monotonic() - started) / made
            log.info(
                "%d/%d  %.2f s each, %.0f min left", number, len(originals), each, (len(originals) - number) * each / 60
            )
    (out / "undecodable.txt").write_text("".join(f"{line}\n" for line in failures), encoding="utf-8")
    _write_index(rows, out / "index.tsv")
    log.info("%d originals, %d of them used now; %d could not be used", len(originals), made, len(failures))
    return failures


def _check(faker: Faker, settings: AlignedSettings) -> None:
    if faker.validation_only and settings.split == "train":
        raise ValueError(f"{faker.name} is kept for validation; take another autoencoder for train, or --split val.")
    if any(settings.noise) and not faker.takes_noise:
        raise ValueError(f"{faker.name} has no code to add noise to; leave --noise out, or give 0.")


def _claim(out: Path, faker: Faker, settings: AlignedSettings, originals: list[Sample]) -> None:
    """Stores what the folder is made of, or checks that it is the same."""
    names = hashlib.sha256("\n".join(map(_key, originals)).encode()).hexdigest()
    facts = {"autoencoder": faker.name, "fingerprint": faker.fingerprint, "originals": names, **asdict(settings)}
    facts = json.loads(json.dumps(facts))
    if not facts["pairs"]:
        del facts["pairs"]  # as folders have it that are older than the choice
    path = out / "aligned.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if differing := sorted(key for key in facts.keys() | stored.keys() if facts.get(key) != stored.get(key)):
            raise ValueError(
                f"{out} was begun with other arguments ({', '.join(differing)}); choose another folder for --out."
            )
    (out / "ai").mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _key(sample: Sample) -> str:
    return f"{sample.source}\t{sample.group}\t{sample.path.name}"


def _draws(key: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(f"{seed}\t{key}".encode()).digest()))


def _plan(sample: Sample, settings: AlignedSettings) -> tuple[str, float, bool]:
    """File name, level of noise, and whether only a region is fake."""
    key = _key(sample)
    rng = _draws(key, settings.seed + 1)
    level = settings.noise[rng.integers(len(settings.noise))]
    return f"ai/{hashlib.sha256(key.encode()).hexdigest()[:16]}.png", level, bool(rng.random() < settings.partial)


def _files(faker: Faker, sample: Sample, settings: AlignedSettings, out: Path) -> tuple[list[tuple[object, ...]], bool]:
    """Makes what is not there of one original; its rows of the index, and whether anything was made."""
    file, level, region = _plan(sample, settings)
    real = file.replace("ai/", "real/")
    wanted = [file, real] if settings.pairs else [file]
    new = not all((out / name).exists() for name in wanted)
    if new:
        original, fake = _make(faker, sample, settings)
        if settings.pairs:
            (out / "real").mkdir(exist_ok=True)
            _write_png(original, out / real)
        _write_png(fake, out / file)
    line = f"aligned-{faker.name}"
    source = f"{line}-partial" if region else line
    about = (sample.split, sample.group, sample.style)
    rows: list[tuple[object, ...]] = [(file, "ai", source, line, *about, level, sample.path)]
    if settings.pairs:
        rows.append((real, "real", sample.source, sample.line, *about, "", sample.path))
    return rows, new


def _make(faker: Faker, sample: Sample, settings: AlignedSettings) -> tuple[Pixels, Pixels]:
    """The original's pixels and the fake's."""
    _, level, region = _plan(sample, settings)
    rng = _draws(_key(sample), settings.seed + 2)
    pixels = load_image(sample.path)[0].permute(1, 2, 0).numpy()
    h, w = (min(n, settings.largest) for n in pixels.shape[:2])
    top, left = (int(rng.integers(n - cut + 1)) for n, cut in zip(pixels.shape[:2], (h, w)))
    pixels = np.ascontiguousarray(pixels[top : top + h, left : left + w])
    try:
        fake = faker.fake(pixels, level, int(rng.integers(2**31)))
    except ValueError as error:
        # Smaller than the autoencoder's factor.
        raise ImageError(str(error)) from error
    # An autoencoder drops what does not fill its last cells.
    return pixels[: fake.shape[0], : fake.shape[1]], blend(pixels, fake, rng) if region else fake


def _write_png(pixels: Pixels, path: Path) -> None:
    # Written beside and renamed: a file that is there is whole.
    temporary = path.with_suffix(".tmp")
    Image.fromarray(pixels).save(temporary, format="PNG")
    os.replace(temporary, path)


def _write_index(rows: Sequence[tuple[object, ...]], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
    os.replace(temporary, path)
