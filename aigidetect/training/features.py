"""Features of many random views, computed once by a frozen tower and kept on disk.

A tower of nine blocks costs a large part of a second for each view on a CPU, a head on its features next to nothing. So
every picture passes the tower a few times, each time as another view of the training pipeline, and heads are then chosen
and fitted within seconds. Tokens after an early block can be kept too: later blocks can then be adapted without computing
the earlier ones again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..models.clip_vit import CLIP_MEAN, CLIP_STD, Tower, summary
from ..preprocess import Tiles, normalise, pad_to
from .augment import Augment, Pixels, apply_condition
from .datasets import AI

log = logging.getLogger(__name__)

Half = NDArray[np.float16]


@dataclass(frozen=True)
class FeatureCache:
    """What `extract` wrote.

    Attributes:
        features: (views, pictures, blocks * 3 * D) float16, see `CLIPViT.features`; mapped from the file, not read.
        tokens: (views, pictures, L, D) float16 tokens after the block `tokens_after`, or None.
        blocks: Numbers of the blocks in `features`.
        tokens_after: Number of the block, or 0.
        done: Number of views that are there: those of view 0 of all pictures first.
        facts: What the views depend on, see `extract`.
    """

    features: Half
    tokens: Half | None
    blocks: tuple[int, ...]
    tokens_after: int
    done: int
    facts: dict[str, Any]

    def columns(self, blocks: Sequence[int], *, patches: bool = True) -> slice | NDArray[np.int64]:
        """Columns of `features` that hold some consecutive blocks; without `patches` those of their class tokens.

        Raises:
            ValueError: The blocks are not there, or not consecutive.
        """
        wanted = tuple(blocks)
        width = self.features.shape[2] // len(self.blocks)
        for start in range(len(self.blocks)):
            if self.blocks[start : start + len(wanted)] == wanted:
                own = np.arange(start * width, (start + len(wanted)) * width)
                # A slice takes no memory where all columns follow each other.
                return slice(own[0], own[-1] + 1) if patches else own.reshape(-1, 3, width // 3)[:, 0].ravel()
        raise ValueError(f"The cache holds the blocks {self.blocks}, not the run {wanted}.")

    @property
    def complete(self) -> int:
        """Number of views that are there for every picture."""
        return self.done // int(self.features.shape[1])

    def complete_tokens(self, after: int) -> Half:
        """Tokens of the complete views.

        Raises:
            ValueError: The cache holds no tokens after that block.
        """
        if self.tokens is None or self.tokens_after != after:
            raise ValueError(f"The cache holds no tokens after block {after}; fill one with --tokens-after {after}.")
        return self.tokens[: self.complete]


def open_cache(folder: str | Path) -> FeatureCache:
    """Maps a cache that `extract` wrote, or is writing.

    Raises:
        FileNotFoundError: There is none.
    """
    folder = Path(folder)
    facts = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
    tokens = np.load(folder / "tokens.npy", mmap_mode="r") if facts["tokens_after"] else None
    features = np.load(folder / "features.npy", mmap_mode="r")
    return FeatureCache(features, tokens, tuple(facts["blocks"]), facts["tokens_after"], facts["done"], facts["facts"])


def join_views(caches: Sequence[FeatureCache]) -> FeatureCache:
    """Complete views of caches of the same pictures as one cache, in memory and without tokens.

    Raises:
        ValueError: The caches hold other pictures or blocks.
    """
    first = caches[0]
    for other in caches[1:]:
        if (other.facts.get("data"), other.blocks) != (first.facts.get("data"), first.blocks):
            raise ValueError("Only caches of the same pictures and blocks can be joined.")
    features = np.concatenate([cache.features[: cache.complete] for cache in caches])
    facts = {**first.facts, "joined": [cache.facts for cache in caches]}
    return FeatureCache(features, None, first.blocks, 0, features.shape[0] * features.shape[1], facts)


def stored_conditions(cache: FeatureCache) -> list[str]:
    """Conditions of evaluation that the views of a cache show, in order.

    Raises:
        ValueError: The cache holds random views.
    """
    if "conditions" not in cache.facts:
        raise ValueError("The cache holds random views; fill one with --conditions to measure on it.")
    return list(cache.facts["conditions"])


def extract(
    tower: Tower,
    make_view: Callable[[int, int], Pixels],
    shape: tuple[int, int],
    folder: str | Path,
    *,
    facts: dict[str, Any],
    tokens_after: int = 0,
    bf16: bool = True,
    batch: int = 16,
) -> FeatureCache:
    """Fills a cache, or continues to fill it where a call was interrupted.

    Args:
        tower: Its taps are the blocks to keep; with `tokens_after` the first tap is the block whose tokens are kept too.
        make_view: (view, picture) -> (S, S, 3) uint8. It has to give the same pixels for the same numbers.
        shape: Numbers of views and of pictures.
        folder: Where the cache lies.
        facts: What else the views depend on (pipeline, seed, files): a folder filled with other facts is refused.
        tokens_after: Number of the block whose tokens are kept, the first tap; 0 keeps none.
        bf16: Compute in bfloat16 under autocast: on CPUs with such instructions half the time.
        batch: Views a call of the tower.

    Raises:
        ValueError: The folder was filled with other facts.
    """
    folder = Path(folder)
    cache = _create(tower, shape, folder, facts, tokens_after)
    kept = [n for n in tower.taps if n != tokens_after]
    started, first = time.monotonic(), cache.done
    tokens = None if cache.tokens is None else np.load(folder / "tokens.npy", mmap_mode="r+")
    features = np.load(folder / "features.npy", mmap_mode="r+")
    for numbers, views in _batches(make_view, shape, first, batch):
        x = normalise(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2), CLIP_MEAN, CLIP_STD)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            tapped = dict(zip(tower.taps, tower(x)))
        rows, columns = numbers // shape[1], numbers % shape[1]
        features[rows, columns] = torch.cat([summary(tapped[n].float()) for n in kept], dim=1).half().numpy()
        if tokens is not None:
            tokens[rows, columns] = tapped[tokens_after].half().numpy()
        done = int(numbers[-1]) + 1
        if done % (batch * 16) < batch or done == shape[0] * shape[1]:
            features.flush()
            _write_facts(folder, facts, kept, tokens_after, done)
            left = (time.monotonic() - started) / (done - first) * (shape[0] * shape[1] - done)
            log.info("view %d of %d, %.0f min left", done, shape[0] * shape[1], left / 60)
    return open_cache(folder)


def _create(tower: Tower, shape: tuple[int, int], folder: Path, facts: dict[str, Any], tokens_after: int) -> FeatureCache:
    kept = [n for n in tower.taps if n != tokens_after]
    if (folder / "cache.json").exists():
        stored = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
        if (stored["facts"], stored["blocks"], stored["tokens_after"]) != (facts, kept, tokens_after):
            raise ValueError(f"{folder} was filled with other views or blocks; choose another folder, or remove it.")
        return open_cache(folder)
    folder.mkdir(parents=True, exist_ok=True)
    length, width = tower.positions.shape
    # Files of the full size from the start: what is not computed yet takes no room on most file systems.
    np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (*shape, len(kept) * 3 * width))
    if tokens_after:
        np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.float16, (*shape, length, width))
    _write_facts(folder, facts, kept, tokens_after, 0)
    return open_cache(folder)


def _write_facts(folder: Path, facts: dict[str, Any], blocks: Sequence[int], tokens_after: int, done: int) -> None:
    content = {"facts": facts, "blocks": list(blocks), "tokens_after": tokens_after, "done": done}
    temporary = folder / "cache.tmp"
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, folder / "cache.json")


def _batches(
    make_view: Callable[[int, int], Pixels], shape: tuple[int, int], first: int, batch: int
) -> Iterator[tuple[NDArray[np.int64], list[Pixels]]]:
    def make(start: int) -> tuple[NDArray[np.int64], list[Pixels]]:
        numbers = np.arange(start, min(start + batch, shape[0] * shape[1]))
        return numbers, [make_view(int(n) // shape[1], int(n) % shape[1]) for n in numbers]

    with ThreadPoolExecutor(1) as pool:
        starts = range(first, shape[0] * shape[1], batch)
        pending = None
        for start in starts:
            current, pending = pending or pool.submit(make, start), None
            if start + batch < shape[0] * shape[1]:
                pending = pool.submit(make, start + batch)
            yield current.result()


def random_views(
    augment: Augment, pixels: Sequence[Pixels] | Mapping[int, Pixels], size: int, seed: int
) -> Callable[[int, int], Pixels]:
    """`make_view` of `extract` for training: every view is another draw of the pipeline.

    Args:
        augment: The pipeline.
        pixels: The pictures by number, (H, W, 3) uint8.
        size: Side of a view in pixels.
        seed: The same seed gives the same views.
    """
    return lambda view, picture: augment(pixels[picture], size, np.random.default_rng([seed, view, picture]))


def condition_views(
    pixels: Sequence[Pixels], labels: Sequence[int], conditions: Sequence[str], tiles: Tiles
) -> Callable[[int, int], Pixels]:
    """`make_view` of `extract` for validation: view number v is the first tile of a picture under `conditions[v]`.

    Args:
        pixels: The pictures, (H, W, 3) uint8.
        labels: 1 AI-generated, 0 real, which `swap` needs.
        conditions: Some of `CONDITIONS`.
        tiles: Cuts the pictures as the detector will.
    """

    def make(view: int, picture: int) -> Pixels:
        image = apply_condition(Image.fromarray(pixels[picture]), conditions[view], is_ai=labels[picture] == AI)
        padded = pad_to(torch.from_numpy(np.array(image)).permute(2, 0, 1), tiles.size)
        top, left = tiles.boxes(padded)[0]
        return padded[:, top : top + tiles.size, left : left + tiles.size].permute(1, 2, 0).contiguous().numpy()

    return make
