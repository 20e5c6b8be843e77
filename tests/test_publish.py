"""Publishing: the real client against a loopback Hub, and the pin in the manifest. The card has tests of its own."""

import fnmatch
import hashlib
import json
import re
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load, save

import aigidetect
from aigidetect import weights as weights_module
from aigidetect.errors import ManifestError
from aigidetect.manifest import load_manifest
from aigidetect.registry import verify_detector
from aigidetect.training import publish as publish_module
from aigidetect.training.__main__ import main

from .conftest import array, encoded
from .hub_upload import TOKEN, UploadServer
from .test_card import AUDIT

NAME, REPO = "npr-ms-ca@1", "org/npr-ms-ca"
FOLDER = Path(aigidetect.__file__).parent / "weights"


@pytest.fixture(scope="module")
def entry():
    return load_manifest().get(NAME)


@pytest.fixture
def manifest(tmp_path):
    """A manifest with the detector of the package, as it was before anything was published, and one without weights."""
    path = tmp_path / "weights_manifest.json"
    packaged = json.loads(load_manifest().path.read_text())["detectors"][NAME]
    packaged["weights"].update(repo_id=None, revision=None, filename=None)
    packaged["provenance"]["metrics"] = {"test_unseen": packaged["provenance"]["metrics"]["test_unseen"]}
    empty = {"architecture": "npr_resnet", "config": {}, "preprocess": {"kind": "tiles"}, "parameters": 1437761}
    detectors = {NAME: packaged, "npr@1": {**empty, "weights": None, "note": "Train it."}}
    path.write_text(json.dumps({"schema": 1, "detectors": detectors}, indent=1) + "\n")
    return path


@pytest.fixture
def hub(monkeypatch):
    with UploadServer() as server:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
        yield server


@pytest.fixture
def publish(manifest, hub):
    """Runs the command against the loopback Hub; returns its exit status."""

    def run(*more, name=NAME, folder=FOLDER):
        places = ["--manifest", str(manifest), "--weights-folder", str(folder), "--endpoint", hub.url]
        return main(["publish", name, "--repo-id", REPO, *places, *more])

    return run


@pytest.fixture
def load_from_hub(hub, manifest, tmp_path, monkeypatch):
    """Loads the detector through its pin, with no weights in the package, and compares its golden logits."""

    def run():
        empty = tmp_path / "package"
        empty.mkdir()
        monkeypatch.setattr(weights_module, "_BUNDLED", empty)
        monkeypatch.delenv("AIGIDETECT_WEIGHTS_DIR", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr("aigidetect.registry.load_manifest", lambda: load_manifest(manifest))
        detector, entry = aigidetect.load_detector(NAME, device="cpu"), load_manifest(manifest).get(NAME)
        assert verify_detector(detector, entry) <= entry.golden["tolerance"]
        assert list((tmp_path / "cache").rglob("model.safetensors"))
        return detector

    return run


def test_what_was_published_is_loaded_back_from_the_hub_bit_equal(
    hub, publish, manifest, tmp_path, monkeypatch, capsys, load_from_hub
):
    assert publish() == 0
    assert f"commit {list(hub.commits)[-1]}" in capsys.readouterr().out
    [(revision, files)] = hub.commits.items()
    assert files.keys() == {"model.safetensors", "config.json", "README.md", "LICENSES.md"}
    assert hub.summaries == [f"Publish {NAME}"] and not hub.private
    assert any("/info/lfs/objects/batch" in request for request in hub.requests)
    entry = load_manifest(manifest).get(NAME)
    weights = entry.weights
    assert (weights.repo_id, weights.revision, weights.filename) == (REPO, revision, "model.safetensors")
    assert hashlib.sha256(files["model.safetensors"]).hexdigest() == weights.sha256

    assert load_from_hub().weights_sha256 == weights.sha256
    monkeypatch.chdir(tmp_path)
    Path("picture.jpg").write_bytes(encoded(array(), "jpg"))
    [code] = re.findall(r"```python\n(.*?)```", files["README.md"].decode(), flags=re.DOTALL)
    exec(code, {})
    verdict, probability = capsys.readouterr().out.split()
    assert verdict in ("real", "ai", "unsure") and 0 <= float(probability) <= 1


def test_a_backbone_goes_along_once_and_is_pinned_too(hub, publish, manifest, tmp_path, load_from_hub):
    state = load((FOLDER / "npr-ms-ca-1.safetensors").read_bytes())
    content = {
        "weights": save({key: value for key, value in state.items() if key.startswith("fc")}),
        "backbone": save({key: value for key, value in state.items() if not key.startswith("fc")}),
    }
    book = json.loads(manifest.read_text())
    for field, file in (("weights", "npr-ms-ca-1.safetensors"), ("backbone", "stem-1.safetensors")):
        facts = {"file": file, "sha256": hashlib.sha256(content[field]).hexdigest(), "bytes": len(content[field])}
        book["detectors"][NAME][field] = facts
        (tmp_path / file).write_bytes(content[field])
    manifest.write_text(json.dumps(book))
    assert publish(folder=tmp_path) == 0
    [(revision, files)] = hub.commits.items()
    assert files["model.safetensors"] == content["weights"] and files["stem-1.safetensors"] == content["backbone"]
    assert all(facts["sha256"] in files["README.md"].decode() for facts in (book["detectors"][NAME][f] for f in content))
    load_from_hub()
    (tmp_path / "stem-1.safetensors").unlink()
    assert publish("--again", folder=tmp_path) == 0  # nor is it needed any more
    renewed = load_manifest(manifest).get(NAME)
    assert (renewed.weights.revision, renewed.backbone.revision) == (list(hub.commits)[1], revision)


def test_the_pin_changes_nothing_else(publish, manifest):
    before = json.loads(manifest.read_text())
    mode = manifest.stat().st_mode
    assert publish() == 0
    after = json.loads(manifest.read_text())
    for key in ("repo_id", "revision", "filename"):
        assert after["detectors"][NAME]["weights"].pop(key)
        before["detectors"][NAME]["weights"].pop(key)
    assert after == before
    assert manifest.stat().st_mode == mode


def test_again_renews_the_card_and_the_pin(hub, publish, manifest, tmp_path, capsys):
    assert publish() == 0
    first = manifest.read_bytes()
    assert publish() == 2
    assert "--again" in capsys.readouterr().err
    assert manifest.read_bytes() == first and len(hub.commits) == 1
    (tmp_path / "audit.json").write_text(json.dumps(AUDIT))
    assert publish("--again", "--audit", str(tmp_path / "audit.json")) == 0
    old, new = hub.commits.values()
    assert old["README.md"] != new["README.md"] and old["model.safetensors"] == new["model.safetensors"]
    assert load_manifest(manifest).get(NAME).weights.revision == list(hub.commits)[1]


def test_what_cannot_be_published_never_reaches_the_hub(hub, publish, manifest, tmp_path, capsys):
    before = manifest.read_bytes()
    content = bytearray((FOLDER / "npr-ms-ca-1.safetensors").read_bytes())
    content[-1] ^= 1
    assert load(bytes(content))  # still an intact file
    (tmp_path / "npr-ms-ca-1.safetensors").write_bytes(content)
    for options, message in [
        ({"name": "npr@1"}, "no weights to publish. Train it."),
        ({"folder": tmp_path}, f"expected sha256 {load_manifest(manifest).get(NAME).weights.sha256}, but got"),
        ({"folder": tmp_path / "empty"}, "name its folder as --weights-folder"),
        ({"name": "nope"}, "Unknown detector 'nope'"),
    ]:
        assert publish(**options) == 2
        assert message in capsys.readouterr().err
    assert publish("--repo-id", "no-owner") == 2
    assert "'owner/name'" in capsys.readouterr().err
    assert hub.requests == [] and manifest.read_bytes() == before


def test_without_a_token_it_says_how_to_log_in(hub, publish, manifest, monkeypatch, capsys):
    before = manifest.read_bytes()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert publish() == 2
    message = capsys.readouterr().err
    assert "hf auth login" in message and "HF_TOKEN" in message
    assert hub.requests == [] and manifest.read_bytes() == before


@pytest.mark.parametrize(
    ("part", "status", "message"),
    [
        ("/repos/create", 403, "may not write there; run `hf auth login`"),
        ("/lfs/objects/batch", 403, "may not write there; run `hf auth login`"),
        ("/commit/main", 500, "the server refused or failed"),
    ],
)
def test_a_hub_that_refuses_leaves_the_manifest_as_it_was(hub, publish, manifest, capsys, part, status, message):
    before = manifest.read_bytes()
    hub.failing[part] = status
    assert publish() == 2
    found = capsys.readouterr().err
    assert message in found and "The manifest was not changed." in found
    assert manifest.read_bytes() == before and not hub.commits


def test_a_wrong_token_is_told(publish, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert publish() == 2
    assert "the token is not valid" in capsys.readouterr().err


def test_a_hub_that_holds_other_weights_afterwards_is_never_pinned(hub, publish, manifest, monkeypatch, capsys):
    before = manifest.read_bytes()
    commit = hub.commit

    def damage(body):
        name = commit(body)
        hub.commits[name]["model.safetensors"] += b"\0"
        return name

    monkeypatch.setattr(hub, "commit", damage)
    assert publish() == 2
    assert "another model.safetensors than was uploaded" in capsys.readouterr().err
    assert manifest.read_bytes() == before


def test_private_never_lands_in_a_public_repository(hub, publish, capsys):
    assert publish("--private") == 0 and hub.private
    hub.private = False
    assert publish("--private", "--again") == 2
    assert "exists and is public" in capsys.readouterr().err
    assert len(hub.commits) == 1


def test_a_dry_run_writes_the_files_and_needs_neither_network_nor_token(manifest, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise AssertionError("used the network, or asked for a token")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr("huggingface_hub.get_token", fail)
    before, out = manifest.read_bytes(), tmp_path / "out"
    command = ["publish", NAME, "--repo-id", REPO, "--manifest", str(manifest), "--weights-folder", str(FOLDER), "--dry-run"]
    assert main(command) == 2
    assert "--dry-run needs --out" in capsys.readouterr().err
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for name in ("model.safetensors", "config.json", "README.md", "LICENSES.md"):
        content = (out / name).read_bytes()
        assert f"{name}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}" in printed
    assert (out / "model.safetensors").read_bytes() == (FOLDER / "npr-ms-ca-1.safetensors").read_bytes()
    assert "nothing was uploaded" in printed and manifest.read_bytes() == before


def test_a_pin_that_fails_leaves_the_old_manifest_and_no_litter(manifest, entry, monkeypatch):
    before, files = manifest.read_bytes(), sorted(manifest.parent.iterdir())
    with pytest.raises(ManifestError, match="40 lower-case hex digits"):
        publish_module.pin(manifest, entry, REPO, "main")
    monkeypatch.setattr("os.replace", lambda source, target: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        publish_module.pin(manifest, entry, REPO, "0" * 40)
    assert manifest.read_bytes() == before and sorted(manifest.parent.iterdir()) == files


def test_a_pin_is_refused_if_the_weights_changed_meanwhile(manifest, entry):
    book = json.loads(manifest.read_text())
    book["detectors"][NAME]["weights"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(book))
    with pytest.raises(ValueError, match="other weights of npr-ms-ca@1 by now"):
        publish_module.pin(manifest, entry, REPO, "0" * 40)


def test_every_bundled_weights_file_has_a_section_of_the_notices():
    text = (FOLDER / "LICENSES.md").read_text()
    patterns = re.findall(r"^## `(.+)`$", text, flags=re.MULTILINE)
    files = [path.name for path in FOLDER.glob("*.safetensors")]
    assert files
    assert [name for name in files if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)] == []
    assert "Copyright (c) 2021 OpenAI" in text and 'THE SOFTWARE IS PROVIDED "AS IS"' in text
