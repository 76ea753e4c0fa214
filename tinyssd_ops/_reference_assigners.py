"""The assigners in plain Torch, part of :mod:`tinyssd_ops.reference`: matrices of anchors x boxes, as the papers read.

Integer and float results are identical to the kernels', bit for bit: sums run in a stated order, and powers and
logarithms are made of rounded basic operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinyssd_ops import _assigner_checks as checks
from tinyssd_ops import boxes as box_ops
from tinyssd_ops import reference
from tinyssd_ops._checks import compute_dtype

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


@torch.no_grad()
def assign_atss(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    topk: int = 9,
) -> Tensor:
    """See :func:`tinyssd_ops.assign_atss`."""
    checks.check_assign_atss(anchors, level_sizes, gt_boxes, gt_valid, gt_ignored, topk)
    if gt_boxes.dim() == 2:
        valid, ignored = (None if flags is None else flags[None] for flags in (gt_valid, gt_ignored))
        return assign_atss(anchors, level_sizes, gt_boxes[None], valid, ignored, topk)[0]
    num_images, num_gt, num_anchors = gt_boxes.shape[0], gt_boxes.shape[1], anchors.shape[0]
    if num_gt == 0 or num_anchors == 0:
        return anchors.new_full((num_images, num_anchors), _BACKGROUND, dtype=torch.int64)
    dtype = compute_dtype(anchors=anchors, gt_boxes=gt_boxes)
    anchors, gt_boxes = anchors.to(dtype), gt_boxes.to(dtype)
    counted, crowd = _counted_and_crowd(gt_boxes, gt_valid, gt_ignored)
    overlaps = reference.box_iou(anchors, gt_boxes)  # [B, A, G]
    centers, gt_centers = ((t[..., :2] + t[..., 2:]) / 2 for t in (anchors, gt_boxes))
    dx, dy = (centers[:, None] - gt_centers[:, None]).unbind(dim=-1)
    distance = (dx * dx + dy * dy).nan_to_num(torch.inf, torch.inf)
    # The nearest of each level, level by level.
    starts = [sum(level_sizes[:level]) for level in range(len(level_sizes))]
    levels = zip(starts, distance.split(list(level_sizes), dim=1), strict=True)
    nearest = torch.cat([start + d.argsort(dim=1, stable=True)[:, :topk] for start, d in levels], dim=1)  # [B, N, G]
    candidates = overlaps.gather(1, nearest).double()
    above, variance = _above_mean_and_variance(candidates)
    # IoU >= mean + standard deviation, without the square root.
    positive = (above >= 0) & (above * above >= variance)
    chosen = torch.zeros_like(overlaps, dtype=torch.bool).scatter(1, nearest, positive)
    chosen = chosen & _contains(gt_boxes[:, None], centers[:, None]) & counted[:, None]
    best, box = torch.where(chosen, overlaps, -1).max(dim=2)  # conflicts: the larger IoU
    return _take_ignored(torch.where(best >= 0, box, _BACKGROUND), overlaps, counted, crowd)


def _above_mean_and_variance(candidates: Tensor) -> tuple[Tensor, Tensor]:
    """How far [B, N, G] each box's candidates lie above their mean, and their variance [B, 1, G], summed in order."""
    count = candidates.shape[1]
    above = candidates - box_ops._divide(_sum_in_order(candidates), count)
    return above, box_ops._divide(_sum_in_order(above * above), max(count - 1, 1))


def _sum_in_order(values: Tensor) -> Tensor:
    """The sum [B, 1, G] of values [B, N, G], the first ones first."""
    total = torch.zeros_like(values[:, :1])
    for value in values.split(1, dim=1):
        total = total + value
    return total


@torch.no_grad()
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
    """See :func:`tinyssd_ops.assign_task_aligned`."""
    checks.check_assign_task_aligned(
        scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored, topk, alpha, beta
    )
    dtype = compute_dtype(scores=scores, boxes=boxes, points=points, gt_boxes=gt_boxes)
    scores, boxes, points, gt_boxes = (t.to(dtype) for t in (scores, boxes, points, gt_boxes))
    if gt_boxes.shape[1] == 0 or points.shape[0] == 0:
        return scores.new_full(scores.shape[:2], _BACKGROUND, dtype=torch.int64), scores.new_zeros(scores.shape[:2])
    counted, crowd = _counted_and_crowd(gt_boxes, gt_valid, gt_ignored)
    overlaps = reference.box_iou(boxes, gt_boxes)  # [B, A, G]
    score, known = _scores_of(scores, gt_labels)
    alignment = _half_power(score, alpha) * _half_power(overlaps, beta)
    allowed = _contains(gt_boxes[:, None], points[:, None]) & (counted & known)[:, None] & (alignment > 0)
    alignment = torch.where(allowed, alignment, 0)
    chosen = allowed & (_rank(-alignment) < topk)
    best, box = torch.where(chosen, overlaps, -1).max(dim=2)  # conflicts: the larger IoU
    assigned = _take_ignored(torch.where(best >= 0, box, _BACKGROUND), overlaps, counted, crowd)
    # Within each box, the best alignment becomes the largest IoU.
    own = assigned[..., None] == torch.arange(gt_boxes.shape[1], device=scores.device)
    largest_alignment, largest_iou = (torch.where(own, t, 0).amax(dim=1) for t in (alignment, overlaps))
    row = assigned.clamp(min=0)
    targets = (
        alignment.gather(2, row[..., None])[..., 0] * largest_iou.gather(1, row) / largest_alignment.gather(1, row)
    )
    return assigned, torch.where(assigned >= 0, targets, 0)


@torch.no_grad()
def assignment_target(
    assigned: Tensor, gt_labels: Tensor, gt_boxes: Tensor, anchors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`tinyssd_ops.assignment_target`."""
    checks.check_assignment_target(assigned, gt_labels, gt_boxes, anchors)
    dtype = compute_dtype(gt_boxes=gt_boxes, **({} if anchors is None else {"anchors": anchors}))
    num_images, num_anchors = assigned.shape
    num_gt = gt_boxes.shape[1]
    matched = (assigned >= 0) & (assigned < num_gt)
    classes = torch.where(assigned == _IGNORED, -1, 0)
    targets = gt_boxes.new_zeros(num_images, num_anchors, 4, dtype=dtype)
    if num_gt > 0:
        row = torch.where(matched, assigned, 0)
        classes = torch.where(matched, gt_labels.to(torch.int64).gather(1, row) + 1, classes)
        boxes = gt_boxes.to(dtype).gather(1, row[..., None].expand(-1, -1, 4))
        wanted = boxes if anchors is None else box_ops.encode_boxes(anchors.to(dtype), boxes)
        targets = torch.where(matched[..., None], wanted, targets)
    mask = matched[..., None].expand(-1, -1, 4).to(dtype)
    return targets.flatten(1), mask.flatten(1), classes


def _scores_of(scores: Tensor, gt_labels: Tensor) -> tuple[Tensor, Tensor]:
    """The scores [B, A, G] of the boxes' classes, and which boxes [B, G] have a class that exists."""
    labels = gt_labels.to(torch.int64)
    known = (labels >= 0) & (labels < scores.shape[2])
    columns = torch.where(known, labels, 0)[:, None].expand(-1, scores.shape[1], -1)
    return scores.gather(2, columns), known


def _half_power(x: Tensor, power: float) -> Tensor:
    """x to a power that is a multiple of 0.5: one multiplication after the other, the square root last."""
    result = torch.ones_like(x)
    for _ in range(int(power)):
        result = result * x
    return result * _exact_sqrt(x) if int(2 * power) % 2 else result


def _exact_sqrt(x: Tensor) -> Tensor:
    """The square root as every backend has it; Torch's own may be off in the last bit.

    That of float32 is rounded correctly, by way of float64; for float64 two of Heron's steps refine it.
    """
    start = x.float().double().sqrt().float().to(x.dtype)
    if x.dtype == torch.float32:
        return start
    usable = (start > 0) & start.isfinite()
    root = torch.where(usable, start, 1)
    for _ in range(2):
        root = 0.5 * (root + x / root)
    return torch.where(usable, root, start)


def _contains(boxes: Tensor, points: Tensor) -> Tensor:
    """Whether points [..., 2] lie inside boxes [..., 4], not on an edge."""
    return ((points > boxes[..., :2]) & (points < boxes[..., 2:])).all(dim=-1)


def _rank(values: Tensor) -> Tensor:
    """The place of each anchor in each box's order of values [B, A, G]: rising, equal ones by index."""
    return values.argsort(dim=1, stable=True).argsort(dim=1)


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
