"""What a training run is: a dataclass, stored as JSON beside the weights it made."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..models.clip_vit import CLIP_MEAN, CLIP_STD
from ..models.npr_resnet import VARIANTS
from ..models.resnet import VARIANTS as RESNETS
from ..models.vit import VARIANTS as VITS
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD, RGB
from .augment import Augment

_CHOICES = {
    "precision": ("bf16", "fp16", "fp32"),
    "optimiser": ("adamw", "adam"),
    "schedule": ("cosine", "constant", "step"),
    "loss": ("bce", "elbo"),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on besides the data and the package version.

    Attributes:
        name: Short name; also the name of the run.
        architecture: File in `aigidetect.models`.
        config: Keyword arguments of its `build`.
        seed: Seed of the initial weights and of every batch.
        steps: Optimiser steps.
        batch_size: Views a step, half of them real.
        sizes: Pairs (share of the run, side of the views in pixels), in order; the shares add up to 1.
        augment: Distribution of the views.
        learning_rate: Peak of the schedule.
        warmup: Share of the run in which the rate rises linearly to its peak; 0 starts at the peak.
        weight_decay: On tensors with two or more dimensions: decoupled with AdamW, added to the gradient with Adam.
        ema_decay: Decay a step of the averaged weights, which are what is exported.
        label_smoothing: Targets are this far from 0 and 1.
        balance: Exponent of a source's size in its probability: 0 draws sources evenly, 1 draws pictures evenly.
        consistency: Weight of the paired loss: every picture of the batch is seen twice, under two degradations, and
            their logits are drawn together. 0 switches it off.
        precision: `"bf16"` and `"fp16"` run convolutions and matrix products in that type under autocast, `"fp32"` runs all
            in float32. `"fp16"` scales the loss and needs a GPU.
        optimiser: `"adamw"` or `"adam"`.
        schedule: After the warm-up: `"cosine"` falls to a hundredth of the peak by half a cosine, `"constant"` stays,
            `"step"` multiplies the rate by `drop` at each of `drop_steps`.
        drop_steps: Rising numbers of the steps, the first being 0, from which on another factor `drop` applies.
        drop: That factor.
        accumulate: Micro-batches a step. Their mean gradient is that of the whole batch, for less memory. Not so with batch
            norm, which takes its statistics from each micro-batch, nor with dropout or weight noise, drawn for each.
        loss: `"bce"`, or `"elbo"` for networks with a method `kl_divergence`; see `aigidetect.training.losses`.
        mean: Normalisation of the views, see `aigidetect.preprocess.normalise`; detectors have to use the same.
        std: The same.
        teacher: Share of a teacher's probability in each target, the rest being the label; see `soft_targets`.
        hard_negatives: Share of a batch's real views, those that look most AI-generated, that the loss `"bce"` counts; see
            `aigidetect.training.losses.hard_negatives`. 1 counts all.
        frozen_backbone: The network's `backbone` keeps the weights that it is given before the first step, and stays in
            evaluation mode.

    Raises:
        ValueError: An unknown choice, `drop_steps` that do not fit the schedule, a batch that cannot be split evenly, or a
            share of hard negatives outside (0, 1] or with a loss that does not know it.
    """

    name: str
    architecture: str
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    steps: int = 1000
    batch_size: int = 32
    sizes: tuple[tuple[float, int], ...] = ((1.0, 96),)
    augment: Augment = field(default_factory=Augment)
    learning_rate: float = 1e-3
    warmup: float = 0.02
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    label_smoothing: float = 0.0
    balance: float = 0.5
    consistency: float = 0.0
    precision: Literal["bf16", "fp16", "fp32"] = "fp32"
    optimiser: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    drop_steps: tuple[int, ...] = ()
    drop: float = 0.9
    accumulate: int = 1
    loss: Literal["bce", "elbo"] = "bce"
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    teacher: float = 0.0
    hard_negatives: float = 1.0
    frozen_backbone: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}; use one of {', '.join(choices)}.")
        rising = list(self.drop_steps) == sorted(set(self.drop_steps))
        if not rising or bool(self.drop_steps) != (self.schedule == "step"):
            raise ValueError(
                f"Expected rising drop_steps with the schedule 'step', and none with another, but found "
                f"{list(self.drop_steps)} with {self.schedule!r}."
            )
        if not 0 < self.hard_negatives <= 1 or (self.hard_negatives < 1 and self.loss != "bce"):
            raise ValueError(
                f"Expected hard_negatives in (0, 1], and 1 with the loss 'elbo', but found {self.hard_negatives:g}."
            )
        self.check_split()

    def check_split(self, processes: int = 1) -> None:
        """Checks that a batch splits into parts of one size, each balanced as the whole.

        Args:
            processes: How many share the batch; each takes `accumulate` parts of it.

        Raises:
            ValueError: It does not; the message says which batch sizes do.
        """
        parts = processes * self.accumulate
        # Both classes, and with the paired loss both views of a picture, have to be in every part.
        unit = (4 if self.consistency else 2) * parts
        if parts < 1 or (parts > 1 and self.batch_size % unit):
            raise ValueError(
                f"A batch of {self.batch_size} does not split evenly over {processes} process(es) with accumulate = "
                f"{self.accumulate}; accumulate has to be at least 1 and batch_size a multiple of {max(unit, 2)}."
            )

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "step":
            return self.learning_rate * self.drop ** sum(step >= at for at in self.drop_steps)
        passed = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * passed)))

    def size_at(self, step: int) -> int:
        """Side of the views at a step, in pixels."""
        passed = 0.0
        for share, size in self.sizes:
            passed += share
            if step < passed * self.steps:
                return size
        return self.sizes[-1][1]

    def to_json(self) -> str:
        """The recipe as indented JSON; `from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Reads what `to_json` wrote. Fields that an older version did not have get their defaults, which are what it did.

        Raises:
            TypeError: An unknown field.
            ValueError: Not JSON, or values that do not fit; see `Recipe`.
        """
        facts = json.loads(text)
        augment = Augment(**{k: _tuples(v) for k, v in facts.pop("augment", {}).items()})
        return cls(augment=augment, **{k: v if k == "config" else _tuples(v) for k, v in facts.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


# The yardstick: a short run with a plain pipeline, which every other recipe has to beat, and the budget of the ablation.
_PLAIN = Augment(
    resample=0.5, scale=(0.5, 1.5), first_encode=0.0, encode=1.0, quality=(50, 96), webp=0.0,
    blur=0.0, noise=0.0, colour=0.0,
)  # fmt: skip
_REFERENCE = Recipe(
    name="reference",
    architecture="npr_resnet",
    steps=1190,
    augment=_PLAIN,
    precision="bf16",
)

RECIPES: dict[str, Recipe] = {
    f"{name}-reference": dataclasses.replace(_REFERENCE, name=f"{name}-reference", config=config)
    for name, config in VARIANTS.items()
}
RECIPES |= {
    "npr-ms-ca": Recipe(
        name="npr-ms-ca",
        architecture="npr_resnet",
        config=VARIANTS["npr-ms-ca"],
        steps=8000,
        sizes=((0.3, 64), (0.45, 96), (0.25, 128)),
        learning_rate=1.5e-3,
        label_smoothing=0.02,
        precision="bf16",
    ),
    # What the report did: whole pictures squashed, formats as they are, so that these can tell the label. `fit` refuses it
    # on data with shortcuts, unless told otherwise.
    "npr-ms-ca-squash": Recipe(
        name="npr-ms-ca-squash",
        architecture="npr_resnet",
        config=VARIANTS["npr-ms-ca"],
        steps=300,
        sizes=((1.0, 224),),
        augment=Augment(squash=True),
        precision="bf16",
    ),
}
# The report's ResNet-50s on small native crops, which a CPU can do, and from random initial values; the report squashed its
# pictures to 224 pixels and began with ImageNet's weights. Views of 96 pixels leave 3x3 positions after the last stage. The
# divergence in the loss already pulls the Bayesian weights towards their prior, so those networks have no weight decay.
RECIPES |= {
    name: Recipe(
        name=name,
        architecture="resnet",
        config=config,
        steps=2000,
        sizes=((0.5, 64), (0.5, 96)),
        weight_decay=0.0 if config.get("bayesian") else 0.02,
        label_smoothing=0.0 if config.get("bayesian") else 0.02,
        precision="bf16",
        loss="elbo" if config.get("bayesian") else "bce",
    )
    for name, config in RESNETS.items()
}
# The report's settings for its frozen backbones, but on native crops; and the same on CLIP's tower up to block 9, of which
# `features` makes caches. The backbone has to be given.
_HALF: RGB = (0.5, 0.5, 0.5)
RECIPES |= {
    name + ending: Recipe(
        name=name + ending,
        architecture="vit",
        config={**config, **more},
        steps=2000,
        sizes=((1.0, 224),),
        augment=Augment(mirror=bool(more)),
        learning_rate=1e-3,
        weight_decay=1e-4,
        precision="bf16",
        mean=mean,
        std=std,
        frozen_backbone=True,
    )
    for name, config in VITS.items()
    for ending, more, mean, std in (("", {}, _HALF, _HALF), ("-on-clip", {"clip_blocks": 9}, CLIP_MEAN, CLIP_STD))
}
# From random weights. Maps of views of 112 pixels, as those of 224, fill windows of 7 without padding up to the third stage.
RECIPES |= {
    name: Recipe(
        name=name,
        architecture=architecture,
        steps=8000,
        sizes=((0.7, 112), (0.3, 224)),
        learning_rate=5e-4,
        warmup=0.05,
        weight_decay=0.05,
        label_smoothing=0.02,
        precision="bf16",
    )
    for name, architecture in (("swin-t", "swin"), ("cvt-13", "cvt"))
}
# SPAI's own settings, but on our views: four patches of one place instead of four views of a picture.
RECIPES["spai"] = Recipe(
    name="spai",
    architecture="spai",
    steps=3000,
    batch_size=72,
    sizes=((1.0, 448),),
    learning_rate=5e-4,
    warmup=0.14,
    weight_decay=0.05,
    precision="bf16",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    frozen_backbone=True,
)


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe of this package by name, or one from a JSON file.

    Raises:
        KeyError: Neither a known name nor a file; the message lists the names.
    """
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise KeyError(f"No recipe or file {name_or_path!r}; recipes of this package: {', '.join(RECIPES)}.")
    return Recipe.from_json(path.read_text(encoding="utf-8"))
