"""Detectors as folders and repositories: saved, published, and loaded again."""

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import aigidetect
from aigidetect import Calibration, Detector, Tiles, Whole, selftest
from aigidetect.errors import ManifestError, WeightsError, WeightsMismatch, WeightsNotAvailable
from aigidetect.manifest import load_manifest
from aigidetect.models import load_architecture
from aigidetect.pretrained import Origin
from aigidetect.training.publish import prepare

from .conftest import POINTS, array
from .hub_upload import TOKEN, UploadServer

NAME, REPO = "npr-ms-ca@1", "org/small"
PACKAGED = Path(aigidetect.__file__).parent / "weights"


@pytest.fixture
def small(small_models):
    """A detector with a small network that was never stored."""
    torch.manual_seed(5)
    calibration = Calibration(pool="median", temperature=0.3, bias=0.1, thresholds=POINTS)
    network = load_architecture("small").build()
    detector = Detector(network, Tiles(size=32, max_tiles=4), calibration, name="small", device="cpu")
    detector.origin = Origin("small", {"dropout": 0.0}, provenance={"licence": "MIT"})
    return detector


@pytest.fixture
def published():
    return aigidetect.load_detector(NAME, device="cpu", local_files_only=True)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with UploadServer() as server:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def scores(detector):
    """What a detector says of two pictures, without its name and the hash of its weights."""
    records = detector.predict([array(seed=1), array(40, 33, seed=2)])
    return [dataclasses.replace(record, detector="", weights_sha256=None) for record in records]


def test_a_saved_detector_gives_equal_scores_and_saves_equal_files(small, tmp_path):
    small.save_pretrained(tmp_path / "one")
    loaded = Detector.from_pretrained(tmp_path / "one", device="cpu")
    assert scores(loaded) == scores(small)
    assert (loaded.name, loaded.preprocess, loaded.calibration) == ("small", small.preprocess, small.calibration)
    content = (tmp_path / "one" / "model.safetensors").read_bytes()
    assert loaded.weights_sha256 == hashlib.sha256(content).hexdigest()
    loaded.save_pretrained(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert "MIT" in (tmp_path / "one" / "README.md").read_text()


def test_a_published_detector_is_saved_byte_for_byte_with_its_notices(published, tmp_path):
    published.save_pretrained(tmp_path)
    for saved, packaged in (("model.safetensors", "npr-ms-ca-1.safetensors"), ("LICENSES.md", "LICENSES.md")):
        assert (tmp_path / saved).read_bytes() == (PACKAGED / packaged).read_bytes()
    loaded = Detector.from_pretrained(str(tmp_path), device="cpu")
    assert (loaded.name, loaded.weights_sha256) == (NAME, published.weights_sha256)
    assert scores(loaded) == scores(published)


def test_what_publish_uploads_is_the_folder_that_save_writes(published, tmp_path):
    published.save_pretrained(tmp_path / "saved")
    (tmp_path / "published").mkdir()
    for name, content in prepare(load_manifest().get(NAME), PACKAGED, "org/name", again=True).items():
        (tmp_path / "published" / name).write_bytes(content)
    saved, uploaded = (json.loads((tmp_path / place / "config.json").read_text()) for place in ("saved", "published"))
    assert saved.pop("golden").keys() == uploaded.pop("golden").keys()
    assert saved == uploaded
    assert scores(Detector.from_pretrained(tmp_path / "published", device="cpu")) == scores(published)


def test_a_shared_backbone_goes_along_as_a_file_of_its_own(small, tmp_path):
    small.save_pretrained(tmp_path / "whole")
    state = load_file(tmp_path / "whole" / "model.safetensors")
    files = {"weights": tmp_path / "head.safetensors", "backbone": tmp_path / "stem-1.safetensors"}
    save_file({key: value for key, value in state.items() if key.startswith("fc")}, files["weights"])
    save_file({key: value for key, value in state.items() if not key.startswith("fc")}, files["backbone"])
    small.origin = dataclasses.replace(small.origin, files=files)
    small.save_pretrained(tmp_path / "split")
    assert (tmp_path / "split" / "stem-1.safetensors").read_bytes() == files["backbone"].read_bytes()
    assert (tmp_path / "split" / "model.safetensors").read_bytes() == files["weights"].read_bytes()
    assert scores(Detector.from_pretrained(tmp_path / "split", device="cpu")) == scores(small)
    (tmp_path / "split" / "stem-1.safetensors").write_bytes(files["weights"].read_bytes())
    with pytest.raises(WeightsMismatch, match=r"stem-1\.safetensors is not the published checkpoint"):
        Detector.from_pretrained(tmp_path / "split")


def test_what_was_changed_after_loading_is_saved_as_it_is_but_not_under_the_published_name(published, tmp_path):
    published.calibration = Calibration(temperature=2.0)
    published.save_pretrained(tmp_path / "calibrated")
    loaded = Detector.from_pretrained(tmp_path / "calibrated", device="cpu")
    assert (loaded.name, loaded.calibration) == (f"{NAME}+custom", published.calibration)
    assert loaded.weights_sha256 == published.weights_sha256
    state, before = published.network.state_dict(), scores(published)
    state["fc1.bias"] += 0.25
    changed = Detector(published.network, published.preprocess, published.calibration, name=NAME, device="cpu")
    changed.origin = published.origin
    changed.save_pretrained(tmp_path / "trained")
    loaded = Detector.from_pretrained(tmp_path / "trained", device="cpu")
    assert loaded.name == f"{NAME}+custom"
    assert scores(loaded) == scores(changed) != before
    assert all(torch.equal(value, state[key]) for key, value in loaded.network.state_dict().items())


def test_what_cannot_be_loaded_again_is_not_saved(small, detector, tmp_path):
    with pytest.raises(WeightsError, match="Only networks of"):
        detector.save_pretrained(tmp_path / "out")
    detector.origin = small.origin
    with pytest.raises(WeightsMismatch, match="do not fit the network Small"):
        detector.save_pretrained(tmp_path / "out")

    class Own(Whole):
        def __call__(self, pixels):
            return super().__call__(pixels)[..., :32, :32]

    small.preprocess = Own()
    with pytest.raises(ValueError, match="Only a preprocessing of"):
        small.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_save_that_was_cut_off_is_never_taken_for_a_whole_one(small, tmp_path, monkeypatch):
    small.save_pretrained(tmp_path)
    write = Path.write_bytes

    def full(path, content):
        if path.name == "config.json":
            raise OSError("disk full")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        small.save_pretrained(tmp_path)
    with pytest.raises(WeightsNotAvailable, match="save_pretrained"):
        Detector.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"library": "timm"}, ManifestError, "not the folder of a detector"),
        ({"schema": 2}, ManifestError, "another version of aigidetect"),
        ({"name": "x\n"}, ManifestError, "field 'name'"),
        ({"extra": 1}, ManifestError, "field 'extra': unknown"),
        ({"weights": None, "note": "none"}, ManifestError, "expected 'weights'"),
        ({"architecture": "os"}, ManifestError, "Unknown architecture 'os'"),
        ({"config": {"depth": 3}}, ManifestError, "unexpected keyword argument 'depth'"),
        ({"config": {"dropout": 10**9}}, ManifestError, "above 4096"),
        ({"parameters": 7}, ManifestError, "it states 7 parameters"),
        ({"preprocess": {"kind": "tiles", "size": 10**6}}, ManifestError, "above 4096"),
        ({"preprocess": {"kind": "crop"}}, ManifestError, "Unknown preprocessing 'crop'"),
        ({"golden": {"input": "noise-v1", "logits": [9.0], "tolerance": 0.002}}, WeightsMismatch, "golden logits"),
        ({"weights": {"file": "../model.safetensors", "sha256": "0" * 64, "bytes": 9}}, ManifestError, "weights.file"),
        ({"weights": {"file": "model.safetensors", "sha256": "0" * 64, "bytes": 1500}}, WeightsMismatch, "1500 bytes"),
        ({"weights": {"file": "gone.safetensors", "sha256": "0" * 64, "bytes": 1500}}, WeightsNotAvailable, "gone"),
    ],
)
def test_every_field_of_the_config_is_checked(small, tmp_path, monkeypatch, change, error, message):
    monkeypatch.setattr(selftest, "_passed", set())
    small.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=message):
        Detector.from_pretrained(tmp_path, device="cpu")


def test_a_name_alone_makes_no_published_detector(small, tmp_path):
    small.name = NAME
    small.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(f'"{NAME}+custom"', f'"{NAME}"'))
    assert Detector.from_pretrained(tmp_path, device="cpu").name == f"{NAME}+custom"


def test_a_config_that_is_no_json_or_endless_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        Detector.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(b" " * (2**22 + 1))
    with pytest.raises(ManifestError, match="more than"):
        Detector.from_pretrained(tmp_path)
    with pytest.raises(WeightsNotAvailable, match="Expected a folder, or a repository"):
        Detector.from_pretrained(tmp_path / "gone")


def test_what_was_pushed_is_loaded_from_the_hub_with_equal_scores(small, hub, tmp_path):
    place = small.push_to_hub(REPO)
    [(commit, files)] = hub.commits.items()
    assert place == f"hf-hub:{REPO}@{commit}"
    assert files.keys() == {"model.safetensors", "config.json", "README.md"}
    assert hub.summaries == ["Add small"] and not hub.private
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = aigidetect.load_detector(place, device="cpu")
        again = Detector.from_pretrained(REPO, revision=commit, device="cpu", local_files_only=True)
    assert scores(loaded) == scores(again) == scores(small)
    with pytest.warns(UserWarning, match=f"commit {commit}; to get the same again, load 'hf-hub:{REPO}@{commit}'"):
        aigidetect.load_detector(f"hf-hub:{REPO}", device="cpu")


def test_a_card_on_the_hub_is_kept(small, hub):
    small.push_to_hub(REPO)
    [commit] = hub.commits
    hub.commits[commit]["README.md"] = b"by hand"
    assert small.push_to_hub(REPO, commit_message="Again").endswith(list(hub.commits)[1])
    assert hub.commits[list(hub.commits)[1]]["README.md"] == b"by hand"
    assert hub.summaries == ["Add small", "Again"]


def test_the_hub_is_asked_for_nothing_that_makes_no_sense(small, hub, tmp_path):
    small.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="'owner/name'"):
        small.push_to_hub("small")
    with pytest.raises(ValueError, match="leave weights out"):
        aigidetect.load_detector(f"hf-hub:{REPO}", weights="x.safetensors")
    with pytest.raises(ValueError, match="names a revision already"):
        Detector.from_pretrained(f"{REPO}@main", revision="main")
    with pytest.raises(ValueError, match="has no revisions"):
        Detector.from_pretrained(tmp_path / "saved", revision="main")
    assert hub.requests == []
    with pytest.raises(WeightsNotAvailable, match="no such repository"):
        aigidetect.load_detector("hf-hub:org/other", device="cpu")
