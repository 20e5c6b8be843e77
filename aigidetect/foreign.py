"""Checkpoints that others published: where they lie, how they see pictures, and what a converted file says of itself.

Facts and files only; downloading is `aigidetect.fetch_foreign`, converting `aigidetect.convert_file`.

A file at a fixed commit of a public Git repository has a known blob id, the SHA-1 of a header and its content. That pins
these files, though none of them is shipped. SHA-1 is weaker than SHA-256; hence the SHA-256 of a converted file is recorded
at the first fetch, and checked at every load.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .errors import ManifestError, UnknownDetectorError, WeightsMismatch, WeightsNotAvailable
from .json_fields import Fields, read_strict
from .manifest import ManifestEntry, load_manifest
from .preprocess import SquashCrop, Whole, from_dict
from .weights import WEIGHTS_DIR_VARIABLE

FACTS = "aigidetect"
_FIELDS = ("detector", "part", "config", "preprocess", "source")
# Far above any real setting, and low enough that a stranger's file cannot ask for a picture that fills the memory.
_LARGEST = 4096
_HALF = (0.5, 0.5, 0.5)

# How the originals saw pictures, by architecture. Most squash: these are their settings, not our advice.
PREPROCESS: dict[str, SquashCrop | Whole] = {
    "npr_resnet": SquashCrop(),
    "resnet": SquashCrop(resize=224, crop=224),
    "vit": SquashCrop(resize=224, crop=224, mean=_HALF, std=_HALF),
    "swin": SquashCrop(resize=224, crop=224, mean=_HALF, std=_HALF),
    "cvt": SquashCrop(resize=224, crop=224, mean=_HALF, std=_HALF),
    "spai": Whole(),
}


@dataclass(frozen=True)
class Foreign:
    """One public checkpoint file.

    Attributes:
        name: `detector:origin`, as `load_detector` and `aigidetect fetch` take it.
        repository: `owner/name` on GitHub.
        commit: 40 hex digits.
        path: Path in the repository.
        blob: Git blob id of the content, 40 hex digits.
        preprocess: How the original saw pictures.
    """

    name: str
    repository: str
    commit: str
    path: str
    blob: str
    preprocess: SquashCrop | Whole = PREPROCESS["npr_resnet"]

    @property
    def detector(self) -> str:
        """Name of the detector whose network it fits."""
        return self.name.partition(":")[0]

    @property
    def file(self) -> str:
        """Name of the converted file in the cache."""
        return self.name.replace(":", "-") + ".safetensors"


_REPORT = ("CVLabWorks/CVIMGDetection", "e4cb578516e32e05b0ebd8d9c48a344ae2211bb4")
_NPR = ("chuangchuangtan/NPR-DeepfakeDetection", "73cde1ced21291bfb504a2add2b53fbe99c4f433")
# The authors of NPR advise neither to resize nor to crop.
_NATIVE = Whole(min_size=4, mean=SquashCrop().mean, std=SquashCrop().std)


def _report(name: str, folder: str, blob: str) -> Foreign:
    return Foreign(f"{name}:report", *_REPORT, f"NPR/checkpoints/{folder}/model_epoch_last.pth", blob)


FOREIGN: tuple[Foreign, ...] = (
    _report("npr-ms-ca", "final", "ff024dee1f205f5e956fecba111a76939edb892e"),
    _report("npr", "baseline", "99e60809f4982578358985eeab6375e2a80e6c71"),
    _report("npr-ca", "channel_attention", "2927bf97441a30b40c1de7e84decd385d8d607f7"),
    _report("npr-ms", "multi_scale_NPR", "01897ca4cf61fe376f1a6e2d0a20c40ce5a34b6e"),
    _report("npr-sa", "spatial_attention", "07a125eb7b7b56cfd1879e6c0b8860c41cd304e5"),
    Foreign("npr:cvpr2024", *_NPR, "NPR.pth", "2430d34a6d6a1143d46d4276a05536770b1a2a97", _NATIVE),
    Foreign("npr:cvpr2024-3090", *_NPR, "model_epoch_last_3090.pth", "f3efe21a3cb98da75b50451c3891ad0d2fa9fb2b", _NATIVE),
)


def get_foreign(name: str) -> Foreign:
    """The checkpoint of a name such as `npr-ms-ca:report`.

    Raises:
        UnknownDetectorError: No such checkpoint; the message lists those that exist.
    """
    known = {foreign.name: foreign for foreign in FOREIGN}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownDetectorError(f"Unknown checkpoint {name!r} of others; available: {', '.join(known)}.{hint}")
    return known[name]


def find_blob(blob: str) -> Foreign | None:
    """The checkpoint with a Git blob id, if it is one of these."""
    return next((foreign for foreign in FOREIGN if foreign.blob == blob), None)


def digests(path: str | Path) -> dict[str, Any]:
    """File name, SHA-256, Git blob id and size in bytes of a file, as a converted file records its source."""
    path = Path(path)
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            blob.update(chunk)
    return {"file": path.name, "sha256": sha256.hexdigest(), "git_blob": blob.hexdigest(), "bytes": size}


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Folder of the converted files: `cache_dir`, else `aigidetect` in `XDG_CACHE_HOME` or `~/.cache`."""
    if cache_dir is not None:
        return Path(os.path.expanduser(cache_dir))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "aigidetect"


def find_foreign(foreign: Foreign, cache_dir: str | Path | None = None) -> tuple[Path, str]:
    """Path of a converted checkpoint, from the folder AIGIDETECT_WEIGHTS_DIR or the cache, and its recorded SHA-256.

    Raises:
        WeightsNotAvailable: It is in neither.
        WeightsMismatch: Its record is damaged.
    """
    own = os.environ.get(WEIGHTS_DIR_VARIABLE)
    for folder in [*([Path(os.path.expanduser(own))] if own else []), cache_folder(cache_dir)]:
        path, record = folder / foreign.file, _record(folder, foreign)
        if path.is_file() and record.is_file():
            try:
                return path, str(read_strict(record.read_text(encoding="utf-8"))["sha256"])  # type: ignore[index]
            except (ManifestError, ValueError, KeyError, TypeError, RecursionError) as error:
                advice = f"run `aigidetect fetch {foreign.name} --force`"
                raise WeightsMismatch(f"{record} is damaged ({error}); {advice}.") from None
    raise WeightsNotAvailable(
        f"{foreign.name!r} is a checkpoint that others published, and it is not on this machine. Run `aigidetect fetch "
        f"{foreign.name}`, which downloads it from https://github.com/{foreign.repository} and converts it. For a machine "
        f"without network, run that on another, copy {foreign.file} and its .json from {cache_folder(cache_dir)} into a "
        f"folder, and set {WEIGHTS_DIR_VARIABLE} to it."
    )


def write_record(foreign: Foreign, path: Path) -> None:
    """Records the SHA-256 of a converted file beside it, for `find_foreign`."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(digests(path), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, _record(path.parent, foreign))


def _record(folder: Path, foreign: Foreign) -> Path:
    return folder / f"{foreign.file.removesuffix('.safetensors')}.json"


def entry_of_others(name: str) -> ManifestEntry:
    """The entry whose network is the one of the checkpoints that others published.

    Args:
        name: A detector, whose newest version of that kind is taken, or one version of it, such as `vit@1`.

    Raises:
        UnknownDetectorError: No such detector.
        ValueError: No such checkpoints are known, or not for that version.
    """
    book = load_manifest()
    asked = book.get(name)
    versions = [asked] if "@" in name else [entry for entry in book if entry.name == name]
    for entry in reversed(versions):
        # On CLIP's tower `vit` has another network than the one that others trained.
        if entry.architecture in PREPROCESS and not entry.config.get("clip_blocks"):
            return entry
    known = sorted({entry.name for entry in book if entry.architecture in PREPROCESS})
    raise ValueError(f"No checkpoint of others is known for {name!r}; only for {', '.join(known)}.")


def as_converted(entry: ManifestEntry, path: Path, versions: Iterable[ManifestEntry] = ()) -> ManifestEntry:
    """An entry with the options and the preprocessing that a converted file states; unchanged for any other file.

    Args:
        entry: Detector under whose name the file is loaded.
        path: A file. One that is not intact states nothing.
        versions: If the file states other options than those of `entry`, the newest of these that has its name and these
            options is taken instead.

    Raises:
        WeightsMismatch: It was converted for another detector, holds a backbone alone, or what it states makes no sense.
    """
    text = _stated(path)
    if text is None:
        return entry
    try:
        fields = Fields(read_strict(text), f"{path}, what it states about itself", "", _FIELDS)
        detector, config, preprocess = fields.text("detector"), fields.mapping("config"), fields.mapping("preprocess")
        check_preprocess(preprocess)
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsMismatch(f"{path} is not what `aigidetect convert` writes: {error}") from error
    if fields.values["part"] != "detector":
        raise WeightsMismatch(f"{path} holds a backbone alone; give it to a training: `fit --backbone {path}`.")
    if detector != entry.name:
        raise WeightsMismatch(f"{path} was converted as {detector!r}, not {entry.name!r}; load it under that name.")
    # Nothing but the activation may differ: a file does not choose the size of a network.
    same = [e for e in [*versions, entry] if e.name == entry.name and _sizes(e.config) == _sizes(config)]
    if not same:
        raise WeightsMismatch(f"{path} states the options {config}, but {entry.full_name!r} has {dict(entry.config)}.")
    return dataclasses.replace(same[-1], config=config, preprocess=preprocess)


def _stated(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as file:
            text: str | None = (file.metadata() or {}).get(FACTS)
    except Exception:  # the parser's own errors; whoever reads the tensors says what is wrong with the file
        return None
    return text


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "activation": None}


def check_preprocess(facts: Mapping[str, Any]) -> None:
    """Raises ValueError for a preprocessing that is none, or that could ask for a picture that fills the memory."""
    from_dict(facts)
    if large := [key for key, value in facts.items() if isinstance(value, int | float) and value > _LARGEST]:
        raise ValueError(f"its preprocessing has {large} above {_LARGEST}")
