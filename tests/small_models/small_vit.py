"""A tiny ViT detector for the tests of backbones that are given to `fit`."""

from aigidetect.models.vit import ViT


def build(*, local=False, clip_blocks=None):
    return ViT(local=local, clip_blocks=clip_blocks, width=16, blocks=1, heads=2, patch=4, image_size=12)
