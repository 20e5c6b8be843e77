"""State dicts of SPAI and of MFM's pre-training -> ours: renames keys, drops what no forward pass reaches, checks the rest.

References:
    | Key names: https://github.com/mever-team/spai and https://github.com/Jiahao000/MFM

Takes mappings of tensors that were loaded before, and loads nothing. The original file `spai.pth` is a pickle whose entry
`config` is an object; neither that entry nor optimiser and scheduler are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .convert import unwrap
from .errors import WeightsMismatch
from .layers.spectral import doubled_disc
from .models.spai import PATCH, RADIUS, SPAI, build

_MASK = "mfvit.frequencies_mask"
_VIT = "mfvit.vit."
_ENCODER = "encoder."
_OURS = "backbone."

# In the original's vision transformer, but after its last block or beside it.
_UNUSED = (
    "norm.",
    "fc_norm.",
    "intermediate_fc_norm.",
    "head.",
    "cls_blocks.",
    "cls_norm.",
    "cls_pos_embed",
    "actual_cls_token",
)
_BACKBONE = (
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "positions"),
    (r"^patch_embed\.proj\.", "patch."),
    (r"^(blocks\.\d+)\.attn\.proj\.", r"\1.out."),
    (r"^(blocks\.\d+)\.(?:attn|mlp)\.", r"\1."),
)
_OUTSIDE = (
    (r"^patch_aggregator$", "attention.query"),
    (r"^to_kv\.", "attention.key_value."),
    (r"^to_out\.0\.", "attention.out."),
    (r"^cls_head\.head\.", "head."),
    (r"^mfvit\.features_processor\.patch_projector\.projectors\.", "estimator.projectors."),
    (r"^mfvit\.features_processor\.original_features_processor\.", "estimator.context."),
    (r"\.proj1\.", ".per_block."),
    (r"\.proj2\.", ".joint."),
    (r"\.projector\.1\.", ".fc1."),
    (r"\.projector\.4\.", ".fc2."),
)


def convert_spai(checkpoint: Mapping[str, object], network: SPAI | None = None) -> dict[str, Tensor]:
    """State dict of an original SPAI detector -> that of our `spai`.

    Args:
        checkpoint: What the original saved, see `aigidetect.convert.unwrap`. Parts that its forward pass never reaches may
            be there or not; they are left out.
        network: Network that the tensors are for; None means that of `aigidetect.models.spai.build()`.

    Returns:
        State dict with exactly the keys of `network`; tensors keep their type.

    Raises:
        WeightsMismatch: A tensor is missing, has another shape or belongs to no SPAI detector, or the frequency mask is
            another one, for instance of another radius.
    """
    converted = {}
    for key, value in unwrap(checkpoint).items():
        if key == _MASK:
            _check_mask(value)
        elif not key.startswith(_VIT):
            converted[_rename(key, _OUTSIDE)] = value
        elif not (inner := key.removeprefix(_VIT)).startswith(_UNUSED):
            converted[_OURS + _rename(inner, _BACKBONE)] = value
    return _checked(converted, _expected(network), "SPAI")


def convert_mfm(checkpoint: Mapping[str, object], network: SPAI | None = None) -> dict[str, Tensor]:
    """Encoder of an MFM pre-training checkpoint, such as `mfm_pretrain_vit_base.pth` -> the backbone of our `spai`.

    Args:
        checkpoint: What MFM saved, see `aigidetect.convert.unwrap`: the encoder's keys begin with `encoder.`; the decoder's,
            and parts of the encoder after its last block, are left out. Or what this function returned.
        network: Network that the tensors are for; None means that of `aigidetect.models.spai.build()`.

    Returns:
        The part `backbone.*` of the network's state dict, as `python -m aigidetect.training fit --backbone` takes it.

    Raises:
        WeightsMismatch: There is no encoder, or a tensor is missing, has another shape or belongs to no encoder of MFM.
    """
    state = unwrap(checkpoint)
    encoder = {k.removeprefix(_ENCODER): v for k, v in state.items() if k.startswith(_ENCODER)}
    converted = {k: v for k, v in state.items() if k.startswith(_OURS)}
    converted |= {_OURS + _rename(k, _BACKBONE): v for k, v in encoder.items() if not k.startswith(_UNUSED)}
    if not converted:
        raise WeightsMismatch(f"Expected keys that begin with {_ENCODER!r}, but found none; use a pre-training file of MFM.")
    expected = {key: value for key, value in _expected(network).items() if key.startswith(_OURS)}
    return _checked(converted, expected, "MFM")


def _expected(network: SPAI | None) -> dict[str, Tensor]:
    if network is None:
        with torch.device("meta"):
            network = build()
    return network.state_dict()


def _rename(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _check_mask(mask: Tensor) -> None:
    expected = doubled_disc(PATCH, RADIUS)
    if mask.shape != expected.shape or not torch.equal(mask.float().cpu(), expected):
        raise WeightsMismatch(
            f"Expected a frequency mask of radius {RADIUS} on {PATCH} x {PATCH} bins, with {int(expected.sum())} ones, but "
            f"found one of shape {tuple(mask.shape)} with {int(mask.sum())}; only SPAI's released configuration "
            "is supported."
        )


def _checked(converted: dict[str, Tensor], expected: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    if unknown := [key for key in converted if key not in expected]:
        raise WeightsMismatch(
            f"{len(unknown)} tensors belong to no {family} network of this size, such as {unknown[:3]} (our names); is this "
            f"a checkpoint of {family}?"
        )
    if missing := [key for key in expected if key not in converted]:
        raise WeightsMismatch(f"The checkpoint lacks {len(missing)} tensors of {family}, such as {missing[:3]} (our names).")
    for key, value in converted.items():
        if value.shape != expected[key].shape:
            raise WeightsMismatch(
                f"Expected {key!r} of shape {tuple(expected[key].shape)}, but found {tuple(value.shape)}; is this a "
                f"checkpoint of {family} in another size?"
            )
    return converted
