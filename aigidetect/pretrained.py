"""A detector as a folder, on disk or on the Hugging Face Hub: what `save_pretrained` and `training publish` write.

    model.safetensors   the weights
    *.safetensors       the backbone, if the detector shares one with others
    config.json         name, architecture and its options, preprocessing, calibration, sha256 and size of the files, and
                        golden outputs: an entry of weights_manifest.json, with the keys "library", "schema" and "name"
    README.md           the model card
    LICENSES.md         the notices of published weights

Nothing in it is run. Every field is checked, and each file has to have the stated size and SHA-256. That protects against
damage, not against its author: a folder says of itself what it is, so look at whose it is, and pin the commit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from .config import CARD, CONFIG, NOTICES, WEIGHTS, config_json, honest_name, read_config, short_card
from .conventions import Conventions
from .entries import entry_calibration, entry_preprocess, filled_network
from .errors import ManifestError, WeightsError, WeightsNotAvailable
from .hub import download, upload
from .manifest import REPO_ID, ManifestEntry, WeightsFile, load_manifest
from .preprocess import from_dict
from .selftest import check_once, golden_facts
from .weights import load_files

HUB = "hf-hub:"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST_CONFIG = 2**22  # bytes
_PACKAGED_NOTICES = Path(__file__).resolve().parent / "weights" / NOTICES

Loaded = TypeVar("Loaded", bound="Pretrained")


@dataclass(frozen=True)
class Origin:
    """What a Detector's network is of, and where its weights lie.

    Attributes:
        architecture: Name of a file of `aigidetect.models`.
        config: Arguments of its `build`.
        files: Paths of `"weights"` and, if there is one, `"backbone"`; empty for a network that was never stored.
        provenance: Facts for the card: licence, data, metrics, ...
    """

    architecture: str
    config: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Pretrained(Conventions):
    """Base of Detector: saving, publishing and loading.

    Attributes:
        origin: Set by `load_detector` and `from_pretrained`. Set it yourself to save a network of `aigidetect.models` that
            you have trained.
    """

    origin: Origin | None = None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the detector as it is now into a folder, from which `from_pretrained` makes one with equal scores.

        If the network still has the weights of the files that it was loaded from, these files are copied, byte for byte.
        Otherwise its tensors are stored as float32, and a detector of a published name is called `name+custom`. A README.md
        that is there already is kept.

        Args:
            folder: Made if there is none.

        Raises:
            WeightsError: The detector has no `origin`, or the network is another one than it says.
            ValueError: The preprocessing is not one of `aigidetect.preprocess`.
        """
        files, card = _files(self)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        # The config last: a folder without it is refused, so a save that was cut off is never taken for a whole one.
        (target / CONFIG).unlink(missing_ok=True)
        for name, content in [*files.items(), *([] if (target / CARD).exists() else [(CARD, card)])]:
            if name != CONFIG:
                (target / name).write_bytes(content)
        (target / CONFIG).write_bytes(files[CONFIG])

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, commit_message: str | None = None, endpoint: str | None = None
    ) -> str:
        """Uploads what `save_pretrained` writes, in one commit, and compares what the Hub then has.

        A README.md that is there already is kept. Needs a token: `hf auth login`, or HF_TOKEN.

        Args:
            repo_id: Repository, `"owner/name"`, made if there is none.
            private: Makes a private repository; a public one that exists is refused.
            commit_message: First line of the commit.
            endpoint: Address of the Hub; None takes huggingface_hub's own.

        Returns:
            `"hf-hub:owner/name@commit"`, which `load_detector` takes.

        Raises:
            WeightsError: See `save_pretrained`; or nobody is logged in, or the Hub refuses or cannot be reached.
            ValueError: `repo_id` is no name of a repository; or see `save_pretrained`.
        """
        if not REPO_ID.fullmatch(repo_id):
            raise ValueError(f"Expected a repository 'owner/name', but got {repo_id!r}.")
        files, card = _files(self)
        summary = commit_message or f"Add {self.name}"
        commit = upload(files, repo_id, summary=summary, private=private, endpoint=endpoint, if_missing={CARD: card})
        return f"{HUB}{repo_id}@{commit}"

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        place: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
    ) -> Loaded:
        """A detector from a folder of `save_pretrained`, or from a repository of the Hub with the same files.

        Args:
            place: A folder; or `"owner/name"` or `"owner/name@revision"`, with or without `"hf-hub:"` in front.
            revision: Commit, branch or tag of the repository. Anything but a commit of 40 hex digits may be other weights
                tomorrow: a warning names the commit that it was.
            device: See `Detector`.
            dtype: See `Detector`.
            local_files_only: Never use the network.
            cache_dir: Cache folder instead of huggingface_hub's own.

        Raises:
            WeightsNotAvailable: There is no such folder, repository or file, or it could not be downloaded.
            WeightsMismatch: A file is not the one that config.json states, does not fit the network, or this machine
                computes other numbers with it.
            ManifestError: config.json breaks the schema.
            ValueError: `revision` for a folder, or twice.
        """
        folder, repo_id = _resolve(place, revision, local_files_only, cache_dir)
        name, entry = read_config(_config_text(folder), str(folder / CONFIG))
        files = {"weights": _file(entry, entry.weights, folder, repo_id, local_files_only, cache_dir)}
        if entry.backbone is not None:
            files["backbone"] = _file(entry, entry.backbone, folder, repo_id, local_files_only, cache_dir)
        state, sha256 = load_files(entry, files)
        detector = cls(  # type: ignore[call-arg]  # of Detector
            filled_network(entry, state, str(folder)),
            entry_preprocess(entry),
            entry_calibration(entry),
            name=honest_name(name, entry),
            weights_sha256=sha256,
            device=device,
            dtype=dtype,
        )
        check_once(detector, entry)
        detector.origin = Origin(entry.architecture, entry.config, files, entry.provenance or {})
        return detector


def _resolve(
    place: str | os.PathLike[str], revision: str | None, offline: bool, cache_dir: str | Path | None
) -> tuple[Path, str | None]:
    """Folder that has config.json, and the repository that it is of."""
    text = os.fspath(place)
    if not text.startswith(HUB) and os.path.isdir(text):
        if revision is not None:
            raise ValueError(f"{text!r} is a folder, which has no revisions; leave revision out.")
        return Path(text), None
    repo_id, _, asked = text.removeprefix(HUB).partition("@")
    if not REPO_ID.fullmatch(repo_id):
        raise WeightsNotAvailable(f"Expected a folder, or a repository 'owner/name@commit' of the Hub, but got {text!r}.")
    if asked and revision is not None:
        raise ValueError(f"{text!r} names a revision already; leave revision out.")
    asked = asked or revision or "main"
    folder = download(repo_id, CONFIG, revision=asked, local_files_only=offline, cache_dir=cache_dir).parent
    if not _COMMIT.fullmatch(asked):
        warnings.warn(
            f"{repo_id} was asked for at {asked!r}, which may move. It was commit {folder.name}; to get the same again, "
            f"load '{HUB}{repo_id}@{folder.name}'.",
            stacklevel=3,
        )
    return folder, repo_id


def _config_text(folder: Path) -> str:
    path = folder / CONFIG
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_CONFIG + 1)
    except OSError as error:
        raise WeightsNotAvailable(
            f"Cannot read {path} ({type(error).__name__}); expected a folder that save_pretrained has written."
        ) from error
    if len(content) > _LARGEST_CONFIG:
        raise ManifestError(f"{path} has more than {_LARGEST_CONFIG:,} bytes; it is not the config of a detector.")
    return content.decode("utf-8", "replace")


def _file(
    entry: ManifestEntry,
    file: WeightsFile | None,
    folder: Path,
    repo_id: str | None,
    offline: bool,
    cache_dir: str | Path | None,
) -> Path:
    assert file is not None  # read_config refuses an entry without weights
    options: dict[str, Any] = {"local_files_only": offline, "cache_dir": cache_dir}
    if file.file is None:  # a backbone in the repository of another detector
        return download(str(file.repo_id), str(file.filename), revision=file.revision, **options)
    if repo_id is not None:
        return download(repo_id, file.file, revision=folder.name, **options)
    return folder / file.file


def _files(detector: Pretrained) -> tuple[dict[str, bytes], bytes]:
    """Files of the folder but the card, by name; and the card."""
    origin = detector.origin
    if origin is None:
        raise WeightsError(
            "Only networks of aigidetect.models can be saved. If this is one, say so: "
            "detector.origin = aigidetect.pretrained.Origin('npr_resnet', {'fusion': 'multi'})."
        )
    preprocess = detector.preprocess.to_dict()
    if from_dict(preprocess) != detector.preprocess:
        raise ValueError(f"Only a preprocessing of aigidetect.preprocess can be saved, not {detector.preprocess!r}.")
    entry = ManifestEntry(
        name="saved",
        version=1,
        architecture=origin.architecture,
        config=origin.config,
        preprocess=preprocess,
        calibration=detector.calibration.to_dict(),
        weights=None,
        parameters=sum(parameter.numel() for parameter in detector.network.parameters()),
        provenance=origin.provenance,
        golden=golden_facts(detector),
        note=None,
    )
    entry, contents = _stored(detector, entry, origin)
    name = honest_name(detector.name, entry)
    files = {**contents, CONFIG: config_json(entry, name)}
    if name in load_manifest().entries and _PACKAGED_NOTICES.is_file():
        files[NOTICES] = _PACKAGED_NOTICES.read_bytes()
    return files, short_card(entry, name).encode()


def _stored(detector: Pretrained, entry: ManifestEntry, origin: Origin) -> tuple[ManifestEntry, dict[str, bytes]]:
    """The entry with its files, and their content by name."""
    own = {key: value.detach().cpu().contiguous() for key, value in detector.network.state_dict().items()}
    if (copied := _unchanged(own, entry, origin.files)) is not None:
        return copied
    filled_network(entry, own, f"the detector {detector.name!r}")  # or an error that says what does not fit
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in own.items()}
    content = safetensors.torch.save(tensors)
    return dataclasses.replace(entry, weights=_facts(WEIGHTS, content)), {WEIGHTS: content}


def _unchanged(
    own: Mapping[str, Tensor], entry: ManifestEntry, files: Mapping[str, Path]
) -> tuple[ManifestEntry, dict[str, bytes]] | None:
    """As `_stored`, from the files that the network was loaded from; None if it has other weights by now."""
    try:
        contents = {WEIGHTS if key == "weights" else path.name: path.read_bytes() for key, path in files.items()}
        if not contents or len(contents) < len(files):
            return None
        first, *more = (_facts(name, content) for name, content in contents.items())
        found = dataclasses.replace(entry, weights=first, backbone=more[0] if more else None)
        stored = filled_network(found, load_files(found, files)[0], entry.full_name).state_dict()
    except OSError:  # gone, or a whole network that does not go with the shared backbone
        return None
    same = own.keys() == stored.keys() and all(torch.equal(own[key], stored[key].to(own[key].dtype)) for key in own)
    return (found, contents) if same else None


def _facts(name: str, content: bytes) -> WeightsFile:
    return WeightsFile(name, None, None, None, hashlib.sha256(content).hexdigest(), len(content))
