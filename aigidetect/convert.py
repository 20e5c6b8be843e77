"""Foreign state dicts -> ours: renames keys, drops what a variant does not use, checks the rest.

References:
    | Key names of the NPR networks: https://github.com/chuangchuangtan/NPR-DeepfakeDetection
    | Key names of the ResNet-50s: https://github.com/CVLabWorks/CVIMGDetection
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import WeightsMismatch
from .models import resnet
from .models.npr_resnet import VARIANTS, build

# Keys under which a file may hold its state dict.
WRAPPERS = ("model", "state_dict", "model_state_dict")

# Original prefix -> ours. A file may hold every group although its variant uses none of them: all were created with the
# class, and the unused ones kept their initial values. So a variant is never inferred from the keys that are present.
_NPR_GROUPS = {
    "npr_weights": "npr.weights",
    "npr_scale_factor": "npr.scale_factor",
    "ca1.": "ca1.",
    "ca2.": "ca2.",
    "spatial_att1.": "sa1.",
    "spatial_att2.": "sa2.",
}

# The Bayesian originals number the children of torchvision's network; 2, 3 and 8 have no tensors.
_RESNET_GROUPS = {
    "resnet.0.": "conv1.",
    "resnet.1.": "bn1.",
    "resnet.4.": "layer1.",
    "resnet.5.": "layer2.",
    "resnet.6.": "layer3.",
    "resnet.7.": "layer4.",
    "classifier.": "fc.",
}


def unwrap(checkpoint: Mapping[str, object]) -> dict[str, Tensor]:
    """The state dict inside a checkpoint: bare, or under `model`, `state_dict` or `model_state_dict`; a `module.` prefix of
    data-parallel training is removed.

    Raises:
        WeightsMismatch: No tensors are found.
    """
    inner: Mapping[str, object] = checkpoint
    for key in WRAPPERS:
        candidate = checkpoint.get(key)
        if isinstance(candidate, Mapping):
            inner = candidate
    state = {str(key).removeprefix("module."): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsMismatch(
            f"Expected a state dict, bare or under one of {list(WRAPPERS)}, but found the keys {list(checkpoint)[:5]}."
        )
    return state


def convert_npr(checkpoint: Mapping[str, object], name: str) -> dict[str, Tensor]:
    """State dict of an original NPR network -> that of one of our NPR detectors.

    Args:
        checkpoint: What the original saved, see `unwrap`. Groups that the detector does not use are ignored.
        name: `npr`, `npr-ms`, `npr-ca`, `npr-sa` or `npr-ms-ca`; which one a file is cannot be read from it.

    Returns:
        State dict for `aigidetect.models.npr_resnet.build(**VARIANTS[name])`.

    Raises:
        KeyError: Unknown name.
        WeightsMismatch: A needed tensor is missing or has another shape, or a tensor belongs to no NPR network.
    """
    if name not in VARIANTS:
        raise KeyError(f"Unknown NPR detector {name!r}; available: {', '.join(VARIANTS)}.")
    expected = build(**VARIANTS[name]).state_dict()
    converted: dict[str, Tensor] = {}
    for key, value in unwrap(checkpoint).items():
        group = next((prefix for prefix in _NPR_GROUPS if key.startswith(prefix)), None)
        ours = key if group is None else _NPR_GROUPS[group] + key.removeprefix(group)
        if ours in expected:
            _check_shape(key, value, expected[ours], name)
            converted[ours] = value
        elif group is None:
            raise WeightsMismatch(f"Key {key!r} belongs to no NPR network; is this a checkpoint of {name!r}?")
    _check_complete(converted, expected, name)
    return converted


def convert_resnet(checkpoint: Mapping[str, object], name: str) -> dict[str, Tensor]:
    """State dict of an original ResNet-50 -> that of one of our ResNet-50 detectors.

    Args:
        checkpoint: What the original saved, see `unwrap`.
        name: `resnet50`, `resnet50-bnn` or `resnet50-sa-bnn`.

    Returns:
        State dict for `aigidetect.models.resnet.build(**VARIANTS[name])`.

    Raises:
        KeyError: Unknown name.
        WeightsMismatch: A tensor is missing, has another shape, or does not belong to this detector.
    """
    if name not in resnet.VARIANTS:
        raise KeyError(f"Unknown ResNet-50 detector {name!r}; available: {', '.join(resnet.VARIANTS)}.")
    with torch.device("meta"):
        expected = resnet.build(**resnet.VARIANTS[name]).state_dict()
    converted: dict[str, Tensor] = {}
    for key, value in unwrap(checkpoint).items():
        group = next((prefix for prefix in _RESNET_GROUPS if key.startswith(prefix)), "")
        ours = _RESNET_GROUPS.get(group, "") + key.removeprefix(group)
        if ours not in expected:
            raise WeightsMismatch(f"Key {key!r} does not belong to the detector; is this a checkpoint of {name!r}?")
        _check_shape(key, value, expected[ours], name)
        converted[ours] = value
    _check_complete(converted, expected, name)
    return converted


def _check_shape(key: str, value: Tensor, expected: Tensor, name: str) -> None:
    if value.shape != expected.shape:
        raise WeightsMismatch(
            f"Expected {key!r} of shape {tuple(expected.shape)}, but found {tuple(value.shape)}; "
            f"is this a checkpoint of {name!r}?"
        )


def _check_complete(converted: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    if missing := [key for key in expected if key not in converted]:
        raise WeightsMismatch(f"The checkpoint lacks {len(missing)} tensors of {name!r}, such as {missing[:5]}.")
