"""Autoencoders of the Hugging Face Hub, through diffusers, for `aligned.reconstruct`.

References:
    | diffusers: AutoencoderKL and AutoencoderTiny; both read and write pixels in [-1, 1]
    | https://huggingface.co/docs/diffusers/api/models/autoencoderkl
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor

_CLASSES = ("AutoencoderKL", "AutoencoderTiny")


class HubAutoencoder:
    """An `aligned.Autoencoder` from one of diffusers.

    Args:
        model: An `AutoencoderKL` or an `AutoencoderTiny`.
        tiny: Whether it is the latter.
        revision: The commit that it comes from.
    """

    def __init__(self, model: Any, *, tiny: bool, revision: str) -> None:
        self.model, self.tiny, self.revision = model, tiny, revision
        widths = model.config.encoder_block_out_channels if tiny else model.config.block_out_channels
        self.factor = 2 ** (len(widths) - 1)

    def encoder(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, C, H/factor, W/factor); the mean of a Gaussian code."""
        found = self.model.encode(2 * x - 1)
        code: Tensor = found.latents if self.tiny else found.latent_dist.mode()
        return code

    def decoder(self, code: Tensor) -> Tensor:
        """(N, C, H/factor, W/factor) -> (N, 3, H, W), about [0, 1]."""
        decoded: Tensor = self.model.decode(code).sample
        return decoded / 2 + 0.5


def load_hub_autoencoder(name: str) -> HubAutoencoder:
    """The autoencoder of a repository, or of the folder `vae` of a whole pipeline's. Only safetensors are read.

    Args:
        name: `REPO_ID` or `REPO_ID@REVISION`; without a revision the newest commit.

    Raises:
        ModuleNotFoundError: diffusers is not installed.
        ValueError: Neither an AutoencoderKL nor an AutoencoderTiny.
        OSError: The repository, or safetensors in it, cannot be read.
    """
    try:
        import diffusers
    except ModuleNotFoundError as error:
        message = "Autoencoders of the Hub need diffusers: pip install 'aigidetect[aligned]'."
        raise ModuleNotFoundError(message, name="diffusers") from error
    repo_id, _, revision = name.partition("@")
    config, folder = _config(repo_id, revision or None)
    kind = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
    if kind not in _CLASSES:
        raise ValueError(f"{repo_id} holds {kind or 'no model of diffusers'}; expected one of {_CLASSES}.")
    # The cache's folder is named by the commit; the weights are taken from the same one.
    commit = config.parent.parent.name if folder else config.parent.name
    options = {"subfolder": folder} if folder else {}
    model = getattr(diffusers, kind).from_pretrained(repo_id, revision=commit, use_safetensors=True, **options)
    return HubAutoencoder(model.eval(), tiny=kind == "AutoencoderTiny", revision=commit)


def _config(repo_id: str, revision: str | None) -> tuple[Path, str]:
    """The autoencoder's configuration, and the folder that it lies in."""
    try:
        return Path(hf_hub_download(repo_id, "config.json", revision=revision)), ""
    except EntryNotFoundError:
        return Path(hf_hub_download(repo_id, "config.json", subfolder="vae", revision=revision)), "vae"
