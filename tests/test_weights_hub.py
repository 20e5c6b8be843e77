"""Weights from the Hub: the real client against a loopback server, in good and in bad weather."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from aigidetect import weights as weights_module
from aigidetect.errors import WeightsError, WeightsMismatch, WeightsNotAvailable
from aigidetect.weights import fetch, load_state_dict, locate

from .hub_server import COMMIT, HubServer, Mode
from .weights_case import CONTENT, OTHER, REPO, SHA256, STATE, entry

LINKS = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


@pytest.fixture(autouse=True)
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package folder, no folder of the user's, and a cache of its own."""
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(weights_module, "_BUNDLED", folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIGIDETECT_WEIGHTS_DIR", raising=False)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(REPO, {"model.safetensors": CONTENT}) as server:
        # The client reads HF_ENDPOINT when it is imported; the environment itself is tested in a process of its own.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
        yield server


def assert_loads(**options: object) -> None:
    state, sha256 = load_state_dict(entry(), **options)  # type: ignore[arg-type]
    assert sha256 == SHA256
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], STATE[key]) and state[key].dtype == STATE[key].dtype for key in STATE)


def test_hub_file_is_downloaded_once_and_then_asks_no_server(hub: HubServer, tmp_path: Path) -> None:
    assert_loads()
    assert [request.split()[0] for request in hub.requests if "/resolve/" in request] == ["HEAD", "GET"]
    hub.requests.clear()
    hub.mode = "error"
    assert_loads()
    assert_loads(local_files_only=True)
    assert hub.requests == []
    assert locate(entry()).is_relative_to(tmp_path / "cache")


def test_cache_dir_is_used(hub: HubServer, tmp_path: Path) -> None:
    assert locate(entry(), cache_dir=str(tmp_path / "mine")).is_relative_to(tmp_path / "mine")
    assert not (tmp_path / "cache").exists()


def test_wrong_content_on_the_hub_is_never_loaded(hub: HubServer) -> None:
    hub.files["model.safetensors"] = OTHER
    with pytest.raises(WeightsMismatch) as caught:
        load_state_dict(entry())
    message = str(caught.value)
    assert f"expected sha256 {SHA256}, but got sha256 {hashlib.sha256(OTHER).hexdigest()}" in message
    assert "model.safetensors" in message
    assert "aigidetect fetch npr@1 --force" in message


def test_wrong_size_is_named(hub: HubServer) -> None:
    hub.files["model.safetensors"] = CONTENT[:-1]
    with pytest.raises(WeightsMismatch, match=f"expected {len(CONTENT)} bytes, but got {len(CONTENT) - 1} bytes"):
        load_state_dict(entry())


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("error", "the server failed; try again later.*500"),
        ("truncated", "broke off.*Consistency check failed"),
        ("gated", "access is restricted.*hf auth login"),
        ("no hub", "does not answer like a Hub; check HF_ENDPOINT"),
        ("silent", "no connection.*Timeout"),
    ],
)
def test_failing_server_is_weights_not_available(
    hub: HubServer, mode: Mode, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "silent":
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
        monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.2, raising=False)
    hub.mode = mode
    with pytest.raises(WeightsNotAvailable, match=message) as caught:
        load_state_dict(entry())
    assert caught.value.__cause__ is not None
    assert "copy the file as npr-1.safetensors into a folder, and set AIGIDETECT_WEIGHTS_DIR" in str(caught.value)
    hub.mode = "ok"
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 10)
    assert_loads()


def test_dropped_connection_is_resumed(hub: HubServer) -> None:
    hub.mode = "dropped"
    assert_loads()


def test_missing_repository_file_and_revision_are_told_apart(hub: HubServer) -> None:
    with pytest.raises(WeightsNotAvailable, match="no such file"):
        locate(entry(filename="gone.safetensors"))
    with pytest.raises(WeightsNotAvailable, match=f"revision {'0' * 40}.*no such revision"):
        locate(entry(), revision="0" * 40)
    hub.repo_id = "org/moved"
    with pytest.raises(WeightsNotAvailable, match="no such repository"):
        locate(entry())


def test_unreachable_hub_is_weights_not_available(hub: HubServer) -> None:
    hub.__exit__(None, None, None)
    with pytest.raises(WeightsNotAvailable, match="no connection"):
        load_state_dict(entry())
    with pytest.raises(WeightsNotAvailable, match="no connection"):
        fetch(entry(), force=True)


def test_local_files_only_asks_no_server(hub: HubServer) -> None:
    with pytest.raises(WeightsNotAvailable, match="local_files_only forbids the network"):
        load_state_dict(entry(), local_files_only=True)
    assert hub.requests == []


def test_other_revision_must_have_the_published_bytes(hub: HubServer, tmp_path: Path) -> None:
    assert_loads(revision="main")
    hub.files["model.safetensors"] = OTHER
    with pytest.raises(WeightsMismatch):
        fetch(entry(), revision="main", cache_dir=tmp_path / "fresh")


@LINKS
def test_tampered_cache_is_noticed_and_fetch_force_repairs_it(hub: HubServer) -> None:
    path = fetch(entry())
    for damaged in (OTHER, CONTENT[:40], CONTENT + b"\0", b""):
        path.resolve().write_bytes(damaged)
        with pytest.raises(WeightsMismatch, match="It was not loaded"):
            load_state_dict(entry())
        with pytest.raises(WeightsMismatch):
            fetch(entry())
        assert fetch(entry(), force=True) == path
        assert_loads()
    assert fetch(entry()).read_bytes() == CONTENT


@LINKS
def test_link_out_of_the_cache_is_refused(hub: HubServer, tmp_path: Path) -> None:
    path = locate(entry())
    (tmp_path / "secret").write_bytes(CONTENT)
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(WeightsError, match=r"Refused .*outside of"):
        load_state_dict(entry())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (PermissionError(errno.EACCES, "denied"), "cache cannot be written; set HF_HOME"),
        (ValueError("odd"), "ValueError: odd"),
        (RuntimeError("closed"), "RuntimeError: closed"),
    ],
)
def test_any_error_of_the_client_is_ours(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(WeightsNotAvailable, match=message):
        locate(entry())


SCRIPT = """
import sys
from pathlib import Path
from aigidetect.errors import WeightsNotAvailable
from aigidetect.manifest import load_manifest
from aigidetect.weights import load_state_dict
assert "huggingface_hub" not in sys.modules
book = load_manifest(Path(sys.argv[1]))
print(load_state_dict(book.get("npr"))[1])
try:
    load_state_dict(book.get("vit"))
except WeightsNotAvailable as error:
    print(error)
"""


def test_environment_is_honoured_in_a_process_of_its_own(hub: HubServer, tmp_path: Path) -> None:
    place = {"repo_id": REPO, "revision": COMMIT, "sha256": SHA256, "bytes": len(CONTENT)}
    facts = {"architecture": "a", "config": {}, "preprocess": {"kind": "tiles"}, "parameters": 8, "provenance": {}}
    facts["calibration"] = {"pool": "mean", "temperature": 1, "bias": 0, "thresholds": []}
    facts["golden"] = {"input": "noise-v1", "logits": [0], "tolerance": 1}
    names = {"npr@1": "model.safetensors", "vit@1": "gone.safetensors"}
    detectors = {name: {**facts, "weights": {**place, "filename": file}} for name, file in names.items()}
    manifest = tmp_path / "weights_manifest.json"
    manifest.write_text(json.dumps({"schema": 1, "detectors": detectors}))

    def run(**more: str) -> list[str]:
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", **more}
        command = [sys.executable, "-c", SCRIPT, str(manifest)]
        root = Path(__file__).parents[1]
        done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.splitlines()

    digest, message = run(HF_HUB_OFFLINE="")
    assert digest == SHA256
    assert "no such file" in message
    assert list((tmp_path / "home").rglob("model.safetensors"))
    hub.requests.clear()
    digest, message = run(HF_HUB_OFFLINE="1")
    assert digest == SHA256
    assert "switched off by HF_HUB_OFFLINE" in message
    assert hub.requests == []
