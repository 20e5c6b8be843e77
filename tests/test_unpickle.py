"""Pickled checkpoints: what is read, what is refused, and that nothing in a hostile one runs."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aigidetect import checkpoint
from aigidetect.checkpoint import read_checkpoint
from aigidetect.errors import CheckpointRefused, WeightsError, WeightsMismatch, WeightsNotAvailable

from .foreign_case import (
    attacks,
    claiming,
    config_node,
    hostile_files,
    overstated,
    packed,
    read_here,
    saved,
    stretched,
    unpickle,
)

# torch warns of protocols that it does not expect, which is the point of these files.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, -1.0]).half(), "n": torch.tensor(3)}


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(checkpoint, "_run_reader", read_here)


def assert_state(found: object, prefix: str = "") -> None:
    assert isinstance(found, dict) and found.keys() == {prefix + key for key in STATE}
    for key, value in STATE.items():
        assert found[prefix + key].dtype == value.dtype and torch.equal(found[prefix + key], value)


# --- what is read ---


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
def test_tensors_come_back_in_their_wrapper_with_type_and_value(tmp_path, wrapper, legacy):
    prefixed = {f"module.{key}": value for key, value in STATE.items()}
    content = {wrapper: prefixed, "epoch": 3} if wrapper else prefixed
    found = read_checkpoint(saved(tmp_path / "a.pth", content, legacy=legacy))
    assert_state(found[wrapper] if wrapper else found, "module.")


@pytest.mark.usefixtures("here")
def test_objects_of_other_libraries_beside_the_tensors_become_nothing(tmp_path):
    layer = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    beside = {
        "config": config_node({"MODEL": config_node({"NAME": "x", "SIZES": [1, (2, None)]}), "AMP": "O2"}),
        "optimizer": optimiser.state_dict(),
        "max_accuracy": np.float64(0.9),
        "loss": nn.CrossEntropyLoss(weight=torch.ones(2)),
        "epoch": 9,
    }
    found = read_checkpoint(saved(tmp_path / "a.pth", {"model": STATE, **beside}))
    assert_state(found.pop("model"))
    assert found == dict.fromkeys(beside)


@pytest.mark.usefixtures("here")
def test_views_parameters_and_shared_storage_become_tensors_of_their_own(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"view": whole[1:, ::2], "turned": whole.T, "same": whole, "parameter": nn.Parameter(whole)}
    found = read_checkpoint(saved(tmp_path / "a.pth", content))
    assert all(torch.equal(found[key], value) for key, value in content.items())
    assert not any(value.requires_grad for value in found.values())


def test_safetensors_need_no_process_whatever_their_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_run_reader", None)
    save_file(STATE, tmp_path / "a.pth")
    assert_state(read_checkpoint(tmp_path / "a.pth"))


def test_a_pickle_is_no_safetensors_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_run_reader", read_here)
    with pytest.raises(WeightsMismatch):
        read_checkpoint(saved(tmp_path / "a.safetensors", STATE))
    assert_state(read_checkpoint(saved(tmp_path / "a.bin", STATE)))


# --- what is hostile ---


def test_the_attacks_of_these_tests_are_real(tmp_path):
    for name, attack in attacks(marker := tmp_path / "ran").items():
        pickle.loads(pickle.dumps(attack))
        assert marker.exists(), name
        marker.rmdir() if marker.is_dir() else marker.unlink()


@pytest.mark.usefixtures("here")
def test_every_attack_at_every_place_and_in_every_format_is_refused_and_nothing_runs(tmp_path):
    paths = hostile_files(tmp_path)
    assert len(paths) == 5 * 9 + 6 * 2
    for path in paths:
        with pytest.raises((CheckpointRefused, WeightsMismatch)) as caught:
            read_checkpoint(path)
        if not path.name.endswith("-plain.pth") and not path.name.startswith("raw"):
            assert isinstance(caught.value, CheckpointRefused), path.name
        assert "weights_only" not in str(caught.value) and "safe_globals" not in str(caught.value)
        assert not (tmp_path / "ran").exists(), path.name


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("attack", "name"), [("os.system", os.system.__module__ + ".system"), ("eval", "eval")])
def test_a_refusal_names_what_was_asked_for(tmp_path, attack, name):
    path = saved(tmp_path / "a.pth", {"model": {"x": attacks(tmp_path / "ran")[attack]}})
    with pytest.raises(CheckpointRefused, match=rf"its pickle asks for '{name}'.*Nothing in it was run") as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_the_process_refuses_an_attack_whatever_the_environment_says(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = saved(tmp_path / "a.pth", {"model": STATE, "x": attacks(tmp_path / "ran")["os.system"]})
    with pytest.raises(CheckpointRefused, match=r"system'"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "imported").exists()


LOCKED = """
import json, pickle, runpy, sys
reader = runpy.run_path(sys.argv[1])
reader["lock"](1000)
outcomes = {}
for path in sys.argv[2:]:
    try:
        with open(path, "rb") as file:
            outcomes[path] = repr(pickle.load(file)) if path.endswith(".pickle") else str(reader["read"](path, []))
    except Exception as error:
        outcomes[path] = reader["explain"](error)["kind"] if path.endswith(".pth") else type(error).__name__
print(json.dumps(outcomes))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are set on Linux only")
def test_even_an_unpickler_without_protection_could_do_no_harm_in_the_process(tmp_path):
    paths = []
    for number, attack in enumerate(attacks(tmp_path / "ran").values()):
        paths.append(tmp_path / f"{number}.pickle")
        paths[-1].write_bytes(pickle.dumps(attack))
    # 8 GiB: memory that the machine of the test may well have.
    paths.append(claiming(tmp_path, numel=2 << 30, legacy=True))
    command = [sys.executable, "-c", LOCKED, str(Path(checkpoint.__file__).with_name("unpickle.py")), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    outcomes = list(json.loads(done.stdout).values())
    assert outcomes == ["PermissionError"] * 5 + ["memory"]
    assert not (tmp_path / "ran").exists()


def test_only_writing_processes_and_sockets_are_forbidden():
    for event in ("os.system", "subprocess.Popen", "socket.connect", "os.exec", "os.remove", "os.posix_spawn"):
        with pytest.raises(PermissionError, match=event):
            unpickle._forbid(event, ())
    for mode, flags in (("w", 0), ("ab", 0), ("r+", 0), (None, os.O_RDWR)):
        with pytest.raises(PermissionError):
            unpickle._forbid("open", ("file", mode, flags))
    unpickle._forbid("open", ("file", "rb", os.O_RDONLY))
    unpickle._forbid("os.listdir", ("folder",))


# --- what is too large or broken ---


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (stretched, "tensors claim 4,398,046,511,104 bytes"),
        (packed, "compressed"),
        (overstated, "claim more bytes than the file has"),
        (lambda folder: claiming(folder, numel=10**15, legacy=True), "more memory than its size explains"),
    ],
)
def test_a_file_that_claims_more_than_it_has_is_refused(tmp_path, make, words):
    with pytest.raises(CheckpointRefused, match=words):
        read_checkpoint(make(tmp_path))


@pytest.mark.usefixtures("here")
def test_a_claim_within_an_archive_is_an_error_of_ours_too(tmp_path):
    with pytest.raises(WeightsError, match=r"Refused|intact"):
        read_checkpoint(claiming(tmp_path, numel=10**15, legacy=False))


def cut(folder: Path, legacy: bool) -> Path:
    path = saved(folder / "whole.pth", {"x": torch.arange(999.0)}, legacy=legacy)
    path.write_bytes(path.read_bytes()[:-500])
    return path


def torchscript(folder: Path) -> Path:
    source = saved(folder / "a.pth", STATE)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("a/constants.pkl", pickle.dumps(()))
    return source


def written(content: bytes):
    def write(folder: Path) -> Path:
        (folder / "a.pth").write_bytes(content)
        return folder / "a.pth"

    return write


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda folder: cut(folder, legacy=False), WeightsMismatch),
        (lambda folder: cut(folder, legacy=True), WeightsMismatch),
        (written(b""), WeightsMismatch),
        (written(b"<!DOCTYPE html><html>Not found</html>"), WeightsError),
        (written(b"PK\x03\x04 and no more"), WeightsMismatch),
        (written(b"\x40\x00\x00\x00\x00\x00\x00\x00{" + b" " * 90), WeightsMismatch),
        (torchscript, CheckpointRefused),
        (lambda folder: saved(folder / "a.pth", [torch.zeros(2)]), CheckpointRefused),
        (lambda folder: saved(folder / "a.pth", nn.Linear(2, 2)), CheckpointRefused),
        (lambda folder: saved(folder / "a.pth", {"x": torch.eye(3).to_sparse()}), CheckpointRefused),
        (lambda folder: saved(folder / "a.pth", {"x": torch.zeros(2, device="meta")}), CheckpointRefused),
        (lambda folder: folder / "nowhere.pth", WeightsNotAvailable),
        (lambda folder: folder, WeightsNotAvailable),
    ],
)
def test_what_is_no_intact_checkpoint_is_an_error_that_names_the_file(tmp_path, make, error):
    path = make(tmp_path)
    with pytest.raises(error) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_reader_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 0.01)
    with pytest.raises(CheckpointRefused, match=r"longer than 0\.01 s"):
        read_checkpoint(saved(tmp_path / "a.pth", STATE))


@pytest.mark.parametrize("program", ["import sys; sys.exit(7)", "print('no JSON')"])
def test_a_reader_that_dies_is_an_error_of_ours(tmp_path, monkeypatch, program):
    monkeypatch.setattr(checkpoint, "_START", program)
    with pytest.raises(CheckpointRefused, match=r"ended with status (7|0)"):
        read_checkpoint(saved(tmp_path / "a.pth", STATE))


def test_a_name_in_a_hostile_pickle_cannot_command_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_run_reader", read_here)
    path = written(b"\x80\x02cevil\x1b[2J\nname\n.")(tmp_path)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert "\x1b" not in str(caught.value)
