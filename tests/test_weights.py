"""Manifest entry -> verified state dict, from every place but the Hub, and into a module."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from aigidetect import weights as weights_module
from aigidetect.errors import WeightsError, WeightsMismatch, WeightsNotAvailable
from aigidetect.manifest import ManifestEntry, WeightsFile
from aigidetect.state import Unfilled, load_into
from aigidetect.weights import fetch, load_state_dict, locate

from .weights_case import CONTENT, OTHER, SHA256, STATE, entry

LINKS = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
UNPUBLISHED = ManifestEntry("vit", 1, "vit", {}, {"kind": "tiles"}, None, None, 8, None, None, "Train them first.")


@pytest.fixture(autouse=True)
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package folder, no folder of the user's, and a cache of its own."""
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(weights_module, "_BUNDLED", folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIGIDETECT_WEIGHTS_DIR", raising=False)
    return folder


def test_bundled_file_needs_no_hub_and_is_checked(bundled: Path) -> None:
    mine = entry(file="npr-1.safetensors", hub=False)
    with pytest.raises(WeightsNotAvailable, match=r"come with aigidetect.*is missing.*pip install"):
        locate(mine)
    (bundled / "npr-1.safetensors").write_bytes(CONTENT)
    assert load_state_dict(mine)[1] == SHA256
    assert fetch(mine, force=True) == bundled / "npr-1.safetensors"
    (bundled / "npr-1.safetensors").write_bytes(OTHER)
    with pytest.raises(WeightsMismatch, match="force-reinstall"):
        load_state_dict(mine)


@LINKS
def test_link_out_of_the_package_is_refused(bundled: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    (bundled / "npr-1.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="outside of"):
        locate(entry(file="npr-1.safetensors"))


@pytest.mark.parametrize("name", ["../a.safetensors", "/a.safetensors", "x\\a.safetensors", "C:a.safetensors", ""])
def test_entry_made_by_hand_cannot_leave_the_folders(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(CONTENT)
    for outside in (entry(file=name), entry(filename=name)):
        with pytest.raises(WeightsError, match="expected a bare name"):
            locate(outside)


@pytest.mark.parametrize("name", ["bundled.safetensors", "npr-1.safetensors", "model.safetensors"])
def test_folder_of_the_environment_comes_before_the_package(
    name: str, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = entry(file="bundled.safetensors")
    (bundled / "bundled.safetensors").write_bytes(CONTENT)
    monkeypatch.setenv("AIGIDETECT_WEIGHTS_DIR", str(tmp_path / "none"))
    assert locate(mine) == bundled / "bundled.safetensors"
    monkeypatch.setenv("AIGIDETECT_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / name).write_bytes(CONTENT)
    assert locate(mine) == tmp_path / name
    (tmp_path / name).write_bytes(OTHER)
    with pytest.raises(WeightsMismatch, match="unset AIGIDETECT_WEIGHTS_DIR"):
        load_state_dict(mine)


def test_own_file_or_folder_is_loaded_with_its_own_hash(tmp_path: Path, bundled: Path) -> None:
    (bundled / "npr-1.safetensors").write_bytes(CONTENT)
    own = tmp_path / "npr-1.safetensors"
    own.write_bytes(OTHER)
    for path in (own, str(own), tmp_path):
        state, sha256 = load_state_dict(entry(file="npr-1.safetensors"), weights=path)
        assert sha256 == hashlib.sha256(OTHER).hexdigest()
        assert not state["weight"].any()
    assert load_state_dict(UNPUBLISHED, weights=own)[1] == sha256


@pytest.mark.parametrize("path", ["", "none.safetensors", ".", "nul\0", "~nobody-of-that-name/a"])
def test_own_path_without_weights_says_what_was_expected(path: str) -> None:
    with pytest.raises(WeightsNotAvailable, match=r"expected a safetensors file, or a folder that has npr-1\."):
        load_state_dict(entry(), weights=path)


def test_architecture_without_published_weights_says_how_to_get_them() -> None:
    for call in (locate, load_state_dict, fetch):
        with pytest.raises(WeightsNotAvailable, match=r"'vit@1' has no published weights\. Train them first\."):
            call(UNPUBLISHED)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("was-run",)


@pytest.mark.parametrize("kind", ["pickle", "torch", "truncated", "empty", "header"])
def test_file_that_is_no_safetensors_is_refused_and_never_unpickled(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.pth"
    contents = {"pickle": pickle.dumps(Payload()), "truncated": CONTENT[:-4], "empty": b"", "header": b"\xff" * 64}
    if kind == "torch":
        torch.save({"weight": Payload()}, path)
    else:
        path.write_bytes(contents[kind])
    with pytest.raises(WeightsMismatch, match=r"not an intact safetensors file.*aigidetect convert FILE"):
        load_state_dict(entry(), weights=path)
    assert not (tmp_path / "was-run").exists()


def test_unreadable_file_is_weights_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(CONTENT)
    monkeypatch.setattr(weights_module, "_find", lambda *args: weights_module._Found(tmp_path, "path"))
    with pytest.raises(WeightsNotAvailable, match="Cannot read the weights"):
        load_state_dict(entry(), weights=path)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stored_type_is_cast_to_the_type_of_the_module(stored: torch.dtype) -> None:
    module = torch.nn.Linear(3, 2)
    load_into(module, {key: value.to(stored) for key, value in STATE.items()}, origin="npr@1")
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, STATE["weight"].float())


def test_what_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    module = torch.nn.BatchNorm2d(2)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = {**before, "weight": torch.zeros(3), "num_batches_tracked": torch.tensor(1.5), "bias": torch.ones(2)}
    del state["running_mean"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(7)}
    with pytest.raises(WeightsMismatch) as caught:
        load_into(module, state, origin="my.safetensors")
    message = str(caught.value)
    assert "my.safetensors do not fit the network BatchNorm2d" in message
    assert "missing: running_mean" in message
    assert "unexpected: extra0, extra1, extra2, extra3, extra4 and 2 more" in message
    assert "weight (expected float (2,), got float (3,))" in message
    assert "num_batches_tracked (expected int64 (), got float ())" in message
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


BACKBONE = safetensors.torch.save({"tower": torch.ones(3), "bias": torch.zeros(2)})


@pytest.fixture
def with_backbone(bundled: Path) -> ManifestEntry:
    digest = hashlib.sha256(BACKBONE).hexdigest()
    shared = WeightsFile("tower-1.safetensors", None, None, None, digest, len(BACKBONE))
    (bundled / "npr-1.safetensors").write_bytes(CONTENT)
    (bundled / "tower-1.safetensors").write_bytes(BACKBONE)
    return dataclasses.replace(entry(file="npr-1.safetensors", hub=False), backbone=shared)


def test_a_backbone_is_joined_to_the_checkpoint_whose_own_tensors_count(with_backbone: ManifestEntry) -> None:
    state, sha256 = load_state_dict(with_backbone)
    assert sha256 == SHA256 and state.keys() == {"weight", "bias", "tower"}
    assert torch.equal(state["bias"], STATE["bias"]) and torch.equal(state["tower"], torch.ones(3))
    assert fetch(with_backbone).name == "npr-1.safetensors"


def test_a_changed_or_missing_backbone_is_not_loaded(with_backbone: ManifestEntry, bundled: Path) -> None:
    (bundled / "tower-1.safetensors").write_bytes(BACKBONE[:-1] + b"x")
    for call in (load_state_dict, fetch):
        with pytest.raises(WeightsMismatch, match=r"tower-1\.safetensors is not the published"):
            call(with_backbone)
    (bundled / "tower-1.safetensors").unlink()
    with pytest.raises(WeightsNotAvailable, match=r"tower-1\.safetensors is missing"):
        load_state_dict(with_backbone)


def test_a_backbone_is_also_found_in_the_folder(
    with_backbone: ManifestEntry, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundled / "tower-1.safetensors").unlink()
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "tower-1.safetensors").write_bytes(BACKBONE)
    monkeypatch.setenv("AIGIDETECT_WEIGHTS_DIR", str(folder))
    assert "tower" in load_state_dict(with_backbone)[0]


def test_a_network_that_is_filled_at_once_draws_no_numbers_and_is_the_same_network() -> None:
    def build() -> torch.nn.Module:
        return torch.nn.ModuleList((torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 4)))

    source, before = build().state_dict(), torch.get_rng_state()
    with Unfilled():
        network = build()
    assert torch.equal(torch.get_rng_state(), before)
    load_into(network, source, origin="test")
    assert all(torch.equal(value, source[key]) for key, value in network.state_dict().items())
    build()
    assert not torch.equal(torch.get_rng_state(), before)


def test_draws_that_repeat_until_they_fit_end_in_an_unfilled_network_too() -> None:
    with Unfilled():
        weight = torch.nn.init.trunc_normal_(torch.full((64,), 9.0), a=-2, b=2)
    assert weight.abs().max() <= 2
