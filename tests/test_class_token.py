"""ViT detectors on CLIP's tower: the network, `fit` on it and on cached class tokens of it, and names of versions."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import layer_norm

from aigidetect import load_detector, manifest
from aigidetect.convert_file import convert_file
from aigidetect.errors import WeightsMismatch
from aigidetect.layers.quantised import dequantise
from aigidetect.models import clip_vit, vit
from aigidetect.preprocess import Tiles, normalise
from aigidetect.training.__main__ import main
from aigidetect.training.augment import Augment
from aigidetect.training.class_token import RECORD, TokenBatches, match_caches
from aigidetect.training.commands.ship import _how_made
from aigidetect.training.datasets import digest, load_pixels
from aigidetect.training.export import export, run_detector
from aigidetect.training.features import extract, open_cache, random_views
from aigidetect.training.fit import fit
from aigidetect.training.recipe import RECIPES, Recipe

from . import test_vit_parity as vit_case
from .clip_case import quantised
from .fit_case import audited

MEAN, STD = clip_vit.CLIP_MEAN, clip_vit.CLIP_STD
AUGMENT = Augment(mirror=True)
ON_CLIP = Recipe(
    name="on-clip", architecture="small_vit", config={"clip_blocks": 2}, steps=4, batch_size=8, sizes=((1.0, 12),),
    augment=AUGMENT, learning_rate=1e-2, mean=MEAN, std=STD, frozen_backbone=True,
)  # fmt: skip
WITH_BRANCH = dataclasses.replace(ON_CLIP, config={"clip_blocks": 2, "local": True}, sizes=((1.0, 8),))
pytestmark = pytest.mark.usefixtures("small_models")


def tower_state(blocks):
    """A tower file's tensors: matrices of the blocks in 8 bits, everything else with random values."""
    torch.manual_seed(5)
    network = clip_vit.CLIPViT(blocks=blocks, taps=(blocks,), width=16, heads=2, patch=4, image_size=12)
    state = {f"tower.{key}": 0.3 * torch.randn_like(value) for key, value in network.tower.state_dict().items()}
    for key in [key for key in state if ".blocks." in key and state[key].ndim == 2]:
        state[key], state[f"{key}_scale"] = quantised(state[key])
    return state


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A tower of three blocks, of which the networks here take two."""
    path = tmp_path_factory.mktemp("tower") / "tower.safetensors"
    save_file(tower_state(3), path)
    return path


def network_with(tower, **config):
    network = vit.ViT(width=16, heads=2, patch=4, image_size=12, clip_blocks=2, **config).eval()
    state = dequantise({key: value for key, value in load_file(tower).items() if ".blocks.2." not in key})
    network.tower.load_state_dict({key.removeprefix("tower."): value for key, value in state.items()})
    return network


@pytest.fixture(scope="module")
def folders(tower, samples, tmp_path_factory):
    """Caches of three and of two views of the same pictures."""
    pixels, made = load_pixels(samples)[1], []
    for seed, views in ((0, 3), (1, 2)):
        made.append(tmp_path_factory.mktemp("cache"))
        facts = {"data": digest(samples), "augment": json.loads(json.dumps(dataclasses.asdict(AUGMENT))), "seed": seed}
        view = random_views(AUGMENT, pixels, 12, seed)
        extract(network_with(tower).tower, view, (views, len(samples)), made[-1], facts=facts, bf16=False)
    return made


@pytest.fixture
def caches(folders, samples):
    return match_caches([open_cache(folder) for folder in folders], [samples])


# --- the network ---


@torch.inference_mode()
def test_the_head_reads_the_normalised_class_token_of_the_last_block_and_the_branch(tower):
    network = network_with(tower, local=True)
    x = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    [tokens] = network.tower(x)
    token = layer_norm(tokens[:, 0], (16,), eps=1e-5)
    torch.testing.assert_close(network.class_token(x), token)
    torch.testing.assert_close(network(x), network.head(token + network.local(x)))
    # Where the token is known, only the branch sees the views, and it takes any size.
    torch.testing.assert_close(network(x, token), network(x))
    torch.testing.assert_close(network(x[..., :8, :8], token), network.head(token + network.local(x[..., :8, :8])))
    with pytest.raises(ValueError, match=r"\(N, 3, 12, 12\)"):
        network(x[..., :8, :8])


def test_a_network_on_clip_takes_the_names_of_the_shared_tower_and_has_no_later_blocks():
    with torch.device("meta"):
        own = vit.build(clip_blocks=9).state_dict()
        clip = clip_vit.build(blocks=9).state_dict()
        assert not any(key.startswith("tower.") for key in vit.build().state_dict())
    towers = [{k: v.shape for k, v in state.items() if k.startswith("tower.")} for state in (own, clip)]
    assert towers[0] == towers[1] and not any(key.startswith("backbone.") for key in own)
    with pytest.raises(ValueError, match="at least 1"):
        vit.build(clip_blocks=0)


def test_gradient_reaches_head_branch_and_tower(tower):
    network = network_with(tower, local=True).train()
    network(torch.randn(4, 3, 12, 12)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


# --- training ---


def test_a_tower_in_8_bits_stays_as_it_was_given(tower, samples, tmp_path):
    model = load_file(fit(dataclasses.replace(ON_CLIP, steps=2), samples, tmp_path, backbone=tower))
    given = {k: v for k, v in load_file(tower).items() if ".blocks.2." not in k}
    assert {k for k in model if k.startswith("tower.")} == given.keys()
    assert all(torch.equal(model[key], value) for key, value in given.items())


def test_batches_hold_tokens_and_parts_of_the_very_views_of_the_caches(tower, samples, caches):
    pixels = load_pixels(samples)[1]
    batches = TokenBatches(WITH_BRANCH, samples, pixels, None, caches=caches, network=network_with(tower))
    views, targets, tokens = batches.batch(3)
    assert views.shape == (8, 3, 8, 8) and views.dtype == torch.uint8 and targets.shape == (8, 1)
    whole = dataclasses.replace(WITH_BRANCH, sizes=((1.0, 12),))
    batches = TokenBatches(whole, samples, pixels, None, caches=caches, network=network_with(tower))
    views, targets, tokens = batches.batch(3)
    again = batches.batch(3)
    assert all(torch.equal(a, b) for a, b in zip((views, targets, tokens), again))
    with torch.inference_mode():
        expected = network_with(tower).class_token(normalise(views, MEAN, STD))
    torch.testing.assert_close(tokens, expected, atol=5e-3, rtol=0)
    drawn = {view.numpy().tobytes() for step in range(40) for view in batches.batch(step)[0]}
    assert len(drawn) == 5 * len(samples)  # of both caches
    blind = TokenBatches(ON_CLIP, samples, [], None, caches=caches, network=network_with(tower)).batch(3)
    assert blind[0].shape == (8, 3, 0, 0) and torch.equal(blind[2], tokens)


@pytest.mark.parametrize("recipe", [ON_CLIP, WITH_BRANCH], ids=["alone", "branch"])
def test_a_run_on_tokens_resumes_bit_equal_and_leaves_a_model_with_the_tower(recipe, tower, samples, caches, tmp_path):
    whole = load_file(fit(recipe, samples, tmp_path / "whole", backbone=tower, features=caches))
    fit(recipe, samples, tmp_path / "cut", backbone=tower, features=caches, max_steps=2)
    with pytest.raises(ValueError, match="same --features"):
        fit(recipe, samples, tmp_path / "cut")
    cut = load_file(fit(recipe, samples, tmp_path / "cut", features=caches))
    assert cut.keys() == whole.keys() and all(torch.equal(cut[key], value) for key, value in whole.items())
    plain = load_file(fit(dataclasses.replace(recipe, sizes=((1.0, 12),)), samples, tmp_path / "plain", backbone=tower))
    assert whole.keys() == plain.keys()
    assert all(torch.equal(whole[key], value) for key, value in plain.items() if key.startswith("tower."))
    assert not torch.equal(whole["head.fc1.weight"], plain["head.fc1.weight"])
    assert [facts["views"] for facts in json.loads((tmp_path / "whole" / RECORD).read_text())] == [3, 2]


def test_caches_that_are_not_of_this_tower_pipeline_or_data_are_refused(tower, samples, folders, caches, tmp_path):
    save_file({k: v if "fc1" in k else v + v for k, v in load_file(tower).items()}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="another tower or pipeline"):
        fit(ON_CLIP, samples, tmp_path / "a", backbone=tmp_path / "other.safetensors", features=caches)
    cases = (
        (dataclasses.replace(ON_CLIP, augment=Augment()), "another pipeline"),
        (dataclasses.replace(ON_CLIP, frozen_backbone=False), "keep a tower of CLIP frozen"),
        (dataclasses.replace(WITH_BRANCH, sizes=((1.0, 16),)), "at most 12 pixels"),
    )
    for number, (recipe, words) in enumerate(cases):
        with pytest.raises(ValueError, match=words):
            fit(recipe, samples, tmp_path / f"case-{number}", backbone=tower, features=caches)
    with pytest.raises(ValueError, match="other pictures"):
        match_caches([open_cache(folders[0])], [samples[1:]])
    half = [dataclasses.replace(caches[0], samples=samples[:6])]
    with pytest.raises(ValueError, match="6 of 12 training pictures are in no cache"):
        fit(ON_CLIP, samples, tmp_path / "b", backbone=tower, features=half)


def test_the_command_makes_a_run_that_ships_beside_others_on_the_same_tower(data, tower, folders, tmp_path):
    (tmp_path / "manifest.json").write_text('{"schema": 1, "detectors": {}}')
    entries = []
    for recipe in (ON_CLIP, WITH_BRANCH):
        name = f"vit{len(entries)}"
        (tmp_path / f"{name}.json").write_text(recipe.to_json())
        run = audited(tmp_path / name)
        command = ["--threads", "1", "fit", "--recipe", f"{tmp_path / name}.json", "--data", str(data), "--out", str(run)]
        assert main([*command, "--backbone", str(tower), "--features", *map(str, folders)]) == 0
        made = _how_made(run)
        assert made["backbone"]["file"] == "tower.safetensors" and len(made["features"]) == 2
        tiles = Tiles(12, 1, mean=MEAN, std=STD)
        entries.append(
            export(run, tmp_path, tmp_path / "manifest.json", name=name, version=2, preprocess=tiles,
                   calibration=run_detector(run, tiles).calibration, provenance=made, backbone="shared-1")
        )  # fmt: skip
    assert entries[0]["backbone"] == entries[1]["backbone"]
    book = manifest.load_manifest(tmp_path / "manifest.json")
    for entry in book:
        own = load_file(tmp_path / f"{entry.name}-2.safetensors")
        assert not any(key.startswith("tower.") for key in own)
    assert main([*command[:-1], str(tmp_path / "none"), "--features", str(tmp_path)]) == 2


def test_the_recipes_on_clip_are_those_of_the_report_with_its_tower():
    for name in ("vit", "vit-cnn"):
        own, reports = RECIPES[f"{name}-on-clip"], RECIPES[name]
        changed = {"name", "config", "augment", "mean", "std"}
        differing = {f.name for f in dataclasses.fields(Recipe) if getattr(own, f.name) != getattr(reports, f.name)}
        assert differing == changed and own.config == {**reports.config, "clip_blocks": 9}
        assert (own.mean, own.std) == (MEAN, STD)


# --- two versions of a name ---


@pytest.fixture
def two_versions(monkeypatch, tmp_path):
    """The packaged manifest with a version of `vit` on CLIP's tower; networks are reduced."""
    monkeypatch.chdir(tmp_path)
    book = json.loads(manifest._default_path().read_text(encoding="utf-8"))
    book["detectors"]["vit@9"] = {**book["detectors"]["vit@1"], "config": {"clip_blocks": 2}}
    (tmp_path / "manifest.json").write_text(json.dumps(book), encoding="utf-8")
    monkeypatch.setattr(manifest, "_default_path", lambda: tmp_path / "manifest.json")
    monkeypatch.setattr(vit, "build", lambda **options: vit.ViT(**vit_case.TINY_VIT, **options))
    save_file({k: v.contiguous() for k, v in vit_case.original_state("vit_tiny_cfg").items()}, "theirs.safetensors")


@pytest.mark.usefixtures("two_versions")
@torch.inference_mode()
def test_a_converted_checkpoint_is_loaded_as_the_version_with_its_network(capsys):
    made = convert_file("theirs.safetensors", "vit", "ours.safetensors", activation="relu")
    x = vit_case.inputs_of("vit_tiny_cfg")
    logits = []
    for name in ("vit", "vit@1"):
        detector = load_detector(name, weights="ours.safetensors", device="cpu")
        assert detector.name == "vit@1+custom" and isinstance(detector.network.head.activation, torch.nn.ReLU)
        logits.append(detector.network(x))
    torch.testing.assert_close(*logits, atol=0, rtol=0)
    assert made.next_step == "load_detector('vit', weights='ours.safetensors')"
    with pytest.raises(WeightsMismatch, match="states the options"):
        load_detector("vit@9", weights="ours.safetensors")
    with pytest.raises(ValueError, match="'vit@9'; only for"):
        convert_file("theirs.safetensors", "vit@9", "more.safetensors")


@pytest.mark.usefixtures("two_versions")
def test_a_file_that_states_nothing_belongs_to_the_newest_version_or_to_the_one_that_is_named():
    states = [vit.build(clip_blocks=2).state_dict(), vit.build().state_dict()]
    for state, name, found in zip(states, ("vit", "vit@1"), ("vit@9", "vit@1")):
        save_file(state, "own.safetensors")
        assert load_detector(name, weights="own.safetensors", device="cpu").name == f"{found}+custom"
