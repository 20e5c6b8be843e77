"""Foreign state dicts of the transformer detectors -> ours: names of Hugging Face 4.x and 5.x, torchvision, the report.

A file may hold a backbone alone, as published for classification, or a whole detector of the report: backbone and head.

References:
    | Names of the report's detectors: https://github.com/CVLabWorks/CVIMGDetection
    | Names of the backbones: Hugging Face transformers 4.57 and 5.23, torchvision 0.29
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .convert import unwrap
from .errors import WeightsMismatch
from .layers.head import one_logit
from .models.cvt import CvT
from .models.swin import Swin
from .models.vit import ViT

_Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Names:
    """How the keys of one backbone become ours: substitutions in this order, and what is of no use to a detector."""

    rules: _Rules
    ignored: str


def _joined(theirs: str, ours: str) -> _Rules:
    """Query, key and value, of which ours are one tensor: the parts are numbered, for `_join`."""
    return tuple(
        (rf"{theirs}(?:{name}|{name[0]}_proj)\.(weight|bias)$", rf"{ours}\1[{part}]")
        for part, name in enumerate(("query", "key", "value"))
    )


_VIT = _Names(
    (
        (r"^embeddings\.cls_token$", "class_token"),
        (r"^embeddings\.position_embeddings$", "encoder.pos_embedding"),
        (r"^embeddings\.patch_embeddings\.projection\.", "conv_proj."),
        (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        (r"^layernorm\.", "encoder.ln."),
        *_joined(r"\.attention\.(?:attention\.)?", ".self_attention.in_proj_"),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".self_attention.out_proj."),
        (r"\.layernorm_before\.", ".ln_1."),
        (r"\.layernorm_after\.", ".ln_2."),
        (r"\.(?:intermediate\.dense|mlp\.fc1|mlp\.linear_1)\.", ".mlp.0."),
        (r"\.(?:output\.dense|mlp\.fc2|mlp\.linear_2)\.", ".mlp.3."),
    ),
    # `lpm`: a branch of one of the report's classes that never reaches its output.
    r"pooler\.|classifier\.(?:weight|bias)$|heads\.|lpm\.",
)
_SWIN = _Names(
    (
        (r"^embeddings\.patch_embeddings\.projection\.", "features.0.0."),
        (r"^embeddings\.norm\.", "features.0.2."),
        (r"^layernorm\.", "norm."),
        # torchvision counts stages and the mergings between them together: 1 to 7.
        *((rf"^(?:encoder\.)?layers\.{s}\.blocks\.", f"features.{2 * s + 1}.") for s in range(4)),
        *((rf"^(?:encoder\.)?layers\.{s}\.downsample\.", f"features.{2 * s + 2}.") for s in range(3)),
        *_joined(r"\.attention\.(?:self\.)?", ".attn.qkv."),
        (r"\.attention\.(?:self\.|relative_position_bias\.)?relative_position_", ".attn.relative_position_"),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.(?:intermediate\.dense|mlp\.fc1)\.", ".mlp.0."),
        (r"\.(?:output\.dense|mlp\.fc2)\.", ".mlp.3."),
    ),
    r"pooler\.|classifier\.(?:weight|bias)$|head\.(?:weight|bias)$",
)
_PROJECTION = r"\.attention\.attention\.convolution_projection_(query|key|value)\.convolution_projection"
_CVT = _Names(
    (
        (r"^encoder\.stages\.", "stages."),
        (r"\.embedding\.convolution_embeddings\.projection\.", ".embed."),
        (r"\.embedding\.convolution_embeddings\.normalization\.", ".norm."),
        (r"\.cls_token$", ".class_token"),
        (r"\.layers\.(\d+)\.", r".blocks.\1."),
        (rf"{_PROJECTION}\.convolution\.", r".attention.\1.conv."),
        (rf"{_PROJECTION}\.normalization\.", r".attention.\1.norm."),
        (r"\.attention\.attention\.projection_(query|key|value)\.", r".attention.\1.linear."),
        (r"\.attention\.output\.dense\.", ".attention.out."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.intermediate\.dense\.", ".fc1."),
        (r"\.output\.dense\.", ".fc2."),
    ),
    r"layernorm\.|classifier\.(?:weight|bias)$",
)
_FAMILIES: dict[type[nn.Module], _Names] = {ViT: _VIT, Swin: _SWIN, CvT: _CVT}

# The report's names of what is not backbone -> ours. The last layer has two outputs, the second is "AI-generated".
_REPORT: _Rules = (
    (r"^classifier\.0\.", "head.fc1."),
    (r"^classifier\.1\.", "head.norm1."),
    (r"^classifier\.4\.", "head.fc2."),
    (r"^classifier\.5\.", "head.norm2."),
    (r"^classifier\.8\.", "head.fc3."),
    (r"^local_perception\.6\.", "local.7."),
    (r"^local_perception\.", "local."),
)
_OUTSIDE = re.compile(r"head\.(?:fc|norm)\d\.|local\.|vit_weight$|local_weight$")
# Which pairs of positions share a bias: constants of the network, which only some versions store.
_CONSTANT = ".relative_position_index"


def convert_transformer(checkpoint: Mapping[str, object], network: nn.Module) -> dict[str, Tensor]:
    """State dict of one of the report's detectors, or one of ours -> that of our network.

    Args:
        checkpoint: What was saved, see `aigidetect.convert.unwrap`: backbone and head. Poolers and classifiers for other
            classes are left out.
        network: A network of `aigidetect.models.vit`, `swin` or `cvt`, which says what is needed; it is not changed.

    Returns:
        State dict for `network`; tensors keep their type.

    Raises:
        ValueError: Another kind of network.
        WeightsMismatch: A tensor is missing, has another shape, is there twice, or belongs to no such network.
    """
    return _checked(_renamed(unwrap(checkpoint), network), network.state_dict())


def convert_backbone(checkpoint: Mapping[str, object], network: nn.Module) -> dict[str, Tensor]:
    """As `convert_transformer`, but for the backbone alone: `backbone.*`, whatever else the file holds.

    Use it for files of the Hub or of torchvision, which hold no detector.
    """
    state = {key: value for key, value in _renamed(unwrap(checkpoint), network).items() if key.startswith("backbone.")}
    return _checked(state, {key: value for key, value in network.state_dict().items() if key.startswith("backbone.")})


def _renamed(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    names = next((names for kind, names in _FAMILIES.items() if isinstance(network, kind)), None)
    if names is None:
        kinds = ", ".join(kind.__name__ for kind in _FAMILIES)
        raise ValueError(f"No names are known for the network {type(network).__name__}; expected one of {kinds}.")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        bare = re.sub(r"^(?:backbone|vit|swin|cvt)\.", "", key)
        if re.match(names.ignored, bare):
            continue
        ours, part = _rename(bare, names.rules)
        if part in parts.setdefault(ours, {}):
            raise WeightsMismatch(f"The tensor {ours!r} is in the checkpoint twice, the second time as {key!r}.")
        if key.startswith("classifier.8.") and len(value) == 2:
            value = one_logit(value, ai=1)
        parts[ours][part] = value.flatten() if ours.endswith(_CONSTANT) else value
    return _join(parts)


def _rename(key: str, rules: _Rules) -> tuple[str, str]:
    """Our name, and which part of that tensor it is: "0", "1", "2", or "" for the whole."""
    for theirs, ours in _REPORT:
        key = re.sub(theirs, ours, key)
    if _OUTSIDE.match(key):
        return key, ""
    for theirs, ours in rules:
        key = re.sub(theirs, ours, key)
    name, _, part = key.partition("[")
    return f"backbone.{name}", part.removesuffix("]")


def _join(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    if incomplete := [name for name, tensors in parts.items() if set(tensors) not in ({""}, set("012"))]:
        raise WeightsMismatch(
            f"Expected query, key and value, or one tensor for the three, but found neither for {len(incomplete)} tensors, "
            f"in our names such as {incomplete[:5]}."
        )
    return {
        name: tensors[""] if "" in tensors else torch.cat([tensors[part] for part in "012"])
        for name, tensors in parts.items()
    }


def _checked(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {key: value for key, value in expected.items() if key.endswith(_CONSTANT)} | state
    if unknown := [key for key in state if key not in expected]:
        raise WeightsMismatch(f"{len(unknown)} tensors belong to another network, such as {unknown[:5]} in our names.")
    if missing := [key for key in expected if key not in state]:
        hint = " Does the file hold a backbone alone? Then use --backbone, or convert_backbone."
        alone = hint if "head.fc1.weight" in missing else ""
        raise WeightsMismatch(f"The checkpoint lacks {len(missing)} tensors, in our names such as {missing[:5]}.{alone}")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise WeightsMismatch(
                f"Expected {key!r} of shape {tuple(expected[key].shape)}, but found {tuple(value.shape)}; is this a "
                "checkpoint of another size?"
            )
        if key.endswith(_CONSTANT) and not torch.equal(value, expected[key]):
            raise WeightsMismatch(f"{key!r} numbers the pairs of a window in another order; expected that of torchvision.")
    return state
