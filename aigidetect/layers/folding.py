"""Batch norms folded into the convolutions before them: the same numbers from fewer passes over memory.

In evaluation mode a batch norm is a factor and a shift for each channel, which the convolution's weights and bias can take
over. Last digits change, because products are rounded in another order.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Pairs = Iterable[tuple[str, str]]

_BOTTLENECK = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A twin of a network in which batch norms are folded into the convolutions before them.

    Folded is what is known to be applied in turn: neighbours in a `nn.Sequential`, the pairs of torchvision's `Bottleneck`,
    and those that a class names in an attribute `folds`, such as `(("conv1", "bn1"),)`. All else is shared with the network,
    so that the twin takes no more memory than the convolutions folded.

    Args:
        network: In evaluation mode; stays as it is.

    Returns:
        The twin, for evaluation only; the network itself if there is nothing to fold.
    """
    own = network._modules  # not `named_children`, which leaves a module out where it comes up again
    children = {name: child and fold_batch_norms(child) for name, child in own.items()}
    for first, second in _pairs(network):
        convolution, norm = children.get(first), children.get(second)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            children[first] = fuse_conv_bn_eval(convolution, norm)
            children[second] = nn.Identity()
    if all(child is own[name] for name, child in children.items()):
        return network
    twin = copy.copy(network)
    twin._modules = children
    return twin


def _pairs(module: nn.Module) -> Pairs:
    if isinstance(module, nn.Sequential):
        return pairwise(module._modules)
    # Whoever built such a block has imported torchvision; importing it here would slow down the import of this package.
    resnet = sys.modules.get("torchvision.models.resnet")
    folds: Pairs = _BOTTLENECK if resnet and type(module) is resnet.Bottleneck else getattr(type(module), "folds", ())
    return folds
