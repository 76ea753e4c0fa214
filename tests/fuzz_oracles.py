"""What plain loops say of the fuzzer's cases: tests/oracle.py and tests/oracle_assigners.py, image by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import oracle
import oracle_assigners
import torch
from cases import assert_same
from fuzz_cases import MANY
from test_iou_pairs import KINDS, formula
from torch import Tensor

import tinyssd_ops


@dataclass(frozen=True)
class Known:
    """An answer, exact or near."""

    value: Any
    tolerance: float = 0.0

    def compare(self, actual: Any, context: str) -> None:
        """Fails where the actual answer is another one."""
        if self.tolerance:
            torch.testing.assert_close(actual.double(), self.value, rtol=self.tolerance, atol=self.tolerance)
        else:
            assert_same(actual, self.value, context)


def answer(op: str, args: tuple[Any, ...]) -> Known | None:
    """What the loops say, or None where they cannot know."""
    dtype = torch.float32
    if any(isinstance(arg, Tensor) and arg.dtype == torch.float64 for arg in args):
        dtype = torch.float64
    wide = [a.to(dtype).contiguous() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    return ORACLES[op](*wide) if op in ORACLES else None


def _box_iou(one: Tensor, two: Tensor) -> Known:
    rows = [[float(oracle.iou(list(a), list(b))) for b in two.numpy()] for a in one.numpy()]
    return Known(torch.tensor(rows, dtype=one.dtype).view(len(one), len(two)))


def _iou_pairs(one: Tensor, two: Tensor, kind: int, aligned: bool, union_eps: float, eps: float) -> Known | None:
    for boxes in (one, two):
        sides = boxes[:, 2:] - boxes[:, :2]
        if not bool((boxes.abs() <= 2).all()) or not bool((sides > 0.01).all()):
            return None  # The definition is for ordinary boxes; the rest is the reference's rule.
    expected = formula(one, two, KINDS[kind], union_eps, eps)
    return Known(expected.diagonal() if aligned else expected, 2e-4)


def _assign_anchors(anchors: Tensor, gts: Tensor, valid: Tensor | None, threshold: float) -> Known:
    return Known(oracle.assign(anchors, gts, valid, threshold))


def _multibox_target(anchors: Tensor, labels: Tensor, threshold: float) -> Known:
    images, num_anchors = len(labels), len(anchors)
    offsets, mask = labels.new_zeros(images, num_anchors, 4), labels.new_zeros(images, num_anchors, 4)
    classes = torch.zeros(images, num_anchors, dtype=torch.int64)
    for i in range(images):
        for a, g in enumerate(oracle.assign(anchors, labels[i, :, 1:], labels[i, :, 0] >= 0, threshold).tolist()):
            if g >= 0:
                classes[i, a], mask[i, a] = int(labels[i, g, 0]) + 1, 1
                offsets[i, a] = tinyssd_ops.encode_boxes(anchors[a], labels[i, g, 1:])
    return Known((offsets.flatten(1), mask.flatten(1), classes))


def _indices(kept: list[int]) -> Known:
    return Known(torch.tensor(kept, dtype=torch.int64))


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Known | None:
    return _indices(oracle.nms(boxes, scores, threshold)) if len(boxes) < MANY else None


def _batched_nms(boxes: Tensor, scores: Tensor, ids: Tensor, threshold: float) -> Known | None:
    return _indices(oracle.nms(boxes, scores, threshold, ids)) if len(boxes) < MANY else None


def _nms_padded(
    boxes: Tensor, scores: Tensor, threshold: float, ids: Tensor | None, least: float | None, most: int | None
) -> Known:
    width = boxes.shape[1] if most is None else most
    keep, counts = torch.full((len(boxes), width), -1, dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.int64)
    for i in range(len(boxes)):
        kept = oracle.nms(boxes[i], scores[i], threshold, None if ids is None else ids[i], least, width)
        keep[i, : len(kept)], counts[i] = torch.tensor(kept, dtype=torch.int64), len(kept)
    return Known((keep, counts))


def _multibox_detection(probs: Tensor, offsets: Tensor, anchors: Tensor, threshold: float, least: float) -> Known:
    boxes = tinyssd_ops.decode_boxes(anchors, offsets.unflatten(1, (-1, 4)))
    rows = [oracle.multibox_detection(probs[i], boxes[i], threshold, least) for i in range(len(probs))]
    return Known(torch.stack(rows) if rows else probs.new_zeros(0, len(anchors), 6))


def _detect(
    probs: Tensor, offsets: Tensor, anchors: Tensor, threshold: float, least: float, most: int, agnostic: bool
) -> Known:
    boxes = tinyssd_ops.decode_boxes(anchors, offsets.unflatten(1, (-1, 4)))
    found = [oracle.detect(probs[i], boxes[i], threshold, least, most, agnostic) for i in range(len(probs))]
    rows = torch.stack([one for one, _ in found]) if found else probs.new_zeros(0, most, 6)
    return Known((rows, torch.tensor([count for _, count in found], dtype=torch.int64)))


def _assign_threshold(*args: Any) -> Known:
    return Known(oracle_assigners.assign_threshold(*args))


def _assign_atss(*args: Any) -> Known:
    return Known(oracle_assigners.assign_atss(*args))


def _task_aligned(scores: Tensor, boxes: Tensor, points: Tensor, *rest: Any) -> Known | None:
    if scores.dtype == torch.float64 and rest[-2] % 1:
        return None  # The square root in float64 is one that every backend can compute, off by a last bit or not.

    def one(i: int) -> tuple[Tensor, Tensor]:
        images = [t[i] if isinstance(t, Tensor) else t for t in rest[:4]]
        return oracle_assigners.assign_task_aligned(scores[i], boxes[i], points, *images, *rest[4:])

    return Known(tuple(torch.stack(parts) for parts in zip(*(one(i) for i in range(len(scores))), strict=True)))


def _assignment_target(assigned: Tensor, labels: Tensor, boxes: Tensor, anchors: Tensor | None) -> Known:
    shape = (*assigned.shape, 4)
    targets, mask, classes = boxes.new_zeros(shape), boxes.new_zeros(shape), torch.zeros_like(assigned)
    for i, row in enumerate(assigned.tolist()):
        for a, g in enumerate(row):
            if 0 <= g < labels.shape[1]:
                classes[i, a], mask[i, a] = labels[i, g] + 1, 1
                targets[i, a] = boxes[i, g] if anchors is None else tinyssd_ops.encode_boxes(anchors[a], boxes[i, g])
            elif g == -2:
                classes[i, a] = -1
    return Known((targets.flatten(1), mask.flatten(1), classes))


# The gradients, and assign_simota, whose oracle does not round its costs as the op does, have the reference alone.
ORACLES: dict[str, Callable[..., Known | None]] = {
    "box_iou": _box_iou,
    "iou_pairs": _iou_pairs,
    "assign_anchors": _assign_anchors,
    "multibox_target": _multibox_target,
    "nms": _nms,
    "batched_nms": _batched_nms,
    "nms_padded": _nms_padded,
    "multibox_detection": _multibox_detection,
    "detect": _detect,
    "assign_threshold": _assign_threshold,
    "assign_atss": _assign_atss,
    "assign_task_aligned": _task_aligned,
    "assignment_target": _assignment_target,
}
