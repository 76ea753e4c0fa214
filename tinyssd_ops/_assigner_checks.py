"""Argument checks of the assigners: the same sentences as csrc/assigners.h."""

from __future__ import annotations

import torch
from torch import Tensor

from tinyssd_ops._checks import compute_dtype, expect, expect_device, expect_shape, expect_threshold


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


def _check_anchors_and_gt(
    anchors: Tensor, gt_boxes: Tensor, gt_valid: Tensor | None, gt_ignored: Tensor | None
) -> None:
    expect_shape("anchors", anchors, ["A", 4])
    expect_shape("gt_boxes", gt_boxes, ["G", 4] if gt_boxes.dim() == 2 else ["B", "G", 4])
    compute_dtype(anchors=anchors, gt_boxes=gt_boxes)
    expect_flags("gt_valid", gt_valid, gt_boxes)
    expect_flags("gt_ignored", gt_ignored, gt_boxes)
