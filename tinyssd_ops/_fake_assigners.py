"""The fake kernels of the assigners, for :mod:`tinyssd_ops._registration`: shapes and dtypes without data."""

from __future__ import annotations

import torch
from torch import Tensor

from tinyssd_ops import _assigner_checks as checks


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


def _assignment(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    return anchors.new_empty(*gt_boxes.shape[:-2], anchors.shape[0], dtype=torch.int64)
