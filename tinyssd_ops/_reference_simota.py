"""assign_simota in plain Torch, part of :mod:`tinyssd_ops.reference`."""

from __future__ import annotations

import torch
from torch import Tensor

from tinyssd_ops import _assigner_checks as checks
from tinyssd_ops import boxes as box_ops
from tinyssd_ops import reference
from tinyssd_ops._checks import compute_dtype
from tinyssd_ops._reference_assigners import (
    _BACKGROUND,
    _contains,
    _counted_and_crowd,
    _scores_of,
    _sum_in_order,
    _take_ignored,
)

# The bits of sqrt(0.5), and the terms of the series of atanh. Keep in step with exact_log in csrc/simota.h.
_ROOT_HALF = {torch.float32: 0x3F3504F3, torch.float64: 0x3FE6A09E667F3BCD}
_TERMS = {torch.float32: 4, torch.float64: 10}


@torch.no_grad()
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
    """See :func:`tinyssd_ops.assign_simota`."""
    checks.check_assign_simota(scores, boxes, points, strides, gt_labels, gt_boxes, gt_valid, gt_ignored, radius, topk)
    dtype = compute_dtype(scores=scores, boxes=boxes, points=points, strides=strides, gt_boxes=gt_boxes)
    scores, boxes, points, strides, gt_boxes = (t.to(dtype) for t in (scores, boxes, points, strides, gt_boxes))
    if gt_boxes.shape[1] == 0 or points.shape[0] == 0:
        return scores.new_full(scores.shape[:2], _BACKGROUND, dtype=torch.int64), scores.new_zeros(scores.shape[:2])
    counted, crowd = _counted_and_crowd(gt_boxes, gt_valid, gt_ignored)
    overlaps = reference.box_iou(boxes, gt_boxes)  # [B, A, G]
    score, known = _scores_of(scores, gt_labels)
    counted_known = (counted & known)[:, None]
    in_box = _contains(gt_boxes[:, None], points[:, None])
    in_center = _near_center(gt_boxes[:, None], points[:, None], (radius * strides)[:, None, None])
    absent = torch.zeros_like(scores[..., 0])
    for column in scores.unbind(dim=2):
        absent = absent - _log(1 - column)
    foreground = ((in_box | in_center) & counted_known).any(dim=2) & ~absent.isnan()  # [B, A]
    allowed = foreground[..., None] & counted_known
    cost = absent[..., None] + (_log(1 - score) - _log(score)) - 3 * _log(overlaps + 1e-8)
    # Points outside the box or its centre come after all that are inside both.
    outside = ~(in_box & in_center)
    order = cost.argsort(dim=1, stable=True)
    for tier in (outside, ~allowed):
        order = order.gather(1, tier.gather(1, order).to(torch.int8).argsort(dim=1, stable=True))
    rank = order.argsort(dim=1)
    largest = torch.where(allowed, overlaps, 0).sort(dim=1, descending=True).values[:, :topk]
    count = _sum_in_order(largest).to(torch.int64).clamp(1, topk)  # [B, 1, G]
    chosen = allowed & (rank < count)
    # Conflicts: inside before outside, then the lower cost.
    inside_first = torch.where(chosen & ~outside, cost, torch.inf)
    any_inside = (chosen & ~outside).any(dim=2, keepdim=True)
    box = torch.where(any_inside, inside_first, torch.where(chosen, cost, torch.inf)).min(dim=2).indices
    assigned = torch.where(chosen.any(dim=2), box, _BACKGROUND)
    assigned = _take_ignored(assigned, overlaps, counted, crowd)
    iou = overlaps.gather(2, assigned.clamp(min=0)[..., None])[..., 0]
    return assigned, torch.where(assigned >= 0, iou, 0)


def _near_center(boxes: Tensor, points: Tensor, reach: Tensor) -> Tensor:
    """Whether points lie within reach of the boxes' centres, in x and in y."""
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    return ((points > center - reach) & (points < center + reach)).all(dim=-1)


def _log(x: Tensor) -> Tensor:
    """log(x), at least -100, from basic operations alone; -100 below the normal numbers, NaN stays NaN."""
    if torch.onnx.is_in_onnx_export():  # Its operators cannot take the bits of a number apart.
        return torch.where(x.isnan(), x, torch.where(x >= torch.finfo(x.dtype).tiny, x.log(), -100).clamp(min=-100))
    int_dtype, mantissa_bits, _ = box_ops._EXPONENT[x.dtype]
    high, low = box_ops._LN2_SPLIT[x.dtype]
    bits = x.contiguous().view(int_dtype)
    above = bits - _ROOT_HALF[x.dtype]
    m = (bits - (above & ~((1 << mantissa_bits) - 1))).view(x.dtype)
    k = (above >> mantissa_bits).to(x.dtype)
    s = (m - 1) / (m + 1)
    z = s * s
    series = torch.full_like(z, 2 / (2 * _TERMS[x.dtype] + 1))
    for term in range(_TERMS[x.dtype] - 1, 0, -1):
        series = series * z + 2 / (2 * term + 1)
    result = k * high + ((2 * s + s * (series * z)) + k * low)
    finite = torch.where(x >= torch.finfo(x.dtype).tiny, result, -100)
    return torch.where(x.isnan(), x, finite.clamp(min=-100))
