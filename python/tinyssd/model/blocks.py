"""What the pyramid network is built of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU: [B, in_channels, H, W] to [B, out_channels, H / stride, W / stride]."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - stride + 1) // 2, groups=groups, bias=False),
        # A slower average than torch's own: batches are small.
        nn.BatchNorm2d(out_channels, momentum=0.03),
        nn.ReLU(inplace=True),
    )


def separable(in_channels: int, out_channels: int, kernel: int = 5) -> nn.Sequential:
    """A convolution of each channel alone, then one across the channels: a large window for few weights."""
    return nn.Sequential(
        conv(in_channels, in_channels, kernel, groups=in_channels), conv(in_channels, out_channels, kernel=1)
    )


class Split(nn.Module):
    """Half of the channels goes through residual blocks, and every state on the way is kept for the output.

    Source: the C2f block of Jocher et al., "Ultralytics YOLOv8", 2023, after Wang et al., "CSPNet", 2020.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = conv(channels, channels, kernel=1)
        self.blocks = nn.ModuleList(nn.Sequential(conv(half, half), conv(half, half)) for _ in range(blocks))
        self.leave = conv(channels + blocks * half, channels, kernel=1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, channels, H, W] to the same."""
        states = [*self.enter(features).chunk(2, dim=1)]
        for block in self.blocks:
            states.append(states[-1] + block(states[-1]))
        return self.leave(torch.cat(states, dim=1))


class WideView(nn.Module):
    """Maxima over windows of 5, 9 and 13 cells beside the features themselves: each cell sees nearly the whole picture.

    Args:
        in_channels: Of the features.
        channels: Of what comes out.

    Source: the SPPF block of Jocher et al., "YOLOv5", 2020, after He et al., "Spatial Pyramid Pooling", 2014.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.enter = conv(in_channels, channels // 2, kernel=1)
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)
        self.leave = conv(channels // 2 * 4, channels, kernel=1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, in_channels, H, W] to [B, channels, H, W]."""
        views = [self.enter(features)]
        for _ in range(3):
            views.append(self.pool(views[-1]))
        return self.leave(torch.cat(views, dim=1))
