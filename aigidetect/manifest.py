"""weights_manifest.json -> ManifestEntry. Reads facts, touches no network.

    {"schema": 1,
     "detectors": {
       "npr-ms-ca@1": {                                    name@version; a bare name means the highest version
         "architecture": "npr_resnet",                     file in aigidetect/models
         "config": {"fusion": "multi"},                    keyword arguments of its build()
         "preprocess": {"kind": "tiles", ...},             goes to preprocess.from_dict
         "calibration": {                                  goes to Calibration.from_dict
           "pool": "mean", "temperature": 1.3, "bias": 0.1,
           "thresholds": [{"fpr": 0.05, "probability": 0.7, ...}, ...]},     numbers only; the rest belongs to Threshold
         "weights": {
           "file": "npr-ms-ca-1.safetensors",              in aigidetect/weights, or null
           "repo_id": "org/name", "revision": "<40 hex>", "filename": "model.safetensors", on the Hub, or all three null
           "sha256": "<64 hex>", "bytes": 2914004},
         "backbone": {...},                                as weights: a second file that several detectors share
         "parameters": 1446665,
         "provenance": {"licence": "...", "recipe": "...", "data_sha256": "...", "metrics": {...}, ...},      free
         "golden": {"input": "noise-v1", "logits": [0.25, -1.5], "tolerance": 1e-3},
         "note": "..."}}}                                  may be left out

An architecture without published weights has `"weights": null`; then `calibration`, `provenance` and `golden` may be
null or left out, and `note` must say how to get or make weights. `backbone`, and within it and `weights` a null field, may
be left out.
Duplicate keys, unknown keys, NaN, infinities and file names that are more than a name are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ManifestError, UnknownDetectorError
from .json_fields import Fields, is_number, read_strict

SCHEMA = 1
_FILE = "weights_manifest.json"
_TOP = ("schema", "detectors")
_ENTRY = ("architecture", "config", "preprocess", "weights", "parameters")
_ENTRY_OPTIONAL = ("backbone", "calibration", "provenance", "golden", "note")
_CALIBRATION = ("pool", "temperature", "bias", "thresholds")
_GOLDEN = ("input", "logits", "tolerance")
_HUB = ("repo_id", "revision", "filename")
_FULL_NAME = re.compile(r"([a-z][a-z0-9]*(?:-[a-z0-9]+)*)@([1-9][0-9]{0,5})")
_ARCHITECTURE = re.compile(r"[a-z][a-z0-9_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"[0-9a-f]{40}")
REPO_ID = re.compile(r"(?=.{3,96}$)(?!.*(?:\.\.|--|\.git$))[A-Za-z0-9](?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)
# Only these characters, so that neither POSIX nor Windows finds a folder, drive, stream or device in it.
_DEVICE = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])\."
_FILE_NAME = re.compile(rf"(?i:(?!{_DEVICE})(?!.*\.\.)[a-z0-9][a-z0-9._-]{{0,200}}\.safetensors)", re.ASCII)


@dataclass(frozen=True)
class WeightsFile:
    """Where a published checkpoint is, and which bytes it has.

    Bundled under the name `file`, or on the Hub under the other three, or both; the rest is None.
    """

    file: str | None
    repo_id: str | None
    revision: str | None
    filename: str | None
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ManifestEntry:
    """One detector. The fields are those of the JSON file; see the head of this module.

    With `weights`, only `note` may be None. Without, `note` says how to get or make them.
    """

    name: str
    version: int
    architecture: str
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    weights: WeightsFile | None
    parameters: int
    provenance: Mapping[str, Any] | None
    golden: Mapping[str, Any] | None
    note: str | None
    backbone: WeightsFile | None = None

    @property
    def full_name(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Manifest:
    """The entries of the file `path` by full name, sorted by name and version."""

    path: Path
    entries: Mapping[str, ManifestEntry]

    def __iter__(self) -> Iterator[ManifestEntry]:
        return iter(self.entries.values())

    def names(self) -> list[str]:
        """Bare names, sorted."""
        return sorted({entry.name for entry in self})

    def versions(self) -> list[str]:
        """Full names `name@version`, sorted by name and version."""
        return list(self.entries)

    def get(self, name: str) -> ManifestEntry:
        """Entry of a full name or, for a bare name, of its highest version.

        Raises:
            UnknownDetectorError: No such detector; the message lists those that exist.
        """
        if name in self.entries:
            return self.entries[name]
        if same := [entry for entry in self if entry.name == name]:
            return same[-1]
        known = [entry.full_name for entry in self if entry.name == name.partition("@")[0]] or self.names()
        close = difflib.get_close_matches(name.lower(), [*known, *self.names()], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownDetectorError(f"Unknown detector {name!r}; available: {', '.join(known) or 'none'}.{hint}")


def load_manifest(path: Path | None = None) -> Manifest:
    """Reads and checks a manifest.

    Args:
        path: None takes the packaged file or, in a source checkout, the one at the root of the repository.

    Raises:
        ManifestError: The file is missing or breaks the schema; the message names the entry and the field.
    """
    path = _default_path() if path is None else Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        document = read_strict(text)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    except OSError as error:
        raise ManifestError(f"Cannot read the weights manifest {path}: {error}. Reinstall aigidetect.") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is not valid JSON in UTF-8: {error}.") from error
    top = Fields(document, f"{path}: top level", "", _TOP)
    if top.whole("schema") != SCHEMA:
        top.refuse("schema", f"{SCHEMA}, the schema that this release of aigidetect reads")
    entries = [read_entry(name, facts, f"{path}: entry {name!r}") for name, facts in top.mapping("detectors").items()]
    entries.sort(key=lambda entry: (entry.name, entry.version))
    return Manifest(path, {entry.full_name: entry for entry in entries})


def _default_path() -> Path:
    package = Path(__file__).resolve().parent
    # Without pyproject.toml in it, the folder above may be any site-packages.
    in_checkout = not (package / _FILE).is_file() and (package.parent / "pyproject.toml").is_file()
    return (package.parent if in_checkout else package) / _FILE


def read_entry(full_name: str, value: object, where: str) -> ManifestEntry:
    """Checks one entry.

    Args:
        full_name: `name@version`.
        value: What stands under that name in the file.
        where: Place, for the messages.

    Raises:
        ManifestError: It breaks the schema; the message names the field.
    """
    parts = _FULL_NAME.fullmatch(full_name)
    if parts is None:
        raise ManifestError(f"{where}: expected a name like 'npr-ms-ca@1', lower case and with a version from 1 on.")
    fields = Fields(value, where, "", _ENTRY, _ENTRY_OPTIONAL)
    published = fields.given("weights")
    if not isinstance(fields.mapping("preprocess").get("kind"), str):
        fields.refuse("preprocess", "an object with the text field 'kind'")
    if not all(map(str.isidentifier, fields.mapping("config"))):
        fields.refuse("config", "keyword arguments")
    return ManifestEntry(
        name=parts[1],
        version=int(parts[2]),
        architecture=fields.text("architecture", _ARCHITECTURE, "a module name such as 'npr_resnet'"),
        config=fields.mapping("config"),
        preprocess=fields.mapping("preprocess"),
        calibration=_calibration(fields) if published or fields.given("calibration") else None,
        weights=_weights(fields, "weights") if published else None,
        backbone=_weights(fields, "backbone") if fields.given("backbone") else None,
        parameters=fields.whole("parameters"),
        provenance=fields.mapping("provenance") if published or fields.given("provenance") else None,
        golden=_golden(fields) if published or fields.given("golden") else None,
        note=fields.text("note") if not published or fields.given("note") else None,
    )


def _calibration(entry: Fields) -> dict[str, Any]:
    facts = entry.mapping("calibration")
    fields = Fields(facts, entry.where, "calibration.", _CALIBRATION)
    fields.text("pool")
    fields.check_number("temperature", positive=True)
    fields.check_number("bias")
    for point in fields.items("thresholds"):
        stated = point if isinstance(point, dict) else {}
        if not ("fpr" in stated and "probability" in stated and all(map(is_number, stated.values()))):
            fields.refuse("thresholds", "objects of numbers, each with at least 'fpr' and 'probability'")
    return facts


def _weights(entry: Fields, field: str) -> WeightsFile:
    fields = Fields(entry.values[field], entry.where, f"{field}.", ("sha256", "bytes"), ("file", *_HUB))
    given = [key for key in _HUB if fields.given(key)]
    if given and len(given) < len(_HUB):
        fields.refuse(next(key for key in _HUB if key not in given), f"a text, because {given[0]!r} is given")
    if not given and not fields.given("file"):
        fields.refuse("file", "a bundled file, or 'repo_id', 'revision' and 'filename' on the Hub")
    name = "a bare file name of letters, digits, '.', '_' and '-' that ends with .safetensors"
    return WeightsFile(
        file=fields.text("file", _FILE_NAME, name) if fields.given("file") else None,
        repo_id=fields.text("repo_id", REPO_ID, "a repository 'org/name'") if given else None,
        revision=fields.text("revision", _REVISION, "40 lower-case hex digits") if given else None,
        filename=fields.text("filename", _FILE_NAME, name) if given else None,
        sha256=fields.text("sha256", _SHA256, "64 lower-case hex digits"),
        bytes=fields.whole("bytes"),
    )


def _golden(entry: Fields) -> dict[str, Any]:
    facts = entry.mapping("golden")
    fields = Fields(facts, entry.where, "golden.", _GOLDEN)
    fields.text("input")
    fields.check_number("tolerance", positive=True)
    if not (fields.items("logits") and all(map(is_number, fields.items("logits")))):
        fields.refuse("logits", "a list of at least one number")
    return facts
