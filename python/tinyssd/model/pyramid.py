"""The default detector: less than a million weights, three stages of cells, anchors that fit the data.

A residual backbone halves the picture five times. A path from the coarsest stage down to the finest tells small cells
what the large ones see, a path back up tells the large ones where exactly. On each of the three stages (cells of 8, 16
and 32 pixels) two small towers predict, for each anchor of each cell, a score for each class and four offsets.

The score of a class is trained towards the IoU that the predicted box reaches (see :mod:`tinyssd.model.aligned`), so it
ranks boxes by how good they are; there is no score for background.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinyssd.errors import ConfigError
from tinyssd.model.backbone import TimmBackbone
from tinyssd.model.blocks import Split, WideView, conv, separable
from tinyssd.model.detector import Detector

# Pixels a cell is wide, stage by stage.
STRIDES = (8, 16, 32)

# Width and height of the anchors of one stage in pixels of the input.
StageAnchors = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class PyramidConfig:
    """What the network looks like.

    Attributes:
        num_classes: Classes counting background, which is class 0; at least 2.
        image_size: Height and width of the input in pixels, multiples of 32.
        anchors: For each stage, width and height of the anchors of a cell in pixels of the input;
            :func:`tinyssd.model.fit.fit_anchors` finds those that fit a data set.
        widths: Channels of the cells of 4, 8, 16 and 32 pixels. On another backbone only the last counts: its coarsest
            map comes out of the wide view with no more.
        depths: Residual blocks of each of them.
        neck: Channels of the paths between the stages, and of the towers.
        keep_shape: Whether pictures keep their shape in the input, with bars beside them where it has another one.
        backbone: A network of the library timm that takes the place of the network's own backbone; empty: none.
    """

    num_classes: int
    image_size: tuple[int, int] = (256, 256)
    anchors: tuple[StageAnchors, ...] = (((24.0, 24.0),), ((64.0, 64.0),), ((160.0, 160.0),))
    widths: tuple[int, ...] = (32, 64, 128, 160)
    depths: tuple[int, ...] = (1, 2, 2, 1)
    neck: int = 64
    keep_shape: bool = True
    backbone: str = ""

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ConfigError(f"num_classes: expected at least 2 (background counts), got {self.num_classes}")
        coarsest = STRIDES[-1]
        if len(self.image_size) != 2 or any(side < coarsest or side % coarsest for side in self.image_size):
            raise ConfigError(f"image_size: expected height and width, multiples of {coarsest}, got {self.image_size}")
        if len(self.anchors) != len(STRIDES) or not all(self.anchors):
            raise ConfigError(f"anchors: expected some for each of {len(STRIDES)} stages, got {self.anchors}")
        if not all(len(size) == 2 and min(size) > 0 for stage in self.anchors for size in stage):
            raise ConfigError(f"anchors: expected pairs of positive numbers, got {self.anchors}")
        if not len(self.widths) == len(self.depths) == 4 or min(*self.widths, *self.depths, self.neck) < 1:
            numbers = f"{self.widths}, {self.depths} and {self.neck}"
            raise ConfigError(f"widths, depths, neck: expected four, four and one positive number, got {numbers}")

    def feature_sizes(self) -> list[tuple[int, int]]:
        """Height and width of each stage's cells."""
        height, width = self.image_size
        return [(height // stride, width // stride) for stride in STRIDES]

    def stage_sizes(self) -> list[int]:
        """How many anchors each stage has."""
        cells = self.feature_sizes()
        return [rows * columns * len(sizes) for (rows, columns), sizes in zip(cells, self.anchors, strict=True)]


class PyramidSSD(Detector):
    """A single-shot detector with a feature pyramid.

    Args:
        num_classes: Classes counting background.
        **architecture: Any other field of :class:`PyramidConfig`.

    Raises:
        ConfigError: If the architecture makes no sense.
        BackboneError: If there is no such backbone.

    Sources: Liu et al., "SSD", 2016; Lin et al., "Feature Pyramid Networks", 2017; Liu et al., "Path Aggregation
    Network", 2018; Feng et al., "TOOD", 2021.
    """

    config: PyramidConfig

    def __init__(self, num_classes: int, **architecture: Any) -> None:
        super().__init__(PyramidConfig(num_classes, **architecture))
        widths, neck = self.config.widths, self.config.neck
        self.backbone: ResidualBackbone | TimmBackbone
        if self.config.backbone:
            self.backbone = TimmBackbone(self.config.backbone, self.config.image_size, STRIDES)
        else:
            self.backbone = ResidualBackbone(widths, self.config.depths)
        *finer, coarsest = self.backbone.channels
        seen = min(coarsest, widths[-1])
        self.wide_view = WideView(coarsest, seen)
        self.lateral = nn.ModuleList(conv(width, neck, kernel=1) for width in (*finer, seen))
        self.down = nn.ModuleList(separable(neck, neck) for _ in STRIDES[:-1])
        self.halve = nn.ModuleList(conv(neck, neck, stride=2, groups=neck) for _ in STRIDES[:-1])
        self.up = nn.ModuleList(separable(neck, neck) for _ in STRIDES[:-1])
        self.class_heads = nn.ModuleList(_tower(neck, len(stage) * (num_classes - 1)) for stage in self.config.anchors)
        self.offset_heads = nn.ModuleList(_tower(neck, len(stage) * 4) for stage in self.config.anchors)
        self._start_unsure()

    @classmethod
    def from_config(cls, config: PyramidConfig) -> PyramidSSD:
        """The network that ``config`` describes, freshly initialised."""
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})

    def make_anchors(self) -> Tensor:
        """[1, A, 4], corners as shares of the input, in the order stage, cell row, cell column, anchor of the cell."""
        return pyramid_anchors(self.config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score and shift every anchor.

        Args:
            images: [B, 3, H, W], float, of the configured size; see :func:`tinyssd.data.loader.to_input`.

        Returns:
            anchors: [1, A, 4], corners as shares of the input.
            scores: [B, A, C - 1], logits: the sigmoid of each is how sure and how exact that class's box is. There is
                none for background; ``probabilities`` makes of them what :func:`tinyssd_ops.detect` takes.
            offsets: [B, 4A], from each anchor to its object, as :func:`tinyssd_ops.encode_boxes` defines them.
            All in the order stage, cell row, cell column, anchor of the cell.

        Raises:
            ValueError: If the pictures have another size.
        """
        self.expect_size(images)
        scores, offsets = [], []
        stages = self._pyramid(images)
        for features, class_head, offset_head in zip(stages, self.class_heads, self.offset_heads, strict=True):
            scores.append(class_head(features).permute(0, 2, 3, 1).flatten(1))
            offsets.append(offset_head(features).permute(0, 2, 3, 1).flatten(1))
        all_scores = torch.cat(scores, 1).unflatten(1, (-1, self.config.num_classes - 1))
        return self.anchors, all_scores, torch.cat(offsets, 1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """[B, A, C - 1] to [B, C, A]; background gets what the surest class leaves."""
        objects = scores.sigmoid().transpose(1, 2)
        return torch.cat((1 - objects.amax(dim=1, keepdim=True), objects), dim=1)

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """The features of the stages, the finest first: [B, neck, H / stride, W / stride] each."""
        stages = self.backbone(images)
        stages[-1] = self.wide_view(stages[-1])
        finer = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        for k in (1, 0):
            from_above = functional.interpolate(finer[k + 1], scale_factor=2.0, mode="nearest")
            finer[k] = self.down[k](finer[k] + from_above)
        for k in (0, 1):
            finer[k + 1] = self.up[k](finer[k + 1] + self.halve[k](finer[k]))
        return finer

    def _start_unsure(self) -> None:
        """Scores start at 1 %, boxes at their anchors: else the many cells without objects drown the first steps."""
        for heads, bias in ((self.class_heads, -math.log(99)), (self.offset_heads, 0.0)):
            for head in heads:
                *_, last = head.children()
                assert isinstance(last, nn.Conv2d)
                assert last.bias is not None
                nn.init.normal_(last.weight, std=0.01)
                nn.init.constant_(last.bias, bias)


class ResidualBackbone(nn.ModuleList):
    """The network's own backbone: cells of 4, 8, 16 and 32 pixels, the last three of which come out.

    Args:
        widths: As :class:`PyramidConfig` has them.
        depths: Likewise.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        # Windows of 6x6 pixels at once: maps of half the picture's size would cost more than all of the backbone.
        enter = conv(3, widths[0], kernel=6, stride=4)
        halves = (conv(narrow, wide, stride=2) for narrow, wide in pairwise(widths))
        super().__init__(
            nn.Sequential(step, Split(width, depth))
            for step, width, depth in zip((enter, *halves), widths, depths, strict=True)
        )
        self.channels = list(widths[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to [B, channels, H / stride, W / stride] for each stride, the finest first."""
        features = images
        stages = []
        for block in self:
            features = block(features)
            stages.append(features)
        return stages[1:]


def _tower(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(separable(channels, channels), nn.Conv2d(channels, outputs, kernel_size=1))


def pyramid_anchors(config: PyramidConfig) -> Tensor:
    """The anchors of all stages, centred on the cells: [1, A, 4], corners as shares of the input."""
    height, width = config.image_size
    stages = []
    for (rows, columns), sizes in zip(config.feature_sizes(), config.anchors, strict=True):
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        centers = torch.stack((x, y), dim=-1)[:, :, None]  # [rows, columns, 1, 2]
        half = torch.tensor(sizes) / torch.tensor([width, height]) / 2  # [K, 2]
        stages.append(torch.cat((centers - half, centers + half), dim=-1).view(-1, 4))
    return torch.cat(stages)[None]
