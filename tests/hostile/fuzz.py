"""Random damage for a given time: pictures, manifests, weights and checkpoints are read, or refused by errors of ours."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from aigidetect import unpickle
from aigidetect.convert import WRAPPERS, convert_npr
from aigidetect.errors import ImageError, ManifestError, WeightsError
from aigidetect.images import load_image
from aigidetect.manifest import ManifestEntry, load_manifest
from aigidetect.weights import load_state_dict

from .pictures import pixels, png, png_rows, save, seeds


def pickled(legacy: bool) -> bytes:
    """A small checkpoint in the present or the older format of `torch.save`."""
    buffer = io.BytesIO()
    state = {"model": {"module.conv1.weight": torch.zeros(2, 3, 3, 3), "module.fc1.bias": torch.ones(1)}, "epoch": 3}
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


SEEDS = seeds()
MANIFEST = Path(load_manifest().path).read_bytes()
WEIGHTS = safetensors.torch.save({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1, 2])})
ENTRY = ManifestEntry("fuzz", 1, "npr_resnet", {}, {"kind": "tiles"}, None, None, 8, None, None, "None are published.")
PICKLES = tuple(pickled(legacy) for legacy in (False, True))
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to six changes: bits, bytes, 32-bit numbers, cut, removed, doubled or exchanged parts."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 7))):
        if not changed:
            break
        kind, at = int(rng.integers(7)), int(rng.integers(len(changed)))
        length = int(rng.integers(1, 64))
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at] = _INTERESTING[int(rng.integers(len(_INTERESTING)))]
        elif kind == 2:
            changed[at : at + 4] = bytes([_INTERESTING[int(rng.integers(len(_INTERESTING)))]]) * len(changed[at : at + 4])
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at : at + length] = rng.bytes(len(changed[at : at + length]))
    return bytes(changed)


def damaged_picture(rng: np.random.Generator, folder: Path) -> str:
    """A mutated picture must be decoded whole or refused by an ImageError; a PNG must be refused or be as it was."""
    seed = SEEDS[int(rng.integers(len(SEEDS)))]
    data = mutate(seed.data, rng)
    try:
        found, info = load_image(data, max_pixels=10**7)
    except ImageError as error:
        return type(error).__name__
    assert found.dtype == torch.uint8
    assert found.shape == (3, info.height, info.width)
    return "score"


def half_picture(rng: np.random.Generator, folder: Path) -> str:
    """A picture of any size that lacks data, but has right lengths and checksums, must be refused."""
    height, width = int(rng.integers(20, 200)), int(rng.integers(20, 200))
    image, share = pixels(height, width, seed=int(rng.integers(1000))), float(rng.uniform(0.3, 0.9))
    kind = int(rng.integers(4))
    if kind == 0:
        rows = png_rows(image)
        data = png(width, height, 8, 2, rows[: int(len(rows) * share)])
    elif kind == 1:
        whole = save(image, "JPEG", progressive=bool(rng.integers(2)), quality=int(rng.integers(40, 100)))
        start = whole.index(b"\xff\xda") + 14
        data = whole[: start + int((len(whole) - start) * share * 0.9)] + b"\xff\xd9"
    elif kind == 2:
        whole = save(image, "WEBP", lossless=bool(rng.integers(2)))
        size = int((len(whole) - 20) * share) & ~1
        lengths = (size + 12).to_bytes(4, "little"), size.to_bytes(4, "little")
        data = b"RIFF" + lengths[0] + whole[8:16] + lengths[1] + whole[20 : 20 + size]
    else:
        scheme = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")[int(rng.integers(5))]
        data = save(image, "TIFF", compression=scheme, tiffinfo={278: 8})
        taller = int(height * 1.2) + 8
        # The height of the first directory, wherever it lies.
        place = data.index(height.to_bytes(2, "little"), data.index(b"\x01\x01", int.from_bytes(data[4:8], "little")) + 6)
        data = data[:place] + taller.to_bytes(2, "little") + data[place + 2 :]
    try:
        load_image(data)
    except ImageError as error:
        return type(error).__name__
    raise AssertionError(f"a half picture got pixels: kind {kind}, {width}x{height}, share {share:.3f}")


def damaged_manifest(rng: np.random.Generator, folder: Path) -> str:
    """A mutated manifest must be read or be refused by a ManifestError."""
    path = folder / "manifest.json"
    start = int(rng.integers(len(MANIFEST)))
    # Most changes near each other, so that not every one breaks the syntax.
    path.write_bytes(MANIFEST[:start] + mutate(MANIFEST[start : start + 40], rng) + MANIFEST[start + 40 :])
    try:
        load_manifest(path)
    except ManifestError:
        return "ManifestError"
    return "read"


def damaged_weights(rng: np.random.Generator, folder: Path) -> str:
    """A mutated safetensors file must be read or be refused by a WeightsError."""
    path = folder / "own.safetensors"
    path.write_bytes(mutate(WEIGHTS, rng))
    try:
        load_state_dict(ENTRY, weights=path)
    except WeightsError as error:
        return type(error).__name__
    return "read"


def damaged_checkpoint(rng: np.random.Generator, folder: Path) -> str:
    """A mutated pickle must be read or be refused with a reason, and what it holds be converted or be refused too."""
    path = folder / "own.pth"
    path.write_bytes(mutate(PICKLES[int(rng.integers(len(PICKLES)))], rng))
    try:
        tensors, _ = unpickle.read(str(path), list(WRAPPERS))
    except Exception as error:
        return str(unpickle.explain(error)["kind"])
    try:
        convert_npr({name.partition("\n")[2]: tensor for name, tensor in tensors.items()}, "npr")
    except WeightsError as error:
        return type(error).__name__
    return "read"


TARGETS: list[Callable[[np.random.Generator, Path], str]] = [
    damaged_picture, half_picture, damaged_manifest, damaged_weights, damaged_checkpoint,
]  # fmt: skip


def fuzz(seconds: float, seed: int) -> int:
    """Runs all targets in turn; prints executions, outcomes and findings. Returns 1 if there was a finding."""
    import tempfile

    outcomes: dict[str, Counter[str]] = {target.__name__: Counter() for target in TARGETS}
    findings: list[str] = []
    slowest, number, end = 0.0, 0, time.perf_counter() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.perf_counter() < end:
            for index, target in enumerate(TARGETS):
                start = time.process_time()
                try:
                    outcomes[target.__name__].update([target(np.random.default_rng([seed, number, index]), Path(folder))])
                except Exception as error:
                    findings.append(f"{target.__name__}, seed {[seed, number, index]}: {type(error).__name__}: {error}")
                slowest = max(slowest, time.process_time() - start)
            number += 1
    print("| target | executions | outcomes |\n|---|---|---|")
    for name, counter in outcomes.items():
        parts = ", ".join(f"{outcome} {count:,}" for outcome, count in counter.most_common())
        print(f"| {name.replace('_', ' ')} | {sum(counter.values()):,} | {parts} |")
    print(
        f"\n{len(TARGETS) * number:,} executions in {seconds:g} s, {len(findings)} findings; slowest {slowest:.2f} s of CPU."
    )
    for finding in findings:
        print(f"- {finding}")
    return 1 if findings else 0
