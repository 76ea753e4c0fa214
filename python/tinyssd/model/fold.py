"""A network made quicker to use."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def folded(model: Network) -> Network:
    """A copy for prediction alone, whose results differ by rounding: docs/detector.md has the measurement.

    What a batch normalisation does to the output of the convolution before it goes into that convolution's weights, and
    the channels of a pixel lie side by side in memory. Of layers that do not follow each other in an
    :class:`torch.nn.Sequential` none is changed.

    Args:
        model: In evaluation mode.
    """
    model = copy.deepcopy(model)
    for block in [one for one in model.modules() if isinstance(one, nn.Sequential)]:
        for (name, layer), (next_name, following) in pairwise(list(block.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(block, name, fuse_conv_bn_eval(layer, following))
                setattr(block, next_name, nn.Identity())
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # Untyped in torch.
