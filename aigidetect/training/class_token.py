"""Training on class tokens that CLIP's frozen tower computed before: batches from caches of `features`.

The tower gives the same token for the same view, at most of the cost of a step. So the views of such a run are those of
the caches. Where the network has a branch that sees pixels, they are drawn again: a view depends on the pipeline, the seed,
and the numbers of view and picture alone. The branch averages over positions, so a part of a view can stand for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.vit import ViT
from ..preprocess import normalise
from .augment import Augment, Pixels
from .batches import Batches
from .datasets import Sample, digest, load_pixels
from .features import FeatureCache, random_views
from .recipe import Recipe
from .run import Run

RECORD = "features.json"
# Of the length of a token: caches are computed in bfloat16, which moves it by a few percent. Tokens of two views of one
# picture are some ten times as far apart.
_TOLERANCE = 0.1


@dataclass(frozen=True)
class TokenCache:
    """Class tokens of random views of one data set.

    Attributes:
        cache: What `aigidetect.training.features.extract` wrote; only views that are there for every picture are used.
        samples: Its pictures, in its order.
    """

    cache: FeatureCache
    samples: Sequence[Sample]

    @property
    def augment(self) -> Augment:
        """The pipeline of the views."""
        facts: dict[str, Any] = self.cache.facts["augment"]
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
        return Augment(**values)

    @property
    def facts(self) -> dict[str, Any]:
        """What names the views, for a record: data, seed, and number of views of each picture."""
        return {"data": self.cache.facts["data"], "seed": self.cache.facts["seed"], "views": self.cache.complete}

    def token(self, view: int, row: int, block: int | None) -> NDArray[np.float16]:
        """(D,) normalised class token of a view of picture number `row`, after a block."""
        return self.cache.features[view, row, self.cache.columns((block or 0,), patches=False)]

    def view(self, view: int, row: int, pixels: Pixels, side: int) -> Pixels:
        """(side, side, 3) uint8: the view of which this is the token, drawn again from the picture's pixels."""
        return random_views(self.augment, {row: pixels}, side, self.cache.facts["seed"])(view, row)


def match_caches(caches: Sequence[FeatureCache], data: Sequence[Sequence[Sample]]) -> list[TokenCache]:
    """Finds the pictures of each cache, by the digest of their names, labels and contents.

    Args:
        caches: Any number, also several of the same pictures.
        data: The training pictures of each data set.

    Raises:
        ValueError: A cache holds no random views, not one of every picture, or views of other pictures.
    """
    known = {digest(samples): samples for samples in data}
    for number, cache in enumerate(caches, start=1):
        if "augment" not in cache.facts or not cache.complete:
            raise ValueError(f"Cache {number} holds no random view of every picture; fill one with features --views.")
        if cache.facts["data"] not in known:
            raise ValueError(
                f"Cache {number} was filled from other pictures than the training pictures of any --data; give its data set "
                "too, as it was then, or fill the cache again."
            )
    return [TokenCache(cache, known[cache.facts["data"]]) for cache in caches]


class TokenBatches(Batches):
    """Batches of views (N, 3, S, S) uint8, targets (N, 1) float32 and class tokens (N, D) float32 out of caches.

    Pictures are drawn as by `Batches`, and of each one of its views in the caches. S is the side of a random part of the
    view, as the recipe's `sizes` say; without pixels, for a network that sees none, it is 0.

    Args:
        recipe: See `Batches`. Its pipeline has to be that of the caches.
        samples: See `Batches`.
        pixels: See `Batches`; or an empty list.
        targets: See `Batches`.
        caches: Where the tokens are.
        network: Says which block's token is read, and the side of a whole view.

    Raises:
        ValueError: See `Batches`; or a picture is in no cache, or pipeline or sizes do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: list[Sample],
        pixels: list[Pixels],
        targets: Tensor | None,
        *,
        caches: Sequence[TokenCache],
        network: ViT,
    ) -> None:
        super().__init__(recipe, samples, pixels, targets)
        if any(cache.augment != recipe.augment for cache in caches):
            raise ValueError("A cache's views went through another pipeline; give the recipe its augment, or fill it again.")
        if (largest := max(size for _, size in recipe.sizes)) > network.image_size:
            raise ValueError(f"Expected views of at most {network.image_size} pixels in the recipe, but found {largest}.")
        self._block, self._side = network.clip_blocks, network.image_size
        places: dict[Path, list[tuple[TokenCache, int]]] = {}
        for cache in caches:
            for row, sample in enumerate(cache.samples):
                places.setdefault(sample.path, []).append((cache, row))
        if missing := [sample for sample in samples if sample.path not in places]:
            raise ValueError(
                f"{len(missing)} of {len(samples)} training pictures are in no cache, the first being {missing[0].path}; "
                "give a cache for each data set."
            )
        self._places = [places[sample.path] for sample in samples]

    def _seen(self, chosen: NDArray[np.int64], size: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        size = size if self.pixels else 0
        views, tokens = np.empty((len(chosen), size, size, 3), np.uint8), []
        for place, picture in enumerate(chosen):
            # By views, so that each of them is as likely, whichever cache has it.
            options = [(cache, row, v) for cache, row in self._places[picture] for v in range(cache.cache.complete)]
            cache, row, view = options[rng.integers(len(options))]
            tokens.append(cache.token(view, row, self._block))
            if size:
                top, left = rng.integers(self._side - size + 1, size=2)
                whole = cache.view(view, row, self.pixels[picture], self._side)
                views[place] = whole[top : top + size, left : left + size]
        targets = self._targets[torch.from_numpy(chosen)][:, None]
        return torch.from_numpy(views).permute(0, 3, 1, 2), targets, torch.from_numpy(np.stack(tokens).astype(np.float32))


def begin_with_tokens(run: Run, caches: Sequence[TokenCache], out: Path) -> None:
    """Takes the tower out of a run at its first step, and records the caches in its folder.

    A view of each cache is drawn again first, and passed through the tower, so that caches of another tower, or of a
    pipeline that has changed since, do not go unnoticed.

    Raises:
        ValueError: The network has no frozen tower, or gives another token than a cache holds.
    """
    network = run.network
    if not isinstance(network, ViT):
        raise ValueError(f"Class tokens are of no use to the network {type(network).__name__}; leave --features out.")
    for number, cache in enumerate(caches, start=1):
        [sample], [pixels], _ = load_pixels([cache.samples[0]])
        view = torch.from_numpy(cache.view(0, 0, pixels, network.image_size)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            token = network.eval().class_token(normalise(view, run.recipe.mean, run.recipe.std).to(run.device))[0]
        stored = torch.from_numpy(cache.token(0, 0, network.clip_blocks).astype(np.float32)).to(run.device)
        if not (difference := float((token - stored).norm() / stored.norm())) < _TOLERANCE:
            raise ValueError(
                f"Cache {number} was filled by another tower or pipeline: the class token of the first view of "
                f"{sample.path} is {difference:.0%} of its length away. Fill it again with this tower, see features."
            )
    run.drop_tower()
    if run.processes.main:
        out.mkdir(parents=True, exist_ok=True)
        (out / RECORD).write_text(json.dumps([cache.facts for cache in caches], indent=1) + "\n", encoding="utf-8")


def check_record(caches: Sequence[TokenCache], out: Path) -> None:
    """Checks that a run that is continued was begun with the same views.

    Raises:
        ValueError: It was not.
    """
    record = out / RECORD
    begun = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    if begun != [cache.facts for cache in caches]:
        raise ValueError(
            f"The run in {out} was begun with the cached views {begun or 'of no cache'}, not with "
            f"{[cache.facts for cache in caches] or 'none'}; give the same --features, or choose another output folder."
        )
