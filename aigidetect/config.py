"""config.json of a saved detector, and the short model card beside it. See `aigidetect.pretrained`."""

from __future__ import annotations

import dataclasses
import json
import re

import torch

from .entries import build_network, entry_calibration, entry_preprocess
from .errors import ManifestError
from .foreign import check_preprocess
from .json_fields import read_strict
from .manifest import SCHEMA, ManifestEntry, load_manifest, read_entry

CONFIG, WEIGHTS, CARD, NOTICES = "config.json", "model.safetensors", "README.md", "LICENSES.md"

_NAME = re.compile(r"[A-Za-z0-9][\w.:@+-]{0,99}", re.ASCII)
_LARGEST_OPTION = 4096
_LIBRARY = "aigidetect"


def config_json(entry: ManifestEntry, name: str) -> bytes:
    """Content of config.json.

    Args:
        entry: The detector; the files of `weights` and `backbone` under their names in the folder.
        name: What it is called in predictions.
    """
    facts = {key: value for key, value in dataclasses.asdict(entry).items() if value is not None}
    del facts["name"], facts["version"]
    return (json.dumps({"library": _LIBRARY, "schema": SCHEMA, "name": name, **facts}, indent=1) + "\n").encode()


def read_config(text: str, where: str) -> tuple[str, ManifestEntry]:
    """Inverse of `config_json`: the name, and the entry.

    Raises:
        ManifestError: It breaks the schema, or asks for a picture or a network of a size that no detector has.
    """
    try:
        facts = read_strict(text)
    except ManifestError as error:
        raise ManifestError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where} is not valid JSON: {error}.") from error
    if not isinstance(facts, dict) or facts.pop("library", None) != _LIBRARY:
        raise ManifestError(f'{where}: expected "library": "{_LIBRARY}"; this is not the folder of a detector.')
    if facts.pop("schema", None) != SCHEMA:
        raise ManifestError(f"{where}: expected the schema {SCHEMA}; another version of aigidetect wrote it.")
    name = facts.pop("name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ManifestError(f"{where}, field 'name': expected at most 100 letters, digits and ._:@+-, but got {name!r}.")
    entry = read_entry("pretrained@1", facts, where)
    try:
        check_preprocess(entry.preprocess)
        _check_size(entry)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {error}") from error
    return name, dataclasses.replace(entry, name=name.partition("@")[0])


def _check_size(entry: ManifestEntry) -> None:
    if entry.weights is None:
        raise ValueError("expected 'weights', but got none.")
    options = [entry.config.values(), *(value for value in entry.config.values() if isinstance(value, list))]
    if any(isinstance(value, int | float) and abs(value) > _LARGEST_OPTION for values in options for value in values):
        raise ValueError(f"an option of the architecture is above {_LARGEST_OPTION}.")
    # On a device without memory, before the real one is built. No format has less than a byte for each value.
    with torch.device("meta"):
        network = build_network(entry)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    stored = entry.weights.bytes + (entry.backbone.bytes if entry.backbone else 0)
    if parameters != entry.parameters or parameters > stored:
        raise ValueError(f"it states {entry.parameters} parameters and {stored} bytes, but the network has {parameters}.")


def honest_name(name: str, entry: ManifestEntry) -> str:
    """The name; with `+custom` if it is a published one, but not with its files, preprocessing and calibration."""
    known = load_manifest().entries.get(name)
    if known is None:
        return name

    def facts(one: ManifestEntry) -> list[object]:
        digests = [file and file.sha256 for file in (one.weights, one.backbone)]
        return [digests, entry_preprocess(one), entry_calibration(one)]

    return name if facts(known) == facts(entry) else f"{name}+custom"


def short_card(entry: ManifestEntry, name: str) -> str:
    """A model card that says what config.json says, and that nothing else is known."""
    licence = (entry.provenance or {}).get("licence", "not stated")
    return f"""---
library_name: {_LIBRARY}
pipeline_tag: image-classification
---

# {name}

Tells AI-generated images from photographs. Made with the Python package `{_LIBRARY}`, which loads this folder or repository:

```python
import {_LIBRARY}

detector = {_LIBRARY}.Detector.from_pretrained(".")
```

- architecture: `{entry.architecture}`, with the options `{json.dumps(dict(entry.config))}`
- preprocessing: `{json.dumps(dict(entry.preprocess))}`
- calibration: `{json.dumps(dict(entry.calibration or {}))}`
- licence of the weights: {licence}

Nothing else is stated here. What it was trained on, and how well it does on which pictures, its author has to add.
"""
