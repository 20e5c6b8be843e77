"""weights_manifest.json: what is accepted, what is refused, and whether the message says why."""

from __future__ import annotations

import contextlib
import copy
import json
import ntpath
import posixpath
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigidetect import manifest as manifest_module
from aigidetect.errors import ManifestError, UnknownDetectorError
from aigidetect.manifest import Manifest, load_manifest

PUBLISHED: dict[str, Any] = {
    "architecture": "npr_resnet",
    "config": {"fusion": "multi", "channel_attention": True},
    "preprocess": {"kind": "tiles", "size": 224},
    "calibration": {
        "pool": "mean",
        "temperature": 1.3,
        "bias": -0.1,
        "thresholds": [{"fpr": 0.05, "probability": 0.7, "n": 404, "low": 0.03, "high": 0.07}],
    },
    "weights": {
        "file": "npr-ms-ca-1.safetensors",
        "repo_id": "org/name",
        "revision": "0123456789" * 4,
        "filename": "model.safetensors",
        "sha256": "ab" * 32,
        "bytes": 2914004,
    },
    "parameters": 1446665,
    "provenance": {"licence": "Apache-2.0", "metrics": {"clean": {"auroc": 0.9}}},
    "golden": {"input": "noise-v1", "logits": [0.25, -1.5], "tolerance": 1e-3},
}
UNPUBLISHED: dict[str, Any] = {
    "architecture": "vit",
    "config": {},
    "preprocess": {"kind": "squash-crop"},
    "weights": None,
    "parameters": 86_000_000,
    "note": "Train them with the recipe in docs/weights.md.",
}
# fmt: off
BAD_NAMES = [
    "", ".safetensors", "a.pth", "a.safetensors.pth", "model", "../a.safetensors", "..\\a.safetensors",
    "..a/../b.safetensors", "a..safetensors", "/etc/a.safetensors", "\\a.safetensors",
    "\\\\server\\share\\a.safetensors", "//server/share/a.safetensors", "C:\\a.safetensors", "C:a.safetensors",
    "c:/a.safetensors", "a:b.safetensors", "dir/a.safetensors", "dir\\a.safetensors", "./a.safetensors",
    "a\0.safetensors", "a.safetensors\0", "a.safetensors\n", "a.safetensors ", " a.safetensors", "a.safetensors.",
    "~/a.safetensors", "~a.safetensors", "$HOME.safetensors", "%TEMP%.safetensors", "-rf.safetensors",
    "nul.safetensors", "COM1.x.safetensors", "a\u2215b.safetensors", "a\uff0fb.safetensors", "\u00e9.safetensors",
    "a" * 300 + ".safetensors",
]
# fmt: on


def load(tmp_path: Path, detectors: object, **top: object) -> Manifest:
    path = tmp_path / "weights_manifest.json"
    path.write_text(json.dumps({"schema": 1, "detectors": detectors, **top}), encoding="utf-8")
    return load_manifest(path)


def changed(where: str, value: object) -> dict[str, Any]:
    """PUBLISHED with the field `where` (dotted) set to a value; the value `...` removes it."""
    entry = copy.deepcopy(PUBLISHED)
    *parents, key = where.split(".")
    target = entry
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[key]
    else:
        target[key] = value
    return entry


def test_published_entry_is_read(tmp_path: Path) -> None:
    entry = load(tmp_path, {"npr-ms-ca@1": PUBLISHED}).get("npr-ms-ca@1")
    assert (entry.name, entry.version, entry.full_name) == ("npr-ms-ca", 1, "npr-ms-ca@1")
    assert entry.architecture == "npr_resnet"
    assert entry.config == PUBLISHED["config"]
    assert entry.preprocess == PUBLISHED["preprocess"]
    assert entry.calibration == PUBLISHED["calibration"]
    assert entry.weights is not None
    assert vars(entry.weights) == PUBLISHED["weights"]
    assert entry.parameters == 1446665
    assert entry.provenance == PUBLISHED["provenance"]
    assert entry.golden == PUBLISHED["golden"]
    assert entry.note is None


def test_unpublished_entry_is_read_with_its_note(tmp_path: Path) -> None:
    entry = load(tmp_path, {"vit@1": UNPUBLISHED}).get("vit")
    assert entry.weights is None
    assert entry.calibration is None
    assert entry.provenance is None
    assert entry.golden is None
    assert entry.note == UNPUBLISHED["note"]


def test_entry_cannot_be_changed(tmp_path: Path) -> None:
    entry = load(tmp_path, {"vit@1": UNPUBLISHED}).get("vit")
    with pytest.raises(AttributeError):
        entry.version = 2  # type: ignore[misc]


def test_bare_name_means_the_highest_version_by_number(tmp_path: Path) -> None:
    book = load(tmp_path, {f"{name}@{v}": UNPUBLISHED for name, v in [("vit", 10), ("vit", 9), ("npr", 1), ("vit", 1)]})
    assert book.names() == ["npr", "vit"]
    assert book.versions() == ["npr@1", "vit@1", "vit@9", "vit@10"]
    assert [entry.full_name for entry in book] == book.versions()
    assert book.get("vit").version == 10
    assert book.get("vit@9").version == 9


def test_unknown_detector_lists_the_known_and_the_nearest(tmp_path: Path) -> None:
    book = load(tmp_path, {"npr-ms-ca@1": UNPUBLISHED, "vit@1": UNPUBLISHED})
    with pytest.raises(UnknownDetectorError, match=r"'NPR-MS-AC'; available: npr-ms-ca, vit\. Did you mean 'npr-ms-ca'"):
        book.get("NPR-MS-AC")
    with pytest.raises(UnknownDetectorError, match=r"'vit@7'; available: vit@1\."):
        book.get("vit@7")
    with pytest.raises(KeyError, match=r"available: npr-ms-ca, vit\.$"):
        book.get("")


@pytest.mark.parametrize("optional", ["file", "repo_id revision filename"])
def test_bundled_or_hub_is_enough(tmp_path: Path, optional: str) -> None:
    for value in (None, ...):
        entry = PUBLISHED
        for key in optional.split():
            entry = {**entry, "weights": {**entry["weights"], key: None}}
            if value is ...:
                del entry["weights"][key]
        weights = load(tmp_path, {"npr@1": entry}).get("npr").weights
        assert weights is not None
        assert [getattr(weights, key) for key in optional.split()] == [None] * len(optional.split())


REFUSED: list[tuple[str, object]] = [
    *[(key, value) for key in ("architecture", "config", "preprocess", "parameters") for value in (..., None, [1])],
    *[(key, value) for key in ("calibration", "provenance", "golden") for value in (..., None, "x")],
    *[("architecture", value) for value in ("", "os.path", "../x", "Vit", "_x", "x-y")],
    ("config", {"not a keyword": 1}),
    ("config", {"": 1}),
    ("preprocess", {}),
    ("preprocess", {"kind": 3}),
    *[("parameters", value) for value in (0, -1, 1.0, True, "5")],
    ("calibration.pool", 1),
    ("calibration.bias", "0"),
    ("calibration.bias", ...),
    ("calibration.extra", 1),
    *[("calibration.temperature", value) for value in (0, -1, True, None, 10**400)],
    *[("calibration.thresholds", v) for v in (None, {}, [1], [{"fpr": 0.1}], [{"fpr": 0.1, "probability": "x"}])],
    ("weights", []),
    *[("weights.sha256", value) for value in (..., None, "", "ab" * 31, "AB" * 32, "ab" * 32 + "\n", "g" * 64, 1)],
    *[("weights.bytes", value) for value in (..., None, 0, -5, 1.5, True)],
    *[("weights.revision", value) for value in (..., None, "main", "ab" * 32, "A" * 40, "a" * 39)],
    *[
        ("weights.repo_id", v)
        for v in (..., None, "name", "a/b/c", "../b", "a/..", "a/b--c", "a b/c", "/b", "a/", "a/b.git")
    ],
    ("weights.extra", 1),
    *[("weights.file", value) for value in (1, True, [], *BAD_NAMES)],
    *[("weights.filename", value) for value in (..., None, 1, *BAD_NAMES)],
    *[("golden.logits", value) for value in ([], [None], ["1"], [True], 1, [[1]])],
    *[("golden.tolerance", value) for value in (0, -1, "1")],
    ("golden.input", ""),
    ("note", ""),
    ("note", 3),
    ("extra", 1),
]


@pytest.mark.parametrize(("where", "value"), REFUSED)
def test_broken_field_is_named(tmp_path: Path, where: str, value: object) -> None:
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, {"vit@1": UNPUBLISHED, "npr@2": changed(where, value)})
    message = str(caught.value)
    assert "entry 'npr@2'" in message
    assert f"field {where!r}" in message
    assert "expected" in message
    assert len(message) < 500


def test_weights_need_a_place(tmp_path: Path) -> None:
    entry = {**PUBLISHED, "weights": {"sha256": "ab" * 32, "bytes": 5}}
    with pytest.raises(ManifestError, match=r"'weights\.file': expected a bundled file, or 'repo_id'"):
        load(tmp_path, {"npr@1": entry})


@pytest.mark.parametrize("note", [None, "", ...])
def test_without_weights_a_note_is_needed(tmp_path: Path, note: object) -> None:
    entry = {key: value for key, value in {**UNPUBLISHED, "note": note}.items() if value is not ...}
    with pytest.raises(ManifestError, match="field 'note': expected a text"):
        load(tmp_path, {"vit@1": entry})


@pytest.mark.parametrize("name", ["npr", "npr@", "npr@0", "npr@01", "NPR@1", "a_b@1", "../x@1", "npr@1\n", "npr@1@2", "@1"])
def test_entry_needs_name_and_version(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="expected a name like 'npr-ms-ca@1'"):
        load(tmp_path, {name: UNPUBLISHED})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "top level: expected an object"),
        ("{}", "field 'schema': missing"),
        ('{"schema": 1}', "field 'detectors': missing"),
        ('{"schema": 2, "detectors": {}}', "field 'schema': expected 1"),
        ('{"schema": true, "detectors": {}}', "field 'schema': expected"),
        ('{"schema": 1, "detectors": []}', "field 'detectors': expected an object"),
        ('{"schema": 1, "detectors": {}, "more": 1}', "field 'more': unknown"),
        ('{"schema": 1, "detectors": {"vit@1": 3}}', "entry 'vit@1': expected an object"),
        ('{"schema": 1, "schema": 1, "detectors": {}}', "'schema' occurs twice"),
        ('{"schema": 1, "detectors": {"a@1": {}, "a@1": {}}}', "'a@1' occurs twice"),
        ('{"schema": NaN}', "finite numbers only, but got NaN"),
        ('{"schema": -Infinity}', "finite numbers only, but got -Infinity"),
        ('{"schema": 1e999}', "finite numbers only, but got 1e999"),
        ("[" * 100_000, "not valid JSON"),
        ('{"schema": ' + "9" * 5000 + "}", "not valid JSON|field 'detectors': missing"),
        (b"\xff\xfe", "not valid JSON in UTF-8"),
    ],
    ids=range(17),
)
def test_broken_document_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "weights_manifest.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError, match=message) as caught:
        load_manifest(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="Cannot read the weights manifest"):
        load_manifest(tmp_path / "none.json")


def test_default_path_takes_a_checkout_only_beside_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "aigidetect"
    package.mkdir()
    monkeypatch.setattr(manifest_module, "__file__", str(package / "manifest.py"))
    load(tmp_path, {"vit@1": UNPUBLISHED})
    with pytest.raises(ManifestError, match="Reinstall"):
        load_manifest()
    (tmp_path / "pyproject.toml").touch()
    assert load_manifest().names() == ["vit"]
    load(package, {"npr@1": UNPUBLISHED})
    assert load_manifest().names() == ["npr"]


NAME_PARTS = st.one_of(st.sampled_from(["..", "/", "\\", ":", "C:", "\0", ".", "a", "nul", "~", " "]), st.text(max_size=4))


@given(st.lists(NAME_PARTS, max_size=6).map("".join), st.booleans())
def test_accepted_file_name_stays_in_its_folder_on_every_system(name: str, suffix: bool) -> None:
    name += ".safetensors" if suffix else ""
    if manifest_module._FILE_NAME.fullmatch(name) is None:
        return
    assert PurePosixPath(posixpath.normpath(f"/folder/{name}")).parent == PurePosixPath("/folder")
    assert PureWindowsPath(ntpath.normpath(ntpath.join("C:\\folder", name))).parent == PureWindowsPath("C:\\folder")
    assert name.isascii()
    assert name.lower().endswith(".safetensors")


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
        max_leaves=8,
    ),
    st.sampled_from(["", *PUBLISHED, *[f"weights.{key}" for key in PUBLISHED["weights"]], "golden.logits"]),
)
def test_any_value_anywhere_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object, where: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    entry = changed(where, value) if where else value
    path.write_text(json.dumps({"schema": 1, "detectors": {"npr@1": entry}}), encoding="utf-8")
    with contextlib.suppress(ManifestError):
        assert load_manifest(path).names() == ["npr"]
