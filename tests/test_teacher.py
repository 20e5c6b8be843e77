"""Runs that begin with given weights, and runs that learn from a teacher beside the labels."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aigidetect.errors import WeightsMismatch
from aigidetect.training.batches import Batches
from aigidetect.training.commands.ship import _how_made
from aigidetect.training.datasets import load_pixels
from aigidetect.training.fit import fit
from aigidetect.training.heads import HeadConfig, out_of_fold
from aigidetect.training.run import Run
from aigidetect.training.teacher import Opinion, key_of, read_teacher, soft_targets, teach, write_teacher

from .fit_case import SMALL
from .test_clip_training import fill

pytestmark = pytest.mark.usefixtures("small_models")


@pytest.fixture
def opinions(samples, tmp_path):
    write_teacher(tmp_path / "t.csv", {key_of(s): Opinion(s.label, (2.0 * s.label, 2.0 * s.label - 1)) for s in samples})
    return tmp_path / "t.csv"


def test_the_teacher_never_saw_the_line_it_speaks_of(tmp_path):
    _, samples, _, cache = fill(tmp_path / "a")
    config = HeadConfig(blocks=(2, 3), weight_decay=0.1)
    taught = teach([cache], [samples], config, folds=2)
    expected = out_of_fold(cache.features[:, :, cache.columns((2, 3))], samples, config, folds=2)
    np.testing.assert_allclose([taught[key_of(s)].logits for s in samples], expected.T)
    assert [taught[key_of(s)].label for s in samples] == [s.label for s in samples]
    with pytest.raises(ValueError, match="share source"):
        teach([cache], [[samples[0]] * 6 + samples[1::2]], config, folds=2)


def test_opinions_survive_the_file_and_a_foreign_file_is_refused(samples, opinions, tmp_path):
    assert read_teacher(opinions) == {key_of(s): Opinion(s.label, (2.0 * s.label, 2.0 * s.label - 1)) for s in samples}
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="columns"):
        read_teacher(tmp_path / "other.csv")


def test_targets_lie_between_label_and_teacher(samples, opinions):
    logits, labels = read_teacher(opinions), torch.tensor([float(s.label) for s in samples])
    opinion = torch.sigmoid(2.0 * labels - 0.5)
    torch.testing.assert_close(soft_targets(samples, logits, 0.0), labels)
    torch.testing.assert_close(soft_targets(samples, logits, 1.0), opinion)
    torch.testing.assert_close(soft_targets(samples, logits, 0.25), 0.25 * opinion + 0.75 * labels)
    del logits[key_of(samples[3])]
    with pytest.raises(ValueError, match=f"1 of {len(samples)} pictures"):
        soft_targets(samples, logits, 0.5)


def test_a_batch_carries_the_target_of_each_of_its_pictures(samples, opinions):
    kept, pixels, _ = load_pixels(samples)
    targets = torch.arange(len(kept)) / len(kept)
    recipe = dataclasses.replace(SMALL, consistency=0.0)
    plain, taught = Batches(recipe, kept, pixels).batch(1), Batches(recipe, kept, pixels, targets).batch(1)
    assert torch.equal(plain[0], taught[0])
    labels = torch.tensor([float(s.label) for s in kept])
    chosen = [(targets == value).nonzero()[0, 0] for value in taught[1][:, 0]]
    assert torch.equal(labels[torch.stack(chosen)], plain[1][:, 0])


def test_a_run_learns_from_the_teacher_only_where_its_recipe_says_so(samples, opinions, tmp_path):
    taught = dataclasses.replace(SMALL, teacher=0.5)
    plain = load_file(fit(SMALL, samples, tmp_path / "plain"))
    other = load_file(fit(taught, samples, tmp_path / "taught", teacher=opinions))
    assert any(not torch.equal(plain[key], other[key]) for key in plain)
    with pytest.raises(ValueError, match="both or neither"):
        fit(taught, samples, tmp_path / "x")
    with pytest.raises(ValueError, match="both or neither"):
        fit(SMALL, samples, tmp_path / "x", teacher=opinions)


def test_a_run_begins_with_the_weights_it_is_given_and_says_which(samples, tmp_path):
    begun = Run(dataclasses.replace(SMALL, seed=5), torch.device("cpu")).network.state_dict()
    save_file(
        {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in begun.items()},
        tmp_path / "start.safetensors",
    )
    still = dataclasses.replace(SMALL, learning_rate=0.0, weight_decay=0.0)
    ended = load_file(fit(still, samples, tmp_path / "run", start=tmp_path / "start.safetensors"))
    for key, value in begun.items():
        if "running" not in key and value.is_floating_point():
            torch.testing.assert_close(ended[key], value.half().float(), rtol=1e-6, atol=1e-6)
    record = json.loads((tmp_path / "run" / "start.json").read_text())
    assert record["file"] == "start.safetensors" and _how_made(tmp_path / "run")["start"] == record


def test_a_run_is_not_continued_from_another_start_nor_begun_with_another_network(samples, tmp_path):
    begun = Run(SMALL, torch.device("cpu")).network.state_dict()
    begun = {k: v.contiguous() for k, v in begun.items()}
    save_file(begun, tmp_path / "a.safetensors")
    save_file({k: v + 1 for k, v in begun.items()}, tmp_path / "b.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors")
    fit(SMALL, samples, tmp_path / "run", start=tmp_path / "a.safetensors", max_steps=1)
    with pytest.raises(ValueError, match="was begun with the start"):
        fit(SMALL, samples, tmp_path / "run", start=tmp_path / "b.safetensors")
    with pytest.raises(WeightsMismatch, match="do not fit"):
        fit(SMALL, samples, tmp_path / "other", start=tmp_path / "c.safetensors")


def test_opinions_are_pooled_as_a_detector_pools_its_views():
    opinion = Opinion(1, (1.0, 3.0, -2.0, 4.0, 9.0))
    assert (
        opinion.pooled(1) == opinion and opinion.pooled(2) == Opinion(1, (2.0, 1.0)) and opinion.pooled(5).logits == (3.0,)
    )
    with pytest.raises(ValueError, match="1 to 5 views"):
        opinion.pooled(6)
