"""A small checkpoint and its manifest entry, shared by the tests of the weights."""

from __future__ import annotations

import hashlib

import safetensors.torch
import torch

from aigidetect.manifest import ManifestEntry, WeightsFile

from .hub_server import COMMIT

STATE = {"weight": torch.arange(6.0).reshape(2, 3).half(), "bias": torch.tensor([1.0, -1.0])}
CONTENT = safetensors.torch.save(STATE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = safetensors.torch.save({"weight": torch.zeros(2, 3).half(), "bias": torch.tensor([1.0, -1.0])})
REPO = "org/name"


def entry(*, file: str | None = None, hub: bool = True, filename: str = "model.safetensors") -> ManifestEntry:
    place = (REPO, COMMIT, filename) if hub else (None, None, None)
    published = WeightsFile(file, *place, sha256=SHA256, bytes=len(CONTENT))
    return ManifestEntry("npr", 1, "npr_resnet", {}, {"kind": "tiles"}, {}, published, 8, {}, {}, None)
