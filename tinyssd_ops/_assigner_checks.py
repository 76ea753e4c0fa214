"""Argument checks of the assigners: the same sentences as csrc/assigners.h."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinyssd_ops._checks import compute_dtype, expect, expect_device, expect_integer, expect_shape, expect_threshold

_MOST_TOPK = 64
_MOST_LEVELS = 16


def expect_flags(name: str, flags: Tensor | None, gt_boxes: Tensor) -> None:
    """The tensor, if there is one, holds a flag for each ground-truth box."""
    if flags is None:
        return
    expect(flags.dtype == torch.bool, f"{name}: expected dtype torch.bool, got {flags.dtype}")
    expect_shape(name, flags, list(gt_boxes.shape[:-1]))
    expect_device(name, flags, gt_boxes.device)


def check_assign_threshold(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None,
    gt_ignored: Tensor | None,
    high_threshold: float,
    low_threshold: float,
) -> None:
    """Arguments of assign_threshold."""
    _check_anchors_and_gt(anchors, gt_boxes, gt_valid, gt_ignored)
    expect_threshold("high_threshold", high_threshold)
    expect_threshold("low_threshold", low_threshold)
    wanted = f"low_threshold: expected at most high_threshold, {high_threshold:g}, got {low_threshold:g}"
    expect(low_threshold <= high_threshold, wanted)


def check_assign_atss(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    gt_valid: Tensor | None,
    gt_ignored: Tensor | None,
    topk: int,
) -> None:
    """Arguments of assign_atss."""
    _check_anchors_and_gt(anchors, gt_boxes, gt_valid, gt_ignored)
    count, sizes = len(level_sizes), list(level_sizes)
    expect(1 <= count <= _MOST_LEVELS, f"level_sizes: expected 1 to {_MOST_LEVELS} levels, got {count}")
    good = min(sizes) >= 0 and sum(sizes) == anchors.shape[0]
    expect(good, f"level_sizes: expected sizes that add up to {anchors.shape[0]} anchors, got {sizes}")
    expect_topk(topk)


def check_assign_task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None,
    gt_ignored: Tensor | None,
    topk: int,
    alpha: float,
    beta: float,
) -> None:
    """Arguments of assign_task_aligned."""
    _check_predictions_and_gt(scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored)
    expect_topk(topk)
    for name, value in (("alpha", alpha), ("beta", beta)):
        good = 0 <= value <= 10 and 2 * value == int(2 * value)
        expect(good, f"{name}: expected a multiple of 0.5 from 0 to 10, got {value:g}")


def check_assign_simota(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None,
    gt_ignored: Tensor | None,
    radius: float,
    topk: int,
) -> None:
    """Arguments of assign_simota."""
    _check_predictions_and_gt(scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored)
    expect_shape("strides", strides, [points.shape[0]])
    compute_dtype(scores=scores, strides=strides)
    expect(0 <= radius <= 1e6, f"radius: expected a number from 0 to 1e6, got {radius:g}")
    expect_topk(topk)


def check_assignment_target(assigned: Tensor, gt_labels: Tensor, gt_boxes: Tensor, anchors: Tensor | None) -> None:
    """Arguments of assignment_target."""
    expect_shape("assigned", assigned, ["B", "A"])
    expect(assigned.dtype == torch.int64, f"assigned: expected dtype torch.int64, got {assigned.dtype}")
    expect_shape("gt_boxes", gt_boxes, [assigned.shape[0], "G", 4])
    expect_shape("gt_labels", gt_labels, list(gt_boxes.shape[:2]))
    if anchors is not None:
        expect_shape("anchors", anchors, [assigned.shape[1], 4])
    compute_dtype(gt_boxes=gt_boxes, **({} if anchors is None else {"anchors": anchors}))
    expect_integer("gt_labels", gt_labels)
    expect_device("gt_labels", gt_labels, gt_boxes.device)
    expect_device("assigned", assigned, gt_boxes.device)


def expect_topk(topk: int) -> None:
    """The number of candidates that a box ranks is one that the kernels have room for."""
    expect(1 <= topk <= _MOST_TOPK, f"topk: expected a number from 1 to {_MOST_TOPK}, got {topk}")


def _check_predictions_and_gt(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None,
    gt_ignored: Tensor | None,
) -> None:
    expect_shape("scores", scores, ["B", "A", "C"])
    num_images, num_anchors, num_classes = scores.shape
    expect(num_classes >= 1, "scores: expected at least 1 class, got 0")
    expect_shape("boxes", boxes, [num_images, num_anchors, 4])
    expect_shape("points", points, [num_anchors, 2])
    expect_shape("gt_boxes", gt_boxes, [num_images, "G", 4])
    expect_shape("gt_labels", gt_labels, list(gt_boxes.shape[:2]))
    compute_dtype(scores=scores, boxes=boxes, points=points, gt_boxes=gt_boxes)
    expect_integer("gt_labels", gt_labels)
    expect_device("gt_labels", gt_labels, scores.device)
    expect_flags("gt_valid", gt_valid, gt_boxes)
    expect_flags("gt_ignored", gt_ignored, gt_boxes)


def _check_anchors_and_gt(
    anchors: Tensor, gt_boxes: Tensor, gt_valid: Tensor | None, gt_ignored: Tensor | None
) -> None:
    expect_shape("anchors", anchors, ["A", 4])
    expect_shape("gt_boxes", gt_boxes, ["G", 4] if gt_boxes.dim() == 2 else ["B", "G", 4])
    compute_dtype(anchors=anchors, gt_boxes=gt_boxes)
    expect_flags("gt_valid", gt_valid, gt_boxes)
    expect_flags("gt_ignored", gt_ignored, gt_boxes)
