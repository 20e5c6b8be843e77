"""Manifest entry -> repository on the Hugging Face Hub -> the entry, pinned to the commit that holds its weights.

prepare   the files that `aigidetect.pretrained` describes, checked against the entry; needs no network
upload    one commit, from which the weights are then fetched back and compared
pin       the commit goes into the manifest, which is replaced as a whole or not at all
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import hub
from ..config import CARD, CONFIG, NOTICES, WEIGHTS, config_json
from ..errors import WeightsError, WeightsMismatch, WeightsNotAvailable
from ..manifest import REPO_ID, ManifestEntry, WeightsFile, load_manifest
from .card import model_card


def prepare(
    entry: ManifestEntry,
    weights_folder: str | Path,
    repo_id: str,
    *,
    audit: Mapping[str, Any] | None = None,
    again: bool = False,
) -> dict[str, bytes]:
    """The files of the repository: name -> content. A backbone is among them unless the entry already names its commit.

    Args:
        entry: The detector.
        weights_folder: Has weights and backbone under their bundled names and, where there are any, the notices `NOTICES`.
        repo_id: Repository, `"owner/name"`.
        audit: See `model_card`.
        again: Also takes an entry that already names a commit, for instance to renew its card.

    Raises:
        WeightsNotAvailable: The entry has no weights, or the folder does not have them.
        WeightsMismatch: The file's sha256 is not the entry's.
        ValueError: The entry already names a commit; or `repo_id` is no name of a repository; or see `model_card`.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"Expected a repository 'owner/name', but got {repo_id!r}.")
    if entry.weights is not None and entry.weights.revision is not None and not again:
        raise ValueError(
            f"{entry.full_name} is already published: {entry.weights.repo_id} at commit {entry.weights.revision}. Published "
            "entries never change; export a new version, or use --again to upload the same weights with a new card."
        )
    folder = Path(weights_folder)
    files = {name: _read(entry, file, folder) for name, file in _parts(entry).values()}
    notices = folder / NOTICES
    files[CONFIG] = config_json(_as_uploaded(entry), entry.full_name)
    files[CARD] = str(model_card(entry, repo_id, audit=audit, notices=notices.is_file())).encode()
    return {**files, NOTICES: notices.read_bytes()} if notices.is_file() else files


def _parts(entry: ManifestEntry) -> dict[str, tuple[str, WeightsFile]]:
    """What is uploaded: field of the entry -> name in the repository, and the file."""
    if entry.weights is None:
        raise WeightsNotAvailable(f"Detector {entry.full_name!r} has no weights to publish. {entry.note}")
    parts = {"weights": (WEIGHTS, entry.weights)}
    if entry.backbone is not None and entry.backbone.revision is None:
        parts["backbone"] = (str(entry.backbone.file), entry.backbone)
    return parts


def _as_uploaded(entry: ManifestEntry) -> ManifestEntry:
    """The entry with its files under the names that they have in the repository."""
    parts = {
        field: WeightsFile(name, None, None, None, file.sha256, file.bytes) for field, (name, file) in _parts(entry).items()
    }
    backbone = parts.get("backbone") or (entry.backbone and dataclasses.replace(entry.backbone, file=None))
    return dataclasses.replace(entry, weights=parts["weights"], backbone=backbone)


def _read(entry: ManifestEntry, file: WeightsFile, folder: Path) -> bytes:
    path = folder / (file.file or f"{entry.name}-{entry.version}.safetensors")
    if not path.is_file():
        raise WeightsNotAvailable(f"No {path.name} in {folder}; name its folder as --weights-folder.")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != file.sha256:
        raise WeightsMismatch(
            f"{path} is not the checkpoint of {entry.full_name}: expected sha256 {file.sha256}, but got {found}. "
            "Nothing was published. Restore the file, or export it as a new version."
        )
    return content


def upload(
    files: Mapping[str, bytes], repo_id: str, *, summary: str, private: bool = False, endpoint: str | None = None
) -> str:
    """`aigidetect.hub.upload`, whose errors also say that the manifest was not changed."""
    try:
        return hub.upload(files, repo_id, summary=summary, private=private, endpoint=endpoint)
    except WeightsError as error:
        raise type(error)(f"{error} The manifest was not changed.") from error


def pin(manifest: str | Path, entry: ManifestEntry, repo_id: str, revision: str) -> None:
    """Writes repository, commit and file name into an entry's `weights`, and into its `backbone` if that had none;
    everything else stays as it is.

    The new file is checked, then takes the place of the old one at once.

    Args:
        manifest: weights_manifest.json.
        entry: The entry that was published.
        repo_id: Its repository.
        revision: Its commit, 40 hex digits.

    Raises:
        ValueError: The entry's weights are no longer those that were published.
        ManifestError: The result would break the schema.
    """
    path = Path(manifest).resolve()
    book = json.loads(path.read_text(encoding="utf-8"))
    facts = book["detectors"].get(entry.full_name) or {}
    for field, (filename, file) in _parts(entry).items():
        if (facts.get(field) or {}).get("sha256") != file.sha256:
            raise ValueError(
                f"{path} has other {field} of {entry.full_name} by now; commit {revision} was not written there."
            )
        facts[field].update(repo_id=repo_id, revision=revision, filename=filename)
    handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as output:
            output.write(json.dumps(book, indent=1) + "\n")
        load_manifest(Path(name))
        shutil.copymode(path, name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
