"""The assigners in plain Torch, part of :mod:`tinyssd_ops.reference`: matrices of anchors x boxes, as the papers read.

Integer and float results are identical to the kernels', bit for bit: sums run in a stated order, and powers and
logarithms are made of rounded basic operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tinyssd_ops import _assigner_checks as checks
from tinyssd_ops import reference

_BACKGROUND, _IGNORED = -1, -2


@torch.no_grad()
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
    """See :func:`tinyssd_ops.assign_threshold`."""
    checks.check_assign_threshold(anchors, gt_boxes, gt_valid, gt_ignored, high_threshold, low_threshold)
    if gt_boxes.dim() == 2:
        valid, ignored = (None if flags is None else flags[None] for flags in (gt_valid, gt_ignored))
        options = (high_threshold, low_threshold, allow_low_quality, match_every_box)
        return assign_threshold(anchors, gt_boxes[None], valid, ignored, *options)[0]
    num_images, num_gt, num_anchors = gt_boxes.shape[0], gt_boxes.shape[1], anchors.shape[0]
    if num_gt == 0 or num_anchors == 0:
        return anchors.new_full((num_images, num_anchors), _BACKGROUND, dtype=torch.int64)
    counted, crowd = _counted_and_crowd(gt_boxes, gt_valid, gt_ignored)
    overlaps = reference.box_iou(anchors, gt_boxes)  # [B, A, G]
    quality = overlaps.masked_fill(~counted[:, None], -1)
    best_iou, best_box = quality.max(dim=2)
    high, low = (reference._narrow(threshold, quality) for threshold in (high_threshold, low_threshold))
    assigned = torch.where(best_iou < low, _BACKGROUND, torch.where(best_iou < high, _IGNORED, best_box))
    best_of_box, anchor_of_box = quality.max(dim=1)  # [B, G]; of equals the lowest anchor
    if allow_low_quality:
        ties = ((quality == best_of_box[:, None]) & counted[:, None]).any(dim=2)
        assigned = torch.where(ties, best_box, assigned)
    if match_every_box:
        box = torch.where(counted, torch.arange(num_gt, device=anchors.device), -1)
        last = torch.full_like(assigned, -1).scatter_reduce(1, anchor_of_box, box, "amax")
        assigned = torch.where(last >= 0, last, assigned)
    return _take_ignored(assigned, overlaps, counted, crowd)


def _counted_and_crowd(gt_boxes: Tensor, gt_valid: Tensor | None, gt_ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which boxes [B, G] anchors may be assigned to, and which are valid but to be ignored."""
    everywhere = torch.ones(gt_boxes.shape[:-1], dtype=torch.bool, device=gt_boxes.device)
    valid = everywhere if gt_valid is None else gt_valid
    ignored = ~everywhere if gt_ignored is None else gt_ignored
    return valid & ~ignored, valid & ignored


def _take_ignored(assigned: Tensor, overlaps: Tensor, counted: Tensor, crowd: Tensor) -> Tensor:
    """Anchors that overlap an ignored box more than any other box (of equals, the lower index) are to be ignored."""
    best, box = overlaps.masked_fill(~(counted | crowd)[:, None], -1).max(dim=2)
    return torch.where((best > 0) & crowd.gather(1, box), _IGNORED, assigned)
