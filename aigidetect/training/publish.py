"""Manifest entry -> repository on the Hugging Face Hub -> the entry, pinned to the commit that holds its weights.

prepare   weights, card and notices as they will be uploaded, checked against the entry; needs no network
upload    one commit, from which the weights are then fetched back and compared
pin       the commit goes into the manifest, which is replaced as a whole or not at all
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token, hf_hub_download
from huggingface_hub import errors as hub

from ..errors import WeightsError, WeightsMismatch, WeightsNotAvailable
from ..manifest import REPO_ID, ManifestEntry, WeightsFile, load_manifest
from .card import NOTICES, model_card

# On the Hub; a backbone keeps its own name, since other detectors share it.
WEIGHTS = "model.safetensors"
CARD = "README.md"


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
    """Puts files into a repository, made if there is none, in one commit, and fetches the safetensors back.

    Args:
        files: Name -> content.
        repo_id: Repository, `"owner/name"`.
        summary: First line of the commit.
        private: Makes a private repository. One that exists and is public is refused.
        endpoint: Address of the Hub; None takes huggingface_hub's own.

    Returns:
        The commit, 40 hex digits.

    Raises:
        WeightsError: Nobody is logged in, or the Hub cannot be reached or refuses; the message says what to do.
        WeightsMismatch: What the Hub has under the commit are other weights.
    """
    try:
        token = get_token()
        if token is None:
            raise WeightsError(
                "Publishing needs an access token of the Hub that may write: run `hf auth login`, or set HF_TOKEN. "
                "To see what would be uploaded, use --dry-run."
            )
        revision = _commit(HfApi(endpoint=endpoint, token=token), files, repo_id, summary, private)
        for name in (name for name in files if name.endswith(".safetensors")):
            _compare(name, files[name], repo_id, revision, endpoint, token)
    except WeightsError:
        raise
    except Exception as error:  # of the Hub, of its HTTP client, of the disk: the caller needs one kind
        raise WeightsError(f"Cannot publish to {repo_id}: {_reason(error)} The manifest was not changed.") from error
    return revision


def _commit(api: HfApi, files: Mapping[str, bytes], repo_id: str, summary: str, private: bool) -> str:
    api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise WeightsError(
            f"{repo_id} exists and is public. Nothing was uploaded. Use another name, or leave --private out."
        )
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return str(api.create_commit(repo_id, operations, commit_message=summary).oid)


def _compare(name: str, content: bytes, repo_id: str, revision: str, endpoint: str | None, token: str) -> None:
    expected = hashlib.sha256(content).hexdigest()
    with tempfile.TemporaryDirectory() as cache:  # so that the bytes come from the Hub
        path = hf_hub_download(repo_id, name, revision=revision, cache_dir=cache, endpoint=endpoint, token=token)
        found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != expected:
        raise WeightsMismatch(
            f"{repo_id} at commit {revision} has another {name} than was uploaded: expected sha256 {expected}, but got "
            f"{found}. The manifest was not changed. Publish again."
        )


def _reason(error: Exception) -> str:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) and cause not in causes:
        causes.append(cause)
    status = next((cause.response.status_code for cause in causes if isinstance(cause, hub.HfHubHTTPError)), None)
    if status in (401, 403):
        advice = "the token is not valid, or may not write there; run `hf auth login` with one that may."
    elif status is not None:
        advice = "the server refused or failed; try again later."
    elif isinstance(error, hub.OfflineModeIsEnabled):
        advice = "the network is switched off by HF_HUB_OFFLINE."
    else:
        advice = "check network, proxy and HF_ENDPOINT, then try again."
    return f"{advice} ({' '.join(f'{type(error).__name__}: {error}'.split())[:300]})"


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
