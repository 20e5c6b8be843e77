"""Are the package's files those that were installed? Compared with RECORD, the list of hashes that every wheel brings.

It finds damage and careless changes. Whoever can write these files can write RECORD too, which nobody signs; and it has no
hashes of the compiled files in `__pycache__`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_SUFFIXES = {".py", ".so", ".pyd", ".safetensors", ".json"}


@dataclass(frozen=True)
class Installed:
    """What a comparison found.

    Attributes:
        checked: Number of files whose hash was compared.
        wrong: Names of files that are missing, changed, or in the package's folder without being listed.
        covers_code: Whether the running code is among the listed files; an editable install lists none of it.
    """

    checked: int
    wrong: tuple[str, ...]
    covers_code: bool


def check_installed(name: str = "aigidetect") -> Installed:
    """Compares the files of an installed distribution with the SHA-256 in its RECORD.

    A distribution that is not installed, such as a checkout on the path, has no list: nothing is checked then, and
    `covers_code` is False.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return Installed(0, (), False)
    listed = {Path(str(distribution.locate_file(file))).resolve(): file for file in distribution.files or ()}
    hashed = {
        path: (str(file), file.hash.value)
        for path, file in listed.items()
        if file.hash is not None and file.hash.mode == "sha256"
    }
    wrong = [file for path, (file, expected) in hashed.items() if _sha256(path) != expected]
    covers_code = Path(__file__).resolve() in hashed
    if covers_code:
        found = (
            path for path in sorted(_PACKAGE.rglob("*")) if path.suffix in _SUFFIXES and "__pycache__" not in path.parts
        )
        wrong += [f"{path.relative_to(_PACKAGE.parent)} (not listed)" for path in found if path not in listed]
    return Installed(len(hashed), tuple(wrong), covers_code)


def _sha256(path: Path) -> str | None:
    """In the encoding of RECORD: URL-safe base64 without padding. None if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
