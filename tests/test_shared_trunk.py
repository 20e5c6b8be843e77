"""Detectors of one family on one trunk in 8 bits: trained on it, evaluated, exported and loaded, bit by bit."""

import dataclasses
import json
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from aigidetect import Calibration, Tiles, cli, load_detector, registry
from aigidetect.errors import WeightsMismatch
from aigidetect.layers.quantised import dequantise
from aigidetect.manifest import load_manifest
from aigidetect.models import resnet
from aigidetect.training import export as exporting
from aigidetect.training.__main__ import main
from aigidetect.training.card import model_card
from aigidetect.training.commands.ship import _how_made
from aigidetect.training.export import export, run_detector, run_network
from aigidetect.training.fit import fit
from aigidetect.training.publish import prepare
from aigidetect.training.quantise import quantise_run
from aigidetect.training.recipe import RECIPES, load_recipe
from aigidetect.training.zoo import _row

RECIPES_OF_DOCS = Path(__file__).parent.parent / "docs" / "recipes"
NAMES = tuple(resnet.VARIANTS)
TILES, LEVELS = Tiles(size=32, max_tiles=2), 15
FEW = {"steps": 2, "batch_size": 4, "sizes": ((1.0, 32),), "precision": "fp32"}


def recipe_of(name):
    frozen = name != "resnet50"
    recipe = load_recipe(str(RECIPES_OF_DOCS / f"{name}-frozen.json")) if frozen else RECIPES[name]
    return dataclasses.replace(recipe, **FEW)


def stage(width_in, width, stride):
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def thin(weights, num_classes):
    """The parts of a ResNet-50, of one convolution each and narrow but for the last."""
    return SimpleNamespace(
        conv1=nn.Conv2d(3, 8, 7, 2, 3, bias=False), bn1=nn.BatchNorm2d(8), relu=nn.ReLU(), maxpool=nn.MaxPool2d(3, 2, 1),
        layer1=stage(8, 8, 1), layer2=stage(8, 8, 2), layer3=stage(8, 8, 2), layer4=stage(8, 2048, 2),
        avgpool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(2048, num_classes),
    )  # fmt: skip


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "resnet50", thin)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield patch
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def family(small, samples, tmp_path_factory):
    """Runs, weights and manifest of the three detectors: the whole way of the documentation."""
    root = tmp_path_factory.mktemp("family")
    manifest, folder = root / "manifest.json", root / "weights"
    manifest.write_text('{"schema": 1, "detectors": {}}')
    folder.mkdir()
    fit(recipe_of("resnet50"), samples, root / "float")
    quantise_run(root / "float", root / "resnet50", LEVELS)
    trunk = folder / "resnet50-trunk-1.safetensors"
    for name in NAMES:
        if name != "resnet50":
            fit(recipe_of(name), samples, root / name, backbone=trunk)
        provenance = {"licence": "Apache-2.0", **_how_made(root / name)}
        facts = {"preprocess": TILES, "calibration": Calibration(temperature=0.5), "provenance": provenance}
        export(root / name, folder, manifest, name=name, version=1, backbone=trunk.stem, **facts)
    return SimpleNamespace(root=root, folder=folder, trunk=trunk, book=load_manifest(manifest))


@pytest.fixture
def published(family, monkeypatch):
    """The family as what `load_detector` finds."""
    monkeypatch.setattr(registry, "load_manifest", lambda: family.book)
    monkeypatch.setenv("AIGIDETECT_WEIGHTS_DIR", str(family.folder))
    return family


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in state.items())


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_recipes_of_the_variants_train_them_on_a_frozen_trunk(name):
    recipe = load_recipe(str(RECIPES_OF_DOCS / f"{name}-frozen.json"))
    assert recipe.frozen_backbone and recipe.loss == "elbo" and recipe.config == resnet.VARIANTS[name]
    trunk = RECIPES["resnet50"]
    assert (recipe.mean, recipe.std, recipe.augment) == (trunk.mean, trunk.std, trunk.augment)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_is_to_the_bit_what_was_evaluated(published, name):
    evaluated = run_detector(published.root / name, TILES, device="cpu")
    loaded = load_detector(name, device="cpu")
    assert loaded.name == f"{name}@1" and loaded.calibration.temperature == 0.5
    assert same(loaded.network.state_dict(), evaluated.network.state_dict())
    views = [torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))]
    assert loaded.view_logits(views) == evaluated.view_logits(views)


def test_only_the_trunk_loses_digits_and_at_most_half_a_step(family):
    before, stored = (load_file(family.root / run / "model.safetensors") for run in ("float", "resnet50"))
    after, matrices = run_network(family.root / "resnet50").state_dict(), 0
    for key, value in before.items():
        if value.ndim < 2 or key.startswith("fc."):
            assert torch.equal(value, after[key]), key
            continue
        scale = stored[f"{key}_scale"].reshape(-1, *[1] * (value.ndim - 1))
        assert ((value - after[key]).abs() <= 0.501 * scale).all() and stored[key].abs().max() == LEVELS
        matrices += 1
    assert matrices == 5


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_frozen_trunk_ends_to_the_bit_as_it_was_given_and_the_rest_is_trained(family, name):
    assert_only_the_rest_was_trained(family, name, family.root / name / "model.safetensors")


def assert_only_the_rest_was_trained(family, name, path):
    trunk, model = load_file(family.trunk), load_file(path)
    assert all(torch.equal(value, model[key]) for key, value in trunk.items())
    torch.manual_seed(recipe_of(name).seed)
    begun = resnet.build(**resnet.VARIANTS[name]).state_dict()
    rest = model.keys() - trunk.keys()
    assert rest == {key for key in begun if key.startswith(("fc.", "attention."))}
    assert not any(torch.equal(model[key], begun[key]) for key in rest)


def test_the_three_share_one_file_which_each_counts_and_names(family):
    assert {path.name for path in family.folder.iterdir()} == {family.trunk.name, *(f"{n}-1.safetensors" for n in NAMES)}
    trunk = load_file(family.trunk)
    for name in NAMES:
        entry = family.book.get(name)
        assert entry.backbone == family.book.get("resnet50").backbone and entry.backbone.file == family.trunk.name
        assert not load_file(family.folder / entry.weights.file).keys() & trunk.keys()
        megabytes = (family.trunk.stat().st_size + (family.folder / entry.weights.file).stat().st_size) / 1e6
        assert cli._summary(entry) == f"{megabytes:.1f} MB, in this package" and f"| {megabytes:.1f} |" in _row(entry, None)
        card, files = str(model_card(entry, "org/name")), prepare(entry, family.folder, "org/name")
        assert entry.backbone.sha256 in card and entry.weights.sha256 in card
        assert {"model.safetensors", family.trunk.name} <= files.keys()


def test_how_a_trunk_was_made_is_told_with_each_of_its_detectors(family):
    begun = family.book.get("resnet50-bnn").provenance["backbone"]
    assert begun["sha256"] == family.book.get("resnet50-bnn").backbone.sha256
    quantised = family.book.get("resnet50").provenance["quantised"]
    assert quantised == {"levels": LEVELS, "run_sha256": exporting.run_sha256(family.root / "float")}


def test_another_trunk_under_the_same_name_is_refused(family, tmp_path):
    quantise_run(family.root / "float", tmp_path / "run", LEVELS - 1)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "detectors": {}}')
    facts = {"preprocess": TILES, "calibration": Calibration(), "provenance": {}, "backbone": family.trunk.stem}
    before = family.trunk.read_bytes()
    with pytest.raises(ValueError, match="another name"):
        export(tmp_path / "run", family.folder, tmp_path / "manifest.json", name="other", version=1, **facts)
    assert family.trunk.read_bytes() == before and not (family.folder / "other-1.safetensors").exists()


def test_a_run_on_a_trunk_is_resumed_without_its_file(family, samples, tmp_path):
    recipe = recipe_of("resnet50-bnn")
    fit(recipe, samples, tmp_path, backbone=family.trunk, max_steps=1)
    resumed = load_file(fit(recipe, samples, tmp_path))
    assert same(resumed, load_file(family.root / "resnet50-bnn" / "model.safetensors"))


def test_a_trunk_that_is_not_frozen_is_stored_in_full(family, samples, tmp_path):
    recipe = dataclasses.replace(recipe_of("resnet50-bnn"), frozen_backbone=False, steps=1)
    model = load_file(fit(recipe, samples, tmp_path, backbone=family.trunk))
    begun = dequantise(load_file(family.trunk))
    assert model["layer2.0.weight"].dtype == torch.float32 and not any(key.endswith("_scale") for key in model)
    assert not torch.equal(model["layer2.0.weight"], begun["layer2.0.weight"])


def test_a_trunk_without_its_scales_is_refused(family, samples, tmp_path):
    state = load_file(family.trunk)
    del state["conv1.weight_scale"]
    save_file(state, tmp_path / "trunk.safetensors")
    with pytest.raises(ValueError, match=r"conv1\.weight_scale"):
        fit(recipe_of("resnet50-bnn"), samples, tmp_path / "run", backbone=tmp_path / "trunk.safetensors")


def test_weights_of_your_own_replace_the_shared_trunk(published):
    own = published.root / "float" / "model.safetensors"
    detector = load_detector("resnet50", weights=own, device="cpu")
    assert detector.name == "resnet50@1+custom" and same(detector.network.state_dict(), load_file(own))


def test_weights_of_your_own_with_a_part_of_a_trunk_are_refused_and_with_none_join_the_shared_one(published, tmp_path):
    state = load_file(published.root / "float" / "model.safetensors")
    save_file({key: value for key, value in state.items() if key.startswith("fc.")}, tmp_path / "head.safetensors")
    joined = load_detector("resnet50", weights=tmp_path / "head.safetensors", device="cpu").network.state_dict()
    assert same(joined, run_network(published.root / "resnet50").state_dict())
    save_file({key: value for key, value in state.items() if key != "bn1.bias"}, tmp_path / "part.safetensors")
    with pytest.raises(WeightsMismatch, match=r"missing: bn1\.bias"):
        load_detector("resnet50", weights=tmp_path / "part.safetensors", device="cpu")


def test_the_command_tells_what_a_wheel_will_hold_and_keeps_what_is_there(family, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["quantise", "--run", str(family.root / "float"), "--levels", str(LEVELS), "--out", str(out)]
    assert main(command) == 0
    content = (out / "model.safetensors").read_bytes()
    assert f"{len(content):,} bytes, {len(zlib.compress(content)):,} in a wheel" in capsys.readouterr().out
    assert same(load_file(out / "model.safetensors"), load_file(family.root / "resnet50" / "model.safetensors"))
    assert main(command) == 2 and "another output folder" in capsys.readouterr().err
    again = ["quantise", "--run", str(out), "--out", str(tmp_path / "again")]
    assert main(again) == 2 and "quantised before" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_a_network_without_a_backbone_is_not_quantised(family, tmp_path):
    shutil.copytree(family.root / "float", tmp_path / "run")
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({**recipe, "architecture": "npr_resnet", "config": {}}))
    with pytest.raises(ValueError, match="no backbone"):
        quantise_run(tmp_path / "run", tmp_path / "out", LEVELS)


@pytest.mark.slow
def test_a_compiled_run_leaves_a_frozen_trunk_as_it_was_given(family, samples, tmp_path):
    model = fit(recipe_of("resnet50-sa-bnn"), samples, tmp_path, backbone=family.trunk, compiled=True)
    assert_only_the_rest_was_trained(family, "resnet50-sa-bnn", model)
