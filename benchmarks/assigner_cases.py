"""The rows of the assigners: every rule on crowded and on ordinary pictures, beside plain Torch and torchvision.

Run them with ``python -m benchmarks --filter assign_``; the size is B * A * G.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import tinyssd_ops as ops
from benchmarks import agreement, floors, inputs, peers
from benchmarks.measure import Args
from benchmarks.suite import Case, Peer
from tinyssd_ops import reference

_STRIDES = (8, 16, 32)
_CLASSES = 80
# Cells of the first level a side, images, boxes: 8,400 and 120,393 anchors.
_SIZES = ((80, 1, 20), (80, 16, 20), (80, 8, 500), (303, 1, 100), (303, 16, 100), (80, 128, 4967))
# The most pairs of which a matrix in Torch, of which the references make several, fits a small machine.
_MATRIX = 40_000_000


def pyramid(cells: int) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Square anchors [A, 4] of four strides, their centres [A, 2] and strides [A], and the sizes of three levels."""
    anchors, strides, sizes = [], [], []
    for level, stride in enumerate(_STRIDES):
        side = max(cells >> level, 1)
        y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) * stride] * 2, indexing="ij")
        center = torch.stack((x, y), dim=2).view(-1, 2)
        anchors.append(torch.cat((center - 2 * stride, center + 2 * stride), dim=1))
        strides.append(torch.full((side * side,), float(stride)))
        sizes.append(side * side)
    corners = torch.cat(anchors)
    return corners, (corners[:, :2] + corners[:, 2:]) / 2, torch.cat(strides), sizes


def ground_truth(side: float, images: int, boxes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels [B, G], boxes [B, G, 4] of 8 to 128 pixels, most of them small, and valid [B, G], for 19 of 20."""
    random = inputs.generator(seed)
    size = 8 + 120 * torch.rand(images, boxes, 2, generator=random) ** 3
    corner = torch.rand(images, boxes, 2, generator=random) * (side - size)
    labels = torch.randint(_CLASSES, (images, boxes), generator=random)
    return labels, torch.cat((corner, corner + size), dim=2), torch.rand(images, boxes, generator=random) < 0.95


def cases() -> Iterator[Case]:
    """Every row, rule by rule."""
    for cells, images, boxes in _SIZES:
        anchors, points, strides, sizes = pyramid(cells)
        num_anchors = len(anchors)
        pairs = images * num_anchors * boxes
        label = f"B={images} A={num_anchors} G={boxes}"
        side = float(cells * _STRIDES[0])

        def truth(seed: int, side: float = side, images: int = images, boxes: int = boxes) -> Args:
            return ground_truth(side, images, boxes, seed)

        def threshold(seed: int, anchors: Tensor = anchors, truth: Callable[[int], Args] = truth) -> Args:
            _, gts, valid = truth(seed)
            return anchors, gts, valid

        def atss(
            seed: int, anchors: Tensor = anchors, sizes: list[int] = sizes, truth: Callable[[int], Args] = truth
        ) -> Args:
            _, gts, valid = truth(seed)
            return anchors, sizes, gts, valid

        def head(
            seed: int, points: Tensor = points, images: int = images, truth: Callable[[int], Args] = truth
        ) -> Args:
            random = inputs.generator(seed + 7)
            half = 4 + 60 * torch.rand(images, len(points), 2, generator=random) ** 2
            scores = torch.rand(images, len(points), _CLASSES, generator=random)
            return scores, torch.cat((points - half, points + half), dim=2), points, *truth(seed)

        def simota(seed: int, strides: Tensor = strides, head: Callable[[int], Args] = head) -> Args:
            scores, predicted, points, *rest = head(seed)
            return scores, predicted, points, strides, *rest

        work = (floors.all_pairs(pairs),)
        makes = {"assign_threshold": threshold, "assign_atss": atss}
        if images * num_anchors * _CLASSES < 100_000_000:
            makes |= {"assign_task_aligned": head, "assign_simota": simota}
        for op, make in makes.items():
            run, agree = _rule(op, ops), agreement.close
            others = [Peer("reference", _rule(op, reference), agree, largest=_MATRIX)]
            if op == "assign_threshold":
                others.append(
                    Peer("torchvision", torchvision_threshold, agreement.exact, "torchvision", largest=_MATRIX)
                )
            yield Case(op, "pyramid", pairs, label, make, run, tuple(others), work)


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
