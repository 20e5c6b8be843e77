"""A small CLIP network for the tests, and its weights as other programs store them."""

import torch

from aigidetect.models.clip_vit import CLIPViT

TINY = {"blocks": 3, "taps": (1, 3), "width": 24, "heads": 3, "patch": 4, "image_size": 12}
OUTSIDE = {
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "patch.weight": "embeddings.patch_embedding.weight",
    "norm.weight": "pre_layrnorm.weight",
    "norm.bias": "pre_layrnorm.bias",
}
INSIDE = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "out": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


def tiny(**options):
    torch.manual_seed(0)
    network = CLIPViT(**{**TINY, **options}).eval()
    for parameter in network.parameters():  # weights of one and biases of zero would hide mistakes
        parameter.data.add_(0.2 * torch.randn(parameter.shape))
    return network


def tower_of(network):
    return {key: value for key, value in network.state_dict().items() if key.startswith("tower.")}


def huggingface(network, prefix="vision_model."):
    """The tower's state under the names of Hugging Face, with a text tower beside it."""
    state = {"text_model.embeddings.token_embedding.weight": torch.zeros(2, 2), "logit_scale": torch.zeros(())}
    for key, value in network.tower.state_dict().items():
        if key in OUTSIDE:
            state[prefix + OUTSIDE[key]] = value
            continue
        _, number, layer, part = key.split(".")
        start = f"{prefix}encoder.layers.{number}."
        if layer == "qkv":
            state |= {f"{start}self_attn.{n}_proj.{part}": rows for n, rows in zip("qkv", value.chunk(3))}
        else:
            state[f"{start}{INSIDE[layer]}.{part}"] = value
    return state


def quantised(weight):
    scale = weight.abs().amax(dim=1) / 127
    return torch.round(weight / scale[:, None]).to(torch.int8), scale
