"""Every op in plain Torch: the specification of the kernels, and what runs where there are none.

The functions have the signatures, results and errors of :mod:`tinyssd_ops.ops`, which documents them; integer results
are identical to the kernels', bit for bit. They run on any device, and unlike the kernels they may wait for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tinyssd_ops import _autograd, _checks, _iou
from tinyssd_ops import boxes as box_ops

# Ranked boxes resolved against each other at once: bounds the IoU matrix in memory to [B, _TILE, N].
_TILE = 64

# Below the rank of every score as an integer.
_LOWEST = -(2**63)

# Keeps the conversion of a wild label to an integer defined.
_LARGEST_CLASS = 2**31


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """See :func:`tinyssd_ops.box_iou`."""
    _checks.check_box_iou(boxes1, boxes2)
    dtype = _checks.compute_dtype(boxes1=boxes1, boxes2=boxes2)
    return _autograd.ReferenceFamily.apply(boxes1.to(dtype), boxes2.to(dtype), *_iou.Family())  # type: ignore[no-any-return]


def iou_pairs(boxes1: Tensor, boxes2: Tensor, kind: int, aligned: bool, union_eps: float, eps: float) -> Tensor:
    """See :func:`tinyssd_ops.iou_pairs`, whose ``kind`` is here its place in the family, as for the kernels."""
    _checks.check_iou_pairs(boxes1, boxes2, kind, aligned, union_eps, eps)
    dtype = _checks.compute_dtype(boxes1=boxes1, boxes2=boxes2)
    family = _iou.Family(kind, aligned, union_eps, eps)
    return _autograd.ReferenceFamily.apply(boxes1.to(dtype), boxes2.to(dtype), *family)  # type: ignore[no-any-return]


@torch.no_grad()
def assign_anchors(
    anchors: Tensor, gt_boxes: Tensor, gt_valid: Tensor | None = None, iou_threshold: float = 0.5
) -> Tensor:
    """See :func:`tinyssd_ops.assign_anchors`."""
    _checks.check_assign_anchors(anchors, gt_boxes, gt_valid, iou_threshold)
    if gt_boxes.dim() == 2:
        valid = None if gt_valid is None else gt_valid[None]
        return assign_anchors(anchors, gt_boxes[None], valid, iou_threshold)[0]
    num_images, num_gt, num_anchors = gt_boxes.shape[0], gt_boxes.shape[1], anchors.shape[0]
    if num_gt == 0 or num_anchors == 0:
        return anchors.new_full((num_images, num_anchors), -1, dtype=torch.int64)
    iou = box_iou(anchors, gt_boxes)  # [B, A, G]
    if gt_valid is not None:
        iou = iou.masked_fill(~gt_valid[:, None, :], -1)
    best_iou, best_gt = iou.max(dim=-1)
    matched = best_iou >= _narrow(iou_threshold, iou)
    assigned = torch.where(matched, best_gt, -1)
    anchor_index, gt_index = (torch.arange(size, device=iou.device) for size in (num_anchors, num_gt))
    for _ in range(min(num_anchors, num_gt)):
        # The largest IoU left; the first of equals is the lowest anchor, then the lowest box.
        value, flat = iou.flatten(1).max(dim=1, keepdim=True)
        anchor, gt = flat // num_gt, flat % num_gt
        taken, given = anchor_index == anchor, gt_index == gt
        assigned = torch.where(taken & (value >= 0), gt, assigned)
        iou = torch.where(taken[:, :, None] | given[:, None, :], -1, iou)
    return assigned


@torch.no_grad()
def multibox_target(anchors: Tensor, labels: Tensor, iou_threshold: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`tinyssd_ops.multibox_target`."""
    _checks.check_multibox_target(anchors, labels, iou_threshold)
    dtype = _checks.compute_dtype(anchors=anchors, labels=labels)
    anchors, labels = anchors.reshape(-1, 4).to(dtype), labels.to(dtype)
    num_images, num_gt = labels.shape[:2]
    gt_classes, gt_boxes = labels[..., 0], labels[..., 1:]
    assigned = assign_anchors(anchors, gt_boxes, gt_classes >= 0, iou_threshold)  # [B, A]
    matched = assigned >= 0
    if num_gt == 0:
        offsets = anchors.new_zeros(num_images, anchors.shape[0], 4)
        return offsets.flatten(1), offsets.flatten(1).clone(), matched.long()
    row = assigned.clamp(min=0)
    boxes = gt_boxes.gather(1, row[..., None].expand(-1, -1, 4))
    offsets = torch.where(matched[..., None], box_ops.encode_boxes(anchors, boxes), 0)
    mask = matched[..., None].expand(-1, -1, 4).to(dtype)
    classes = torch.where(matched, gt_classes.clamp(max=_LARGEST_CLASS).gather(1, row).long() + 1, 0)
    return offsets.flatten(1), mask.flatten(1), classes


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """See :func:`tinyssd_ops.nms`."""
    _checks.check_nms(boxes, scores, iou_threshold)
    keep, _ = nms_padded(boxes[None], scores[None], iou_threshold)
    return keep[keep >= 0]


@torch.no_grad()
def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """See :func:`tinyssd_ops.batched_nms`."""
    _checks.check_batched_nms(boxes, scores, idxs, iou_threshold)
    keep, _ = nms_padded(boxes[None], scores[None], iou_threshold, idxs[None])
    return keep[keep >= 0]


@torch.no_grad()
def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    class_ids: Tensor | None = None,
    score_threshold: float | None = None,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`tinyssd_ops.nms_padded`."""
    _checks.check_nms_padded(boxes, scores, iou_threshold, class_ids, score_threshold, max_output)
    dtype = _checks.compute_dtype(boxes=boxes, scores=scores)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    # Indexing wants int64; distinct ids stay distinct.
    class_ids = None if class_ids is None else class_ids.to(torch.int64)
    candidate = torch.ones_like(scores, dtype=torch.bool)
    if score_threshold is not None:
        candidate = scores >= _narrow(score_threshold, scores)
    order = _rank(scores, candidate)
    kept = _suppress(boxes, order, candidate, class_ids, iou_threshold)
    return _first(order, kept, boxes.shape[1] if max_output is None else max_output)


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    gaussian: bool = False,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    class_ids: Tensor | None = None,
    score_threshold: float | None = 0.001,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`tinyssd_ops.soft_nms`."""
    _checks.check_soft_nms(boxes, scores, iou_threshold, sigma, class_ids, score_threshold, max_output)
    dtype = _checks.compute_dtype(boxes=boxes, scores=scores)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    num_images, num_boxes = scores.shape
    most = num_boxes if max_output is None else max_output
    keep = boxes.new_full((num_images, most), -1, dtype=torch.int64)
    kept_scores, image = scores.new_zeros(num_images, most), torch.arange(num_images, device=boxes.device)
    left = torch.ones_like(scores, dtype=torch.bool)
    for k in range(min(num_boxes, most)):
        if score_threshold is not None:
            left = left & (scores >= _narrow(score_threshold, scores))
        chosen = torch.where(left, _integer_rank(scores), _LOWEST).max(dim=1).indices  # the first of equals
        there = left[image, chosen]
        keep[:, k] = torch.where(there, chosen, -1)
        kept_scores[:, k] = torch.where(there, scores[image, chosen], 0)
        left[image, chosen] = False
        iou = box_iou(boxes[image, chosen][:, None], boxes)[:, 0]
        if gaussian:
            decayed = scores * box_ops._exp(-(iou * iou) / _narrow(sigma, iou))
        else:
            decayed = torch.where(iou >= _narrow(iou_threshold, iou), scores * (1 - iou), scores)
        meets = there[:, None]
        if class_ids is not None:
            meets = meets & (class_ids == class_ids[image, chosen][:, None])
        scores = torch.where(meets, decayed, scores)
    return keep, kept_scores, (keep >= 0).sum(dim=1)


@torch.no_grad()
def multibox_detection(
    cls_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float = 0.5,
    pos_threshold: float = 0.01,
) -> Tensor:
    """See :func:`tinyssd_ops.multibox_detection`."""
    _checks.check_multibox_detection(cls_probs, offset_preds, anchors, nms_threshold, pos_threshold)
    probs, boxes = _decode(cls_probs, offset_preds, anchors)
    num_images, num_anchors = boxes.shape[:2]
    if num_anchors == 0:
        return boxes.new_zeros(num_images, 0, 6)
    confidence, classes = probs.max(dim=1)  # [B, A]
    foreground = classes > 0
    order = _rank(confidence, foreground)
    kept = _suppress(boxes, order, foreground, None, nms_threshold)  # [B, A], in the order of rank
    rank = order.argsort(dim=1)
    is_kept = kept.gather(1, rank)
    # Kept rows by rank, then suppressed ones by index, then background by index: three blocks of keys.
    index = torch.arange(num_anchors, device=order.device)
    tail = torch.where(foreground, index + num_anchors, index + 2 * num_anchors)
    rows = torch.where(is_kept, rank, tail).argsort(dim=1)
    classes = torch.where(is_kept, classes, 0)
    unsure = confidence < _narrow(pos_threshold, confidence)
    classes = torch.where(unsure, 0, classes)
    confidence = torch.where(unsure, 1 - confidence, confidence)
    output = torch.cat((classes[..., None].to(boxes.dtype), confidence[..., None], boxes), dim=-1)
    return output.gather(1, rows[..., None].expand(-1, -1, 6))


@torch.no_grad()
def detect(
    cls_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float = 0.5,
    score_threshold: float = 0.01,
    max_detections: int = 100,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """See :func:`tinyssd_ops.detect`."""
    _checks.check_detect(cls_probs, offset_preds, anchors, nms_threshold, score_threshold, max_detections)
    probs, boxes = _decode(cls_probs, offset_preds, anchors)
    num_classes, num_anchors = probs.shape[1:]
    if class_agnostic and num_classes > 1:
        scores, classes = probs[:, 1:].max(dim=1)  # [B, A]
        classes, box_index = classes + 1, torch.arange(num_anchors, device=probs.device)
    else:
        scores = probs[:, 1:].transpose(1, 2).flatten(1)  # [B, A * (C - 1)], the classes of an anchor side by side
        flat = torch.arange(scores.shape[1], device=probs.device)
        classes, box_index = (flat % max(num_classes - 1, 1) + 1).expand_as(scores), flat // max(num_classes - 1, 1)
    groups = None if class_agnostic else classes
    keep, counts = nms_padded(boxes[:, box_index], scores, nms_threshold, groups, score_threshold, max_detections)
    if scores.shape[1] == 0:
        return _padding(boxes, keep), counts
    picked = keep.clamp(min=0)
    columns = (classes.gather(1, picked).to(boxes.dtype), scores.gather(1, picked))
    corners = boxes.gather(1, box_index[picked][..., None].expand(-1, -1, 4))
    rows = torch.cat((torch.stack(columns, dim=-1), corners), dim=-1)
    return torch.where((keep >= 0)[..., None], rows, _padding(boxes, keep)), counts


def _narrow(threshold: float, like: Tensor) -> Tensor:
    return torch.full((), threshold, dtype=like.dtype, device=like.device)


def _decode(cls_probs: Tensor, offset_preds: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """The probabilities [B, C, A] and the boxes [B, A, 4], both in the dtype of the computation."""
    dtype = _checks.compute_dtype(cls_probs=cls_probs, offset_preds=offset_preds, anchors=anchors)
    offsets = offset_preds.to(dtype).reshape(cls_probs.shape[0], cls_probs.shape[2], 4)
    return cls_probs.to(dtype), box_ops.decode_boxes(anchors.reshape(-1, 4).to(dtype), offsets)


def _integer_rank(scores: Tensor) -> Tensor:
    """int64 that rise with the scores, -0 equal to 0, NaN below all: the bits of a float rise with what is above 0."""
    bits = (scores + 0.0).view(torch.int32 if scores.dtype == torch.float32 else torch.int64).long()
    below = torch.iinfo(torch.int32 if scores.dtype == torch.float32 else torch.int64).max
    return torch.where(scores.isnan(), _LOWEST + 1, torch.where(bits < 0, bits ^ below, bits))


def _rank(scores: Tensor, candidate: Tensor) -> Tensor:
    """Indices [B, N] by falling score, equal scores by index, NaN after all numbers, then what is no candidate."""
    nan = scores.isnan()
    order = torch.where(nan, -torch.inf, scores).argsort(dim=1, descending=True, stable=True)
    tier = torch.where(candidate, nan.to(torch.int8), 2)
    return order.gather(1, tier.gather(1, order).argsort(dim=1, stable=True))


def _suppress(boxes: Tensor, order: Tensor, candidate: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    """Which ranks [B, N] survive greedy suppression. ``order`` holds the candidates first."""
    kept = candidate.gather(1, order)
    if torch.onnx.is_in_onnx_export():
        return _suppress_in_onnx(boxes, order, kept, groups, iou_threshold)
    length = int(kept.sum(dim=1).max()) if kept.numel() > 0 else 0
    head, alive = order[:, :length], kept[:, :length]
    if groups is not None:
        # Group by group, so that a tile meets only the rest of its own groups.
        ids = groups.gather(1, head)
        by_group = ids.argsort(dim=1, stable=True)
        head, alive, ids = head.gather(1, by_group), alive.gather(1, by_group), ids.gather(1, by_group)
    ranked = boxes.gather(1, head[..., None].expand(-1, -1, 4))
    threshold = _narrow(iou_threshold, boxes)
    for start in range(0, length, _TILE):
        stop = min(start + _TILE, length)
        end = length if groups is None else int((ids <= ids[:, stop - 1 : stop]).sum(dim=1).max())
        overlap = (
            _iou.pairs(ranked[:, start:stop], ranked[:, start:end], _iou.Family()) > threshold
        )  # [B, T, end - start]
        if groups is not None:
            overlap &= ids[:, start:stop, None] == ids[:, None, start:end]
        within = overlap[..., : stop - start].triu(diagonal=1)
        # Within the tile, drop what the survivors suppress until nothing changes: at most one round a rank.
        keep = alive[:, start:stop]
        while True:
            survivors = alive[:, start:stop] & ~(within & keep[..., None]).any(dim=1)
            if torch.equal(survivors, keep):
                break
            keep = survivors
        alive[:, start:stop] = keep
        alive[:, stop:end] &= ~(overlap[..., stop - start :] & keep[..., None]).any(dim=1)
    kept[:, :length] = alive if groups is None else torch.empty_like(alive).scatter_(1, by_group, alive)
    return kept


def _suppress_in_onnx(
    boxes: Tensor, order: Tensor, candidate: Tensor, groups: Tensor | None, iou_threshold: float
) -> Tensor:
    """:func:`_suppress` by the operator of ONNX, which ranks by score: one that falls with the rank."""
    from tinyssd_ops.onnx import suppress

    ranked = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    score = -torch.arange(order.shape[1], dtype=torch.float32, device=order.device)  # Exact below 2**24 boxes.
    scores = torch.where(candidate, score, -torch.inf)
    ids = None if groups is None else groups.gather(1, order)
    return suppress(ranked, scores[:, None], iou_threshold, ids)[:, 0]


def _first(order: Tensor, kept: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first ``size`` kept indices of each row, padded with -1, and how many there are."""
    counts = kept.sum(dim=1).clamp(max=size)
    front = (~kept).to(torch.int8).argsort(dim=1, stable=True)[:, :size]
    keep = torch.where(kept.gather(1, front), order.gather(1, front), -1)
    return torch.nn.functional.pad(keep, (0, size - keep.shape[1]), value=-1), counts


def _padding(boxes: Tensor, keep: Tensor) -> Tensor:
    """Rows of ``detect`` that hold no detection: class -1, all else 0."""
    label = boxes.new_full((*keep.shape, 1), -1)
    return torch.nn.functional.pad(label, (0, 5))


# The assigners have a file of their own; it needs box_iou from here, so it is imported last.
from tinyssd_ops._reference_assigners import assign_atss as assign_atss  # noqa: E402
from tinyssd_ops._reference_assigners import assign_task_aligned as assign_task_aligned  # noqa: E402
from tinyssd_ops._reference_assigners import assign_threshold as assign_threshold  # noqa: E402
from tinyssd_ops._reference_assigners import assignment_target as assignment_target  # noqa: E402
from tinyssd_ops._reference_simota import assign_simota as assign_simota  # noqa: E402
