"""The Hugging Face Hub: one file down, a few files up, and errors that say what to do.

With `fetch_foreign`, the only file that touches the network. The client, which is slow to import, is imported in the calls.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import WeightsError, WeightsMismatch, WeightsNotAvailable


def download(
    repo_id: str,
    name: str,
    *,
    revision: str | None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Path of a file of a repository in the cache, downloaded if need be. Its content is not checked here.

    The folder of the path is that of the commit, and has its name of 40 hex digits.

    Args:
        repo_id: Repository, `"owner/name"`.
        name: File in it.
        revision: Commit, branch or tag; None is the branch `main`.
        local_files_only: Never use the network.
        cache_dir: Cache folder instead of huggingface_hub's own.
        force: Downloads it again.

    Raises:
        WeightsNotAvailable: It could not be, or may not be, downloaded.
        WeightsError: A link leads out of the cache.
    """
    try:
        from huggingface_hub import constants, hf_hub_download

        cache = Path(os.path.expanduser(cache_dir or constants.HF_HUB_CACHE))
        path = hf_hub_download(
            repo_id, name, revision=revision, cache_dir=cache, local_files_only=local_files_only, force_download=force
        )
    except Exception as error:  # of the Hub, of its HTTP client, of the disk: the caller needs one kind
        raise WeightsNotAvailable(
            f"Cannot get {name} from the Hub (repository {repo_id}, revision {revision or 'main'}): "
            f"{_reason(error, local_files_only)}"
        ) from error
    return inside(Path(path), cache)


def inside(path: Path, folder: Path) -> Path:
    """The path, if no link in it leads out of a folder.

    Raises:
        WeightsError: One does.
    """
    target, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if not target.is_relative_to(root):
        raise WeightsError(
            f"Refused {path}: it leads to {target}, outside of {root}. Delete it; to use that file on purpose, pass "
            f"its path as `weights`, or its folder as AIGIDETECT_WEIGHTS_DIR."
        )
    return path


def _reason(error: BaseException, offline: bool) -> str:
    """What went wrong and what to do, from the chain of causes."""
    if offline:
        return "local_files_only forbids the network, and it is not in the cache."
    from huggingface_hub import errors as hub

    advice: list[tuple[type[Exception], str]] = [
        (hub.OfflineModeIsEnabled, "the network is switched off by HF_HUB_OFFLINE, and it is not in the cache."),
        (hub.GatedRepoError, "access is restricted; accept the terms of the repository and run `hf auth login`."),
        (hub.RepositoryNotFoundError, "no such repository, or a private one that needs `hf auth login`."),
        (hub.RevisionNotFoundError, "the repository has no such revision."),
        (hub.RemoteEntryNotFoundError, "the repository has no such file at this revision."),
        (hub.HfHubHTTPError, "the server failed; try again later."),
        (hub.FileMetadataError, "the server does not answer like a Hub; check HF_ENDPOINT and the proxy."),
        (PermissionError, "the cache cannot be written; set HF_HOME to a folder of yours."),
    ]
    causes = _causes(error)
    detail = " ".join(f"{type(causes[-1]).__name__}: {causes[-1]}".split())[:300]
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return f"the disk is full; free some space, or set HF_HOME to another disk. ({detail})"
    texts = (text for cause in causes for kind, text in advice if isinstance(cause, kind))
    text = next(texts, "no connection, or it broke off; check network, proxy and HF_ENDPOINT, then try again.")
    return f"{text} ({detail})"


def _causes(error: BaseException) -> list[BaseException]:
    causes = [error]
    while (cause := causes[-1].__cause__) and cause not in causes:
        causes.append(cause)
    return causes


def upload(
    files: Mapping[str, bytes],
    repo_id: str,
    *,
    summary: str,
    private: bool = False,
    endpoint: str | None = None,
    if_missing: Mapping[str, bytes] | None = None,
) -> str:
    """Puts files into a repository, made if there is none, in one commit, and fetches the safetensors back.

    Args:
        files: Name -> content.
        repo_id: Repository, `"owner/name"`.
        summary: First line of the commit.
        private: Makes a private repository. One that exists and is public is refused.
        endpoint: Address of the Hub; None takes huggingface_hub's own.
        if_missing: Further files, which take no other's place.

    Returns:
        The commit, 40 hex digits.

    Raises:
        WeightsError: Nobody is logged in, or the Hub cannot be reached or refuses; the message says what to do.
        WeightsMismatch: What the Hub has under the commit are other weights.
    """
    try:
        from huggingface_hub import HfApi, get_token

        token = get_token()
        if token is None:
            raise WeightsError(
                "Publishing needs an access token of the Hub that may write: run `hf auth login`, or set HF_TOKEN."
            )
        api = HfApi(endpoint=endpoint, token=token)
        revision = _commit(api, files, if_missing or {}, repo_id, summary, private)
        for name in (name for name in files if name.endswith(".safetensors")):
            _compare(name, files[name], repo_id, revision, endpoint, token)
    except WeightsError:
        raise
    except Exception as error:  # of the Hub, of its HTTP client, of the disk: the caller needs one kind
        raise WeightsError(f"Cannot publish to {repo_id}: {_refusal(error)}") from error
    return revision


def _commit(
    api: Any, files: Mapping[str, bytes], if_missing: Mapping[str, bytes], repo_id: str, summary: str, private: bool
) -> str:
    from huggingface_hub import CommitOperationAdd

    api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise WeightsError(
            f"{repo_id} exists and is public. Nothing was uploaded. Use another name, or ask for no private repository."
        )
    wanted = {**{name: content for name, content in if_missing.items() if not api.file_exists(repo_id, name)}, **files}
    operations = [CommitOperationAdd(name, content) for name, content in wanted.items()]
    return str(api.create_commit(repo_id, operations, commit_message=summary).oid)


def _compare(name: str, content: bytes, repo_id: str, revision: str, endpoint: str | None, token: str) -> None:
    from huggingface_hub import hf_hub_download

    expected = hashlib.sha256(content).hexdigest()
    with tempfile.TemporaryDirectory() as cache:  # so that the bytes come from the Hub
        path = hf_hub_download(repo_id, name, revision=revision, cache_dir=cache, endpoint=endpoint, token=token)
        found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != expected:
        raise WeightsMismatch(
            f"{repo_id} at commit {revision} has another {name} than was uploaded: expected sha256 {expected}, but got "
            f"{found}. Publish again."
        )


def _refusal(error: Exception) -> str:
    from huggingface_hub import errors as hub

    found = (cause.response.status_code for cause in _causes(error) if isinstance(cause, hub.HfHubHTTPError))
    status = next(found, None)
    if status in (401, 403):
        advice = "the token is not valid, or may not write there; run `hf auth login` with one that may."
    elif status is not None:
        advice = "the server refused or failed; try again later."
    elif isinstance(error, hub.OfflineModeIsEnabled):
        advice = "the network is switched off by HF_HUB_OFFLINE."
    else:
        advice = "check network, proxy and HF_ENDPOINT, then try again."
    return f"{advice} ({' '.join(f'{type(error).__name__}: {error}'.split())[:300]})"
