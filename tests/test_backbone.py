"""`fit` on a backbone that is given, and what the recipes of the transformer detectors say."""

import argparse
import dataclasses
import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from aigidetect.convert_transformers import convert_backbone
from aigidetect.errors import WeightsMismatch
from aigidetect.models import cvt, load_architecture, swin, vit
from aigidetect.preprocess import Tiles, normalise
from aigidetect.training.__main__ import main
from aigidetect.training.batches import Batches
from aigidetect.training.commands.measure import _detector
from aigidetect.training.commands.ship import _how_made
from aigidetect.training.datasets import load_pixels
from aigidetect.training.export import export
from aigidetect.training.fit import fit
from aigidetect.training.recipe import RECIPES, Recipe
from aigidetect.training.run import Run

from .fit_case import SMALL, audited

FROZEN = Recipe(
    name="frozen", architecture="small_vit", config={"local": True}, steps=2, batch_size=8, sizes=((1.0, 12),),
    learning_rate=1e-2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), frozen_backbone=True,
)  # fmt: skip
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_models")


@pytest.fixture
def given(tmp_path):
    """A file as the Hub has it, in torchvision's names, with a classifier that is of no use here."""
    torch.manual_seed(7)
    state = load_architecture("small_vit").build().backbone.state_dict()
    state = {key: torch.randn_like(value) for key, value in state.items()} | {"heads.head.weight": torch.zeros(1000, 16)}
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def backbone_in(path):
    return {key: value for key, value in load_file(path).items() if key.startswith("backbone.")}


def test_a_frozen_backbone_ends_as_it_was_given_and_the_rest_does_not(samples, given, tmp_path):
    network = load_architecture("small_vit").build(local=True)
    model = fit(FROZEN, samples, tmp_path / "run", backbone=given)
    expected = convert_backbone(load_file(given), network)
    assert backbone_in(model).keys() == expected.keys()
    assert all(torch.equal(backbone_in(model)[key], value) for key, value in expected.items())
    begun = Run(FROZEN, CPU).network.state_dict()
    for key in ("head.fc1.weight", "local.0.weight", "local_weight"):
        assert not torch.equal(load_file(model)[key], begun[key]), key


def test_a_backbone_that_is_not_frozen_only_begins_as_given(samples, given, tmp_path):
    recipe = dataclasses.replace(FROZEN, frozen_backbone=False, learning_rate=1e-5)
    model = fit(recipe, samples, tmp_path / "run", backbone=given)
    expected = convert_backbone(load_file(given), load_architecture("small_vit").build())
    for key, value in backbone_in(model).items():
        torch.testing.assert_close(value, expected[key], atol=1e-3, rtol=0)
    assert not torch.equal(backbone_in(model)["backbone.conv_proj.weight"], expected["backbone.conv_proj.weight"])


def test_a_frozen_backbone_has_to_be_given_and_to_fit(samples, given, tmp_path):
    with pytest.raises(ValueError, match="--backbone FILE"):
        fit(FROZEN, samples, tmp_path / "run")
    with pytest.raises(ValueError, match="has no backbone"):
        Run(dataclasses.replace(SMALL, frozen_backbone=True), CPU)
    given.write_bytes(b"\x80\x02 a pickle")
    with pytest.raises(WeightsMismatch, match="pickled"):
        fit(FROZEN, samples, tmp_path / "run", backbone=given)
    assert not (tmp_path / "run").exists()


def test_a_run_on_a_frozen_backbone_resumes_bit_equal_with_or_without_the_file_but_with_no_other(samples, given, tmp_path):
    whole = load_file(fit(FROZEN, samples, tmp_path / "whole", backbone=given))
    for name, again in (("with", given), ("without", None)):
        fit(FROZEN, samples, tmp_path / name, backbone=given, max_steps=1)
        if again is None:
            resumed = load_file(fit(FROZEN, samples, tmp_path / name, backbone=again))
            assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    save_file({key: value + 1 for key, value in load_file(given).items()}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="another output folder"):
        fit(FROZEN, samples, tmp_path / "with", backbone=tmp_path / "other.safetensors")
    resumed = load_file(fit(FROZEN, samples, tmp_path / "with", backbone=given))
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_the_file_is_recorded_in_the_run_and_in_what_is_published(data, given, tmp_path):
    (tmp_path / "recipe.json").write_text(FROZEN.to_json())
    run = audited(tmp_path / "run")
    command = ["--threads", "1", "fit", "--recipe", str(tmp_path / "recipe.json"), "--data", str(data), "--out", str(run)]
    assert main(command) == 2
    assert main([*command, "--backbone", str(given)]) == 0
    facts = json.loads((run / "backbone.json").read_text())
    assert facts["sha256"] == hashlib.sha256(given.read_bytes()).hexdigest() and facts["file"] == "model.safetensors"
    assert _how_made(run)["backbone"] == facts


def test_two_detectors_on_one_backbone_are_exported_with_one_file_for_it(samples, given, tmp_path):
    (tmp_path / "manifest.json").write_text('{"schema": 1, "detectors": {}}')
    entries = []
    for name, config in (("plain", {}), ("branch", {"local": True})):
        recipe = dataclasses.replace(FROZEN, name=name, config=config)
        fit(recipe, samples, tmp_path / name, backbone=given)
        tiles, calibration = Tiles(size=12, mean=FROZEN.mean, std=FROZEN.std), None
        entries.append(
            export(tmp_path / name, tmp_path, tmp_path / "manifest.json", name=name, version=1, preprocess=tiles,
                   calibration=calibration, provenance={}, backbone="shared-1")
        )  # fmt: skip
        assert not backbone_in(tmp_path / f"{name}-1.safetensors")
    assert entries[0]["backbone"] == entries[1]["backbone"] and entries[0]["backbone"]["file"] == "shared-1.safetensors"
    assert backbone_in(tmp_path / "shared-1.safetensors")


def test_views_are_normalised_as_the_recipe_says(samples):
    seen = []
    for recipe in (FROZEN, dataclasses.replace(FROZEN, mean=(0.0,) * 3, std=(1.0,) * 3)):
        run, batch = Run(recipe, CPU), Batches(recipe, *load_pixels(samples)[:2]).batch(0)
        run.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        run.update(*batch)
        torch.testing.assert_close(seen[-1], normalise(batch[0], recipe.mean, recipe.std))
    assert not torch.allclose(seen[0], seen[1])


def test_a_run_is_evaluated_with_the_normalisation_of_its_recipe(samples, given, tmp_path):
    fit(FROZEN, samples, tmp_path, backbone=given)
    for said, mean in ({"kind": "tiles", "size": 12}, 0.5), ({"kind": "tiles", "size": 12, "mean": [0.1] * 3}, 0.1):
        asked = {"detector": None, "folder": tmp_path, "preprocess": json.dumps(said), "device": "cpu", "dtype": "float32"}
        assert _detector(argparse.Namespace(**asked)).preprocess == Tiles(size=12, mean=(mean,) * 3, std=(0.5,) * 3)


def test_every_transformer_of_the_report_has_a_recipe_that_builds_it():
    for module in (vit, swin, cvt):
        for name in module.VARIANTS.keys() & RECIPES.keys():
            recipe = RECIPES[name]
            assert module.__name__.endswith(f".{recipe.architecture}")
            assert {**recipe.config} in (module.VARIANTS[name], {})
    assert {"vit", "vit-cnn", "swin-t", "cvt-13"} <= RECIPES.keys()
    for name in ("vit", "vit-cnn"):
        # What the published weights of this backbone were made with.
        assert RECIPES[name].frozen_backbone and RECIPES[name].mean == RECIPES[name].std == (0.5, 0.5, 0.5)
        assert {size for _, size in RECIPES[name].sizes} == {224}
