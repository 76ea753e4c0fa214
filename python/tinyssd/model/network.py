"""TinySSD as in the textbook (``--model classic``): a small network that looks at its picture at five scales.

Every stage halves the picture one or more times; two 3x3 convolutions read its feature map and predict, for each anchor
of each cell, one score per class and four offsets from the anchor to the object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinyssd.errors import ConfigError
from tinyssd.model.detector import Detector
from tinyssd_ops import multibox_prior


@dataclass(frozen=True)
class TinySSDConfig:
    """What the network looks like. The defaults are the 256x256 network with its 5444 anchors.

    Attributes:
        num_classes: Classes counting background, which is class 0; at least 2.
        image_size: Height and width of the pictures in pixels.
        widths: For each stage, the channels after each of its down-sampling blocks. An empty stage is global max
            pooling to 1x1.
        sizes: For each stage, the scales of its anchors as shares of the picture.
        ratios: For each stage, the ratios of width to height of its anchors.
    """

    num_classes: int
    image_size: tuple[int, int] = (256, 256)
    widths: tuple[tuple[int, ...], ...] = ((16, 32, 64), (128,), (128,), (128,), ())
    sizes: tuple[tuple[float, ...], ...] = (
        (0.2, 0.272),
        (0.37, 0.447),
        (0.54, 0.619),
        (0.71, 0.79),
        (0.88, 0.961),
    )
    ratios: tuple[tuple[float, ...], ...] = ((1.0, 2.0, 0.5),) * 5

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ConfigError(f"num_classes: expected at least 2 (background counts), got {self.num_classes}")
        if not len(self.widths) == len(self.sizes) == len(self.ratios) > 0:
            counts = f"{len(self.widths)}, {len(self.sizes)} and {len(self.ratios)}"
            raise ConfigError(f"widths, sizes, ratios: expected one entry for each stage in each, got {counts}")
        if len(self.image_size) != 2:
            raise ConfigError(f"image_size: expected height and width, got {self.image_size}")
        for name, stages in (("widths", self.widths), ("sizes", self.sizes), ("ratios", self.ratios)):
            if not all(value > 0 for stage in stages for value in stage):
                raise ConfigError(f"{name}: expected positive numbers, got {stages}")
        if not all(self.sizes) or not all(self.ratios):
            raise ConfigError("sizes, ratios: expected at least one in each stage, got none")
        if not self.widths[0]:
            raise ConfigError("widths: expected a first stage with a down-sampling block, got an empty one")
        if min(min(size) for size in self.feature_sizes()) < 1:
            height, width = self.image_size
            raise ConfigError(f"image_size: {height}x{width} is too small to be halved by every block")

    @property
    def keep_shape(self) -> bool:
        """Pictures are squashed to the input's shape."""
        return False

    def feature_sizes(self) -> list[tuple[int, int]]:
        """Height and width of each stage's feature map."""
        sizes = []
        height, width = self.image_size
        for widths in self.widths:
            height, width = (height >> len(widths), width >> len(widths)) if widths else (1, 1)
            sizes.append((height, width))
        return sizes


class TinySSD(Detector):
    """A single-shot detector.

    Args:
        num_classes: Classes counting background.
        **architecture: Any other field of :class:`TinySSDConfig`.

    Raises:
        ConfigError: If the architecture makes no sense.

    Source: Zhang et al., "Dive into Deep Learning", section 14.7; Liu et al., "SSD: Single Shot MultiBox Detector",
    2016.
    """

    config: TinySSDConfig

    def __init__(self, num_classes: int, **architecture: Any) -> None:
        super().__init__(TinySSDConfig(num_classes, **architecture))
        config = self.config
        self.stages, self.class_heads, self.offset_heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels = 3
        for widths, sizes, ratios in zip(config.widths, config.sizes, config.ratios, strict=True):
            per_cell = len(sizes) + len(ratios) - 1
            self.stages.append(_stage(channels, widths))
            channels = widths[-1] if widths else channels
            self.class_heads.append(nn.Conv2d(channels, per_cell * num_classes, kernel_size=3, padding=1))
            self.offset_heads.append(nn.Conv2d(channels, per_cell * 4, kernel_size=3, padding=1))

    @classmethod
    def from_config(cls, config: TinySSDConfig) -> TinySSD:
        """The network that ``config`` describes, freshly initialised."""
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score and shift every anchor.

        Args:
            images: [B, 3, H, W], float, of the configured size; see :func:`tinyssd.data.to_input`.

        Returns:
            anchors: [1, A, 4], corners as shares of the picture.
            scores: [B, A, C], logits; class 0 is background.
            offsets: [B, 4A], from each anchor to its object, as :func:`tinyssd_ops.encode_boxes` defines them.
            All in the order stage, cell row, cell column, anchor of the cell.

        Raises:
            ValueError: If the pictures have another size.
        """
        self.expect_size(images)
        scores, offsets = [], []
        features = images
        for stage, class_head, offset_head in zip(self.stages, self.class_heads, self.offset_heads, strict=True):
            features = stage(features)
            scores.append(class_head(features).permute(0, 2, 3, 1).flatten(1))
            offsets.append(offset_head(features).permute(0, 2, 3, 1).flatten(1))
        return (
            self.anchors,
            torch.cat(scores, 1).unflatten(1, (-1, self.config.num_classes)),
            torch.cat(offsets, 1),
        )

    def make_anchors(self) -> Tensor:
        """[1, A, 4], as :func:`make_anchors` makes them."""
        return make_anchors(self.config)

    def probabilities(self, scores: Tensor) -> Tensor:
        """[B, A, C] to [B, C, A], the softmax over the classes."""
        return scores.softmax(dim=-1).transpose(1, 2).contiguous()


def make_anchors(config: TinySSDConfig) -> Tensor:
    """The anchors of all stages: [1, A, 4], corners as shares of the picture."""
    stages = zip(config.feature_sizes(), config.sizes, config.ratios, strict=True)
    return torch.cat([multibox_prior(height, width, sizes, ratios) for (height, width), sizes, ratios in stages], dim=1)


def _stage(channels: int, widths: Sequence[int]) -> nn.Module:
    if not widths:
        return nn.AdaptiveMaxPool2d((1, 1))
    blocks = []
    for width in widths:
        blocks.append(_down_sampling_block(channels, width))
        channels = width
    return nn.Sequential(*blocks)


def _down_sampling_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """[B, in_channels, H, W] to [B, out_channels, H // 2, W // 2]."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
