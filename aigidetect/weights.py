"""Manifest entry -> verified state dict.

A checkpoint is looked for in this order; the first place that has it is taken:

    1  the path given by the caller       your own weights: NOT compared with the published hash
    2  the folder AIGIDETECT_WEIGHTS_DIR  from here on, size and SHA-256 must be the published ones, at every load
    3  the installed package
    4  the cache of huggingface_hub       asks no server if the published commit is cached
    5  the Hugging Face Hub               honours HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE

Only safetensors files are read, never a pickle. In the first two places a file is looked for under its bundled name, as
`<name>-<version>.safetensors`, and under its name on the Hub.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import safetensors.torch
from torch import Tensor

from .errors import WeightsError, WeightsMismatch, WeightsNotAvailable
from .hub import download, inside
from .manifest import ManifestEntry, WeightsFile

WEIGHTS_DIR_VARIABLE = "AIGIDETECT_WEIGHTS_DIR"

# Resolved, because an installer may have linked this module, but not the weights, into site-packages.
_BUNDLED = Path(__file__).resolve().parent / "weights"
_Place = str | Path | None


@dataclass(frozen=True)
class _Found:
    path: Path
    place: Literal["path", "folder", "package", "hub", "saved"]


def locate(
    entry: ManifestEntry,
    *,
    weights: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Path:
    """Path of a detector's checkpoint, downloaded if need be. Its content is not checked here.

    Args:
        entry: The detector.
        weights: A checkpoint of your own for the same architecture, or a folder that has one.
        revision: Commit, branch or tag to ask the Hub for instead of the published commit. The bytes must still be the
            published ones. Without effect if the file is found in an earlier place.
        local_files_only: Never use the network.
        cache_dir: Cache folder instead of huggingface_hub's own.

    Raises:
        WeightsNotAvailable: It is nowhere and could not be, or may not be, downloaded; or none was ever published.
        WeightsError: A link leads out of the package's folder or out of the cache.
    """
    return _find(entry, weights, revision, local_files_only, cache_dir).path


def load_state_dict(
    entry: ManifestEntry,
    *,
    weights: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> tuple[dict[str, Tensor], str]:
    """Tensors of a detector's checkpoint, and the SHA-256 of the very bytes they were read from.

    A checkpoint given by `weights` is yours to vouch for: its hash is returned, not compared. If the detector has a
    backbone, that file's tensors are joined in, unless a checkpoint of your own has a backbone: any tensor of the same name.

    Arguments and further errors: see `locate`.

    Raises:
        WeightsMismatch: Size or SHA-256 differ from the published ones, or the file is no intact safetensors file.
    """
    state, sha256 = _tensors(entry, _find(entry, weights, revision, local_files_only, cache_dir))
    if entry.backbone is not None:
        shared, _ = load_state_dict(_backbone(entry), local_files_only=local_files_only, cache_dir=cache_dir)
        # A whole network may be another one, or have no scales where the shared file has them: nothing is added to it.
        whole = weights is not None and not state.keys().isdisjoint(shared)
        state = state if whole else {**shared, **state}
    return state, sha256


def locate_all(
    entry: ManifestEntry,
    *,
    weights: str | Path | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Path]:
    """Paths of what `load_state_dict` has read: `"weights"` and, if the detector has one, `"backbone"`. Asks no server.

    Arguments and errors: see `locate`.
    """
    files = {"weights": locate(entry, weights=weights, revision=revision, local_files_only=True, cache_dir=cache_dir)}
    if entry.backbone is not None:
        files["backbone"] = locate(_backbone(entry), local_files_only=True, cache_dir=cache_dir)
    return files


def load_files(entry: ManifestEntry, files: Mapping[str, Path]) -> tuple[dict[str, Tensor], str]:
    """As `load_state_dict`, from known places: every file must have the size and SHA-256 that the entry states.

    Args:
        entry: The detector.
        files: Paths of `"weights"` and, if it has one, `"backbone"`.

    Raises:
        WeightsMismatch: Size or SHA-256 differ, or a file is no intact safetensors file.
        WeightsNotAvailable: A file cannot be read.
    """
    state, sha256 = _tensors(entry, _Found(files["weights"], "saved"))
    if entry.backbone is not None:
        state = {**_tensors(_backbone(entry), _Found(files["backbone"], "saved"))[0], **state}
    return state, sha256


def _tensors(entry: ManifestEntry, found: _Found) -> tuple[dict[str, Tensor], str]:
    content, sha256 = _read(entry, found)
    try:
        return safetensors.torch.load(content), sha256
    except Exception as error:  # the parser's own errors and, for odd headers, KeyError, ValueError and more
        raise WeightsMismatch(
            f"{found.path} is not an intact safetensors file ({type(error).__name__}: {error}). A pickled checkpoint "
            "(.pth, .pt, .bin, .ckpt) of a known network becomes one by `aigidetect convert FILE --as NAME`."
        ) from error


def fetch(
    entry: ManifestEntry, *, force: bool = False, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Path of a detector's checkpoint, downloaded if need be, and verified to be the published one; so is its backbone.

    Args:
        entry: The detector.
        force: Downloads it again if it is on the Hub, even if it is here.
        revision: See `locate`.
        cache_dir: See `locate`.

    Raises:
        WeightsMismatch: Size or SHA-256 differ from the published ones.
        WeightsError: See `locate`.
    """
    if force and entry.weights is not None and entry.weights.repo_id is not None:
        found = _from_hub(entry, entry.weights, revision, False, cache_dir, force=True)
    else:
        found = _find(entry, None, revision, False, cache_dir)
    _read(entry, found)
    if entry.backbone is not None:
        fetch(_backbone(entry), force=force, cache_dir=cache_dir)
    return found.path


def _backbone(entry: ManifestEntry) -> ManifestEntry:
    """The shared file as an entry of its own, so that it is looked for, and checked, like any other."""
    assert entry.backbone is not None
    stem = (entry.backbone.file or entry.backbone.filename or "").removesuffix(".safetensors")
    name, _, version = stem.rpartition("-")
    return dataclasses.replace(
        entry, name=name or stem, version=int(version) if version.isdigit() else 1, weights=entry.backbone, backbone=None
    )


def _find(entry: ManifestEntry, own: _Place, revision: str | None, offline: bool, cache_dir: _Place) -> _Found:
    if own is not None:
        return _own(entry, own)
    if entry.weights is None:
        raise WeightsNotAvailable(f"Detector {entry.full_name!r} has no published weights. {entry.note}")
    if found := _in_folder(entry) or _in_package(entry.weights):
        return found
    return _from_hub(entry, entry.weights, revision, offline, cache_dir)


def _names(entry: ManifestEntry) -> list[str]:
    """File names of a checkpoint, the preferred one first."""
    standard = f"{entry.name}-{entry.version}.safetensors"
    names = [standard] if entry.weights is None else [entry.weights.file, standard, entry.weights.filename]
    return [_bare(name) for name in dict.fromkeys(names) if name is not None]


def _bare(name: str) -> str:
    # The manifest reader refuses such names, but an entry may have been made without it.
    if name in ("", ".", "..") or name != PurePosixPath(name).name or name != PureWindowsPath(name).name:
        raise WeightsError(f"Refused the weights file name {name!r}: expected a bare name, without any folder.")
    return name


def _own(entry: ManifestEntry, weights: str | Path) -> _Found:
    path, names = Path(os.path.expanduser(weights)), _names(entry)
    for candidate in [path, *(path / name for name in names)]:
        if os.path.isfile(candidate) and str(weights):  # an empty text would mean the working folder
            return _Found(candidate, "path")
    raise WeightsNotAvailable(
        f"No weights at {str(weights)!r}: expected a safetensors file, or a folder that has {' or '.join(names)}."
    )


def _in_folder(entry: ManifestEntry) -> _Found | None:
    folder = os.environ.get(WEIGHTS_DIR_VARIABLE)
    paths = [Path(os.path.expanduser(folder)) / name for name in _names(entry)] if folder else []
    return next((_Found(path, "folder") for path in paths if os.path.isfile(path)), None)


def _in_package(weights: WeightsFile) -> _Found | None:
    if weights.file is None or not os.path.isfile(_BUNDLED / _bare(weights.file)):
        return None
    return _Found(inside(_BUNDLED / weights.file, _BUNDLED), "package")


def _from_hub(
    entry: ManifestEntry, weights: WeightsFile, revision: str | None, offline: bool, cache: _Place, force: bool = False
) -> _Found:
    if weights.repo_id is None or weights.filename is None:
        raise WeightsNotAvailable(
            f"The weights of detector {entry.full_name!r} come with aigidetect, but {_BUNDLED / str(weights.file)} is "
            "missing. Run `pip install --force-reinstall aigidetect`."
        )
    try:
        path = download(
            weights.repo_id,
            _bare(weights.filename),
            revision=revision or weights.revision,
            local_files_only=offline,
            cache_dir=cache,
            force=force,
        )
    except WeightsNotAvailable as error:
        raise WeightsNotAvailable(
            f"{error} It is the checkpoint of detector {entry.full_name!r}; for a machine without network, run `aigidetect "
            f"fetch {entry.full_name}` on another, copy the file as {_names(entry)[0]} into a folder, and set "
            f"{WEIGHTS_DIR_VARIABLE} to it."
        ) from error.__cause__
    return _Found(path, "hub")


def _read(entry: ManifestEntry, found: _Found) -> tuple[bytes, str]:
    """Content and SHA-256 of a checkpoint, compared with the published ones unless it is the caller's own.

    The whole file is read at once, so that what is hashed is what is loaded.
    """
    published = None if found.place == "path" else entry.weights
    try:
        with open(found.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read() if published is None or size == published.bytes else b""
    except (OSError, MemoryError) as error:
        raise WeightsNotAvailable(f"Cannot read the weights {found.path}: {type(error).__name__} {error}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if published is not None and size != published.bytes:
        raise _mismatch(entry, found, f"{published.bytes} bytes", f"{size} bytes")
    if published is not None and sha256 != published.sha256:
        raise _mismatch(entry, found, f"sha256 {published.sha256}", f"sha256 {sha256}")
    return content, sha256


def _mismatch(entry: ManifestEntry, found: _Found, expected: str, got: str) -> WeightsMismatch:
    fix = {
        "folder": f"Replace it, or unset {WEIGHTS_DIR_VARIABLE}.",
        "package": "Run `pip install --force-reinstall aigidetect`.",
        "hub": f"Delete it and run `aigidetect fetch {entry.full_name} --force`.",
        "saved": "Save or download it again.",
    }[found.place]
    return WeightsMismatch(
        f"{found.path} is not the published checkpoint of detector {entry.full_name!r}: expected {expected}, but got "
        f"{got}. It was not loaded. {fix} To use a checkpoint of your own, pass its path as `weights`."
    )
