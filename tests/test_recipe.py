"""What a recipe can say, and what it answers to what it cannot."""

import dataclasses

import numpy as np
import pytest

from aigidetect.training.recipe import Recipe

from .fit_case import SMALL, older

# The training of the report's final network: 438 steps an epoch, one drop after the eleventh of twenty epochs.
REPORT = Recipe(
    name="report", architecture="npr_resnet", steps=20 * 438, batch_size=64, sizes=((1.0, 224),), balance=1.0, ema_decay=0.0,
    learning_rate=2e-4, warmup=0.0, optimiser="adam", weight_decay=0.0, schedule="step", drop_steps=(11 * 438,),
)  # fmt: skip


def test_a_recipe_of_an_older_version_reads_with_what_that_version_did():
    recipe = Recipe.from_json(older(SMALL))
    assert recipe == SMALL
    assert (recipe.optimiser, recipe.schedule, recipe.accumulate, recipe.loss) == ("adamw", "cosine", 1, "bce")
    assert Recipe.from_json(REPORT.to_json()) == REPORT


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimiser": "sgd"}, "adamw, adam"),
        ({"schedule": "linear"}, "cosine, constant, step"),
        ({"precision": "fp8"}, "bf16, fp16, fp32"),
        ({"loss": "mse"}, "bce, elbo"),
        ({"schedule": "step"}, "drop_steps"),
        ({"drop_steps": (3,)}, "drop_steps"),
        ({"schedule": "step", "drop_steps": (4, 2)}, "rising"),
        ({"accumulate": 3}, "multiple of 12"),
        ({"accumulate": 0}, "at least 1"),
        ({"hard_negatives": 0.0}, "hard_negatives"),
        ({"hard_negatives": 0.5, "loss": "elbo"}, "hard_negatives"),
    ],
)
def test_what_a_recipe_cannot_be_is_answered_with_what_it_can(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **changes)


def test_schedules_are_what_they_are_called():
    assert [REPORT.rate_at(step) for step in (0, 4817, 4818, 8759)] == pytest.approx([2e-4, 2e-4, 1.8e-4, 1.8e-4])
    rates = {
        name: [dataclasses.replace(SMALL, steps=100, warmup=0.1, schedule=name).rate_at(step) for step in range(100)]
        for name in ("cosine", "constant")
    }
    for rising in rates.values():
        assert np.allclose(np.diff(rising[:10]), SMALL.learning_rate / 10)
    assert set(rates["constant"][10:]) == {SMALL.learning_rate}
    assert np.all(np.diff(rates["cosine"][10:]) < 0)
    assert rates["cosine"][55] == pytest.approx(0.505 * SMALL.learning_rate)
