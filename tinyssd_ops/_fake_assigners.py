"""The fake kernels of the assigners, for :mod:`tinyssd_ops._registration`: shapes and dtypes without data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinyssd_ops import _assigner_checks as checks
from tinyssd_ops._checks import compute_dtype


def assign_threshold(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    high_threshold: float = 0.5,
    low_threshold: float = 0.4,
    allow_low_quality: bool = False,
    match_every_box: bool = False,
) -> Tensor:
    """Shapes of assign_threshold."""
    checks.check_assign_threshold(anchors, gt_boxes, gt_valid, gt_ignored, high_threshold, low_threshold)
    return _assignment(anchors, gt_boxes)


def assign_atss(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    topk: int = 9,
) -> Tensor:
    """Shapes of assign_atss."""
    checks.check_assign_atss(anchors, level_sizes, gt_boxes, gt_valid, gt_ignored, topk)
    return _assignment(anchors, gt_boxes)


def assign_task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """Shapes of assign_task_aligned."""
    checks.check_assign_task_aligned(
        scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored, topk, alpha, beta
    )
    dtype = compute_dtype(scores=scores, boxes=boxes, points=points, gt_boxes=gt_boxes)
    return scores.new_empty(scores.shape[:2], dtype=torch.int64), scores.new_empty(scores.shape[:2], dtype=dtype)


def assign_simota(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    radius: float = 2.5,
    topk: int = 10,
) -> tuple[Tensor, Tensor]:
    """Shapes of assign_simota."""
    checks.check_assign_simota(scores, boxes, points, strides, gt_labels, gt_boxes, gt_valid, gt_ignored, radius, topk)
    dtype = compute_dtype(scores=scores, boxes=boxes, points=points, strides=strides, gt_boxes=gt_boxes)
    return scores.new_empty(scores.shape[:2], dtype=torch.int64), scores.new_empty(scores.shape[:2], dtype=dtype)


def assignment_target(
    assigned: Tensor, gt_labels: Tensor, gt_boxes: Tensor, anchors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes of assignment_target."""
    checks.check_assignment_target(assigned, gt_labels, gt_boxes, anchors)
    dtype = compute_dtype(gt_boxes=gt_boxes, **({} if anchors is None else {"anchors": anchors}))
    num_images, num_anchors = assigned.shape
    targets, mask = (gt_boxes.new_empty(num_images, 4 * num_anchors, dtype=dtype) for _ in range(2))
    return targets, mask, gt_boxes.new_empty(num_images, num_anchors, dtype=torch.int64)


def _assignment(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    return anchors.new_empty(*gt_boxes.shape[:-2], anchors.shape[0], dtype=torch.int64)
