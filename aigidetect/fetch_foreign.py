"""Downloads a checkpoint that others published, verifies and converts it: `aigidetect fetch npr-ms-ca:report`.

With `aigidetect.weights`, the only file that may touch the network.
"""

from __future__ import annotations

import http.client
import os
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import quote

from .convert_file import convert_file
from .errors import WeightsError, WeightsMismatch, WeightsNotAvailable
from .foreign import Foreign, cache_folder, digests, find_foreign, get_foreign, write_record

ENDPOINT_VARIABLE = "AIGIDETECT_RAW_ENDPOINT"
ENDPOINT = "https://raw.githubusercontent.com"
_MOST_BYTES = 256 << 20
_SECONDS = 30  # without a byte


def fetch_foreign(name: str, *, force: bool = False, cache_dir: str | Path | None = None) -> Path:
    """Path of the converted checkpoint, downloaded and converted if need be, and verified.

    The content has to have the pinned Git blob id, wherever it comes from; the environment variable
    AIGIDETECT_RAW_ENDPOINT names a mirror instead of https://raw.githubusercontent.com.

    Args:
        name: Such as `npr-ms-ca:report`, see `aigidetect.foreign.FOREIGN`.
        force: Downloads it again even if it is here.
        cache_dir: See `aigidetect.foreign.cache_folder`.

    Raises:
        UnknownDetectorError: No checkpoint of that name.
        WeightsNotAvailable: It could not be, or may not be, downloaded.
        WeightsMismatch: What came is not the pinned file, or what lies in the cache is not what was converted.
        CheckpointRefused: See `aigidetect.checkpoint.read_checkpoint`.
    """
    foreign = get_foreign(name)
    if not force:
        try:
            path, sha256 = find_foreign(foreign, cache_dir)
        except WeightsNotAvailable:
            pass
        else:
            return _verified(foreign, path, sha256)
    folder = cache_folder(cache_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            return _fetch(foreign, Path(temporary) / os.path.basename(foreign.path), folder / foreign.file)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsNotAvailable(f"Cannot write into the cache {folder}: {error}") from error


def _verified(foreign: Foreign, path: Path, sha256: str) -> Path:
    if digests(path)["sha256"] != sha256:
        raise WeightsMismatch(
            f"{path} has changed since it was converted: expected sha256 {sha256}. Run `aigidetect fetch {foreign.name} "
            "--force`."
        )
    return path


def _fetch(foreign: Foreign, download: Path, target: Path) -> Path:
    endpoint = os.environ.get(ENDPOINT_VARIABLE) or ENDPOINT
    url = f"{endpoint.rstrip('/')}/{quote(f'{foreign.repository}/{foreign.commit}/{foreign.path}')}"
    try:
        _download(url, download)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise WeightsNotAvailable(
            f"Cannot download {foreign.name!r} from {url}: {error}. Check network and proxy, or name a mirror by "
            f"{ENDPOINT_VARIABLE}. Or download it by other means, and run `aigidetect convert FILE --as {foreign.name}`."
        ) from error
    facts = digests(download)
    if facts["git_blob"] != foreign.blob:
        raise WeightsMismatch(
            f"What {url} answered is not the pinned file: expected the Git blob {foreign.blob}, but got {facts['git_blob']} "
            f"({facts['bytes']:,} bytes). It was deleted, and not read."
        )
    convert_file(download, foreign.name, target, force=True)
    write_record(foreign, target)
    return target


def _download(url: str, path: Path) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ValueError("the network is switched off by HF_HUB_OFFLINE")
    if not url.startswith(("https://", "http://")):
        raise ValueError("expected an address that begins with https://")
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer, open(path, "wb") as file:  # nosec B310
        received = 0
        while chunk := answer.read(1 << 16):
            file.write(chunk)
            received += len(chunk)
            if received > _MOST_BYTES:
                raise ValueError(f"the answer has more than {_MOST_BYTES:,} bytes")
        stated = answer.headers.get("Content-Length")
    if stated is not None and int(stated) != received:
        raise ValueError(f"the connection broke off after {received:,} of {stated} bytes; try again")
