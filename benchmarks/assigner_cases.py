"""The rows of the assigners: every rule on crowded and on ordinary pictures, beside plain Torch and torchvision.

Run them with ``python -m benchmarks --filter assign``; the size is B * A * G.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tinyssd_ops as ops
from benchmarks import agreement, floors, inputs, peers
from benchmarks.case import Case, Peer
from benchmarks.measure import Args
from tinyssd_ops import reference

# The most pairs of which a matrix in Torch, of which the references make several, fits a small machine; and the most
# of which the references of the rules that sort them, or go box by box, end in reasonable time.
_MATRIX, _SORTED = 35_000_000, 5_000_000
_LARGEST = {
    "assign_atss": _SORTED,
    "assign_task_aligned": _SORTED,
    "assign_simota": _SORTED,
    "multibox_target": _SORTED,
}
# The most scores of 80 classes in one input; larger batches have 20.
_SCORES = 100_000_000


@dataclass(frozen=True)
class Pyramid:
    """The anchors of a square picture: levels of cells, level after level, and in each cell anchors of some scales.

    Attributes:
        levels: Cells a side and their stride in pixels, for each level.
        scales: Of a cell's anchors, which are ``4 * stride * scale`` pixels wide before their ratio.
        ratios: Of width to height.
    """

    levels: tuple[tuple[int, int], ...]
    scales: tuple[float, ...] = (1.0,)
    ratios: tuple[float, ...] = (1.0,)

    @property
    def side(self) -> float:
        """Of the picture, in pixels."""
        cells, stride = self.levels[0]
        return float(cells * stride)

    @property
    def sizes(self) -> list[int]:
        """The anchors of each level."""
        return [cells * cells * len(self.scales) * len(self.ratios) for cells, _ in self.levels]

    def anchors(self) -> Tensor:
        """[A, 4]."""
        return torch.cat([self._level(cells, stride) for cells, stride in self.levels])

    def points(self) -> Tensor:
        """[A, 2]: the anchors' centres."""
        anchors = self.anchors()
        return (anchors[:, :2] + anchors[:, 2:]) / 2

    def strides(self) -> Tensor:
        """[A]."""
        return torch.cat([torch.full((n,), float(s)) for n, (_, s) in zip(self.sizes, self.levels, strict=True)])

    def _level(self, cells: int, stride: int) -> Tensor:
        y, x = torch.meshgrid(*[(torch.arange(cells) + 0.5) * stride] * 2, indexing="ij")
        center = torch.stack((x, y), dim=2).view(-1, 1, 2)
        shapes = [(s * r**0.5, s / r**0.5) for s in self.scales for r in self.ratios]
        half = 2 * stride * torch.tensor(shapes)
        return torch.cat((center - half, center + half), dim=2).view(-1, 4)


# 8,400 points, as YOLO has for 640 pixels; 120,087 anchors, as RetinaNet has for 800.
YOLO = Pyramid(((80, 8), (40, 16), (20, 32)))
RETINA = Pyramid(((100, 8), (50, 16), (25, 32), (13, 64), (7, 128)), (1.0, 1.26, 1.587), (1.0, 2.0, 0.5))
# Pyramid, images, boxes.
_ROWS = (
    (YOLO, 1, 20),
    (YOLO, 16, 20),
    (YOLO, 8, 500),
    (RETINA, 1, 100),
    (YOLO, 1, 4967),
    (RETINA, 16, 100),
    (YOLO, 128, 4967),
)


def ground_truth(side: float, images: int, boxes: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels [B, G], boxes [B, G, 4] of 8 to 128 pixels, most of them small, and valid [B, G], for 19 of 20."""
    random = inputs.generator(seed)
    size = 8 + 120 * torch.rand(images, boxes, 2, generator=random) ** 3
    corner = torch.rand(images, boxes, 2, generator=random) * (side - size)
    labels = torch.randint(classes, (images, boxes), generator=random)
    return labels, torch.cat((corner, corner + size), dim=2), torch.rand(images, boxes, generator=random) < 0.95


def arguments(op: str, pyramid: Pyramid, images: int, boxes: int, seed: int) -> Args:
    """What an op is called with, without its options: pictures of crowds, or of a few objects."""
    num_anchors = sum(pyramid.sizes)
    classes = 80 if images * num_anchors * 80 < _SCORES else 20
    labels, gts, valid = ground_truth(pyramid.side, images, boxes, classes, seed)
    if op == "assign_threshold":
        return pyramid.anchors(), gts, valid
    if op == "multibox_target":
        return pyramid.anchors(), torch.cat((torch.where(valid, labels, -1)[..., None].float(), gts), dim=2)
    if op == "assign_atss":
        return pyramid.anchors(), pyramid.sizes, gts, valid
    if op == "assignment_target":
        assigned = ops.assign_threshold(pyramid.anchors(), gts, valid, None, 0.5, 0.4, True)
        return assigned, labels, gts, pyramid.anchors()
    random = inputs.generator(seed + 7)
    half, points = 4 + 60 * torch.rand(images, num_anchors, 2, generator=random) ** 2, pyramid.points()
    scores = torch.rand(images, num_anchors, classes, generator=random)
    strides = (pyramid.strides(),) if op == "assign_simota" else ()
    return scores, torch.cat((points - half, points + half), dim=2), points, *strides, labels, gts, valid


def cases() -> Iterator[Case]:
    """Every row, rule by rule."""
    assigners = "assign_threshold", "assign_atss", "assign_task_aligned", "assign_simota", "assignment_target"
    for op in (*assigners, "multibox_target"):
        for pyramid, images, boxes in _ROWS:
            num_anchors = sum(pyramid.sizes)
            pairs = images * num_anchors * boxes
            largest = _LARGEST.get(op, _MATRIX)
            others = [Peer("reference", _rule(op, reference), agreement.close, largest=largest)]
            if op == "assign_threshold":
                others.append(
                    Peer("torchvision", torchvision_threshold, agreement.exact, "torchvision", largest=_MATRIX)
                )
            yield Case(
                op,
                "pyramid",
                pairs,
                f"B={images} A={num_anchors} G={boxes}",
                _make(op, pyramid, images, boxes),
                _rule(op, ops),
                tuple(others),
                (floors.all_pairs(pairs),) if op != "assignment_target" else (_WRITTEN,),
            )


# Four float32 targets, four of the mask, and an int64 class.
_WRITTEN = floors.write(lambda assigned, *_: ((*assigned.shape, 10),))


def _make(op: str, pyramid: Pyramid, images: int, boxes: int) -> Callable[[int], Args]:
    return lambda seed: arguments(op, pyramid, images, boxes, seed)


def _rule(op: str, backend: Any) -> Callable[..., Any]:
    """The op of a backend; thresholds are RetinaNet's."""
    if op == "assign_threshold":
        return lambda anchors, gts, valid: backend.assign_threshold(anchors, gts, valid, None, 0.5, 0.4, True)
    return getattr(backend, op)


def torchvision_threshold(anchors: Tensor, gts: Tensor, valid: Tensor) -> Tensor:
    """torchvision's RetinaNet matcher, image by image, as its detectors call it."""
    matcher = peers._module("torchvision.models.detection._utils").Matcher(0.5, 0.4, allow_low_quality_matches=True)
    results = []
    for boxes, there in zip(gts, valid, strict=True):
        kept = there.nonzero()[:, 0]
        found = matcher(peers.torchvision_box_iou(boxes[kept], anchors))
        results.append(torch.where(found >= 0, kept[found.clamp(min=0)], found))
    return torch.stack(results)
