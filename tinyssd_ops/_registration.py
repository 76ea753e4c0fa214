"""What PyTorch needs to know of the native ops beyond their kernels: fake kernels, vmap, and what has no gradient.

Fake kernels give the shapes and dtypes of results without data, for torch.compile and meta tensors; their checks are
the reference's. The kernels themselves compute half-precision inputs in float32, so autocast has nothing to add.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tinyssd_ops import _autograd, _checks, _fake_assigners

# Their results are constants to the model, float ones too.
_CONSTANT = (
    "iou_pairs_backward",
    "assign_anchors",
    "multibox_target",
    "nms",
    "batched_nms",
    "nms_padded",
    "soft_nms",
    "multibox_detection",
    "detect",
    "assign_threshold",
    "assign_atss",
    "assign_task_aligned",
    "assign_simota",
    "assignment_target",
)
_LIBRARIES: list[torch.library.Library] = []  # What is registered through one lasts as long as it does.


def register(namespace: str = "tinyssd_ops") -> None:
    """Registers all of it; once, after a library has defined the ops in the namespace."""
    ops = getattr(torch.ops, namespace)
    fakes: dict[str, Callable[..., Any]] = {
        "box_iou": _fake_box_iou,
        "iou_pairs": _fake_iou_pairs,
        "iou_pairs_backward": _fake_iou_pairs_backward,
        "assign_anchors": _fake_assign_anchors,
        "multibox_target": _fake_multibox_target,
        "nms": _fake_nms,
        "batched_nms": _fake_batched_nms,
        "nms_padded": _fake_nms_padded,
        "soft_nms": _fake_soft_nms,
        "multibox_detection": _fake_multibox_detection,
        "detect": _fake_detect,
        "assign_threshold": _fake_assigners.assign_threshold,
        "assign_atss": _fake_assigners.assign_atss,
        "assign_task_aligned": _fake_assigners.assign_task_aligned,
        "assign_simota": _fake_assigners.assign_simota,
        "assignment_target": _fake_assigners.assignment_target,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"{namespace}::{name}", fake)
    library = torch.library.Library(namespace, "IMPL")
    _LIBRARIES.append(library)
    _autograd.register(library, ops, _CONSTANT)
    rules: dict[str, Callable[..., Any]] = {
        "box_iou": functools.partial(_vmap_pairs, ops.box_iou),
        "iou_pairs": functools.partial(_vmap_pairs, ops.iou_pairs),
        "assign_anchors": functools.partial(_vmap_assign_anchors, ops.assign_anchors),
        "multibox_target": _vmap_images(ops.multibox_target, shared=0),
        "nms": _vmap_ragged,
        "batched_nms": _vmap_ragged,
        "nms_padded": _vmap_images(ops.nms_padded),
        "soft_nms": _vmap_images(ops.soft_nms),
        "multibox_detection": _vmap_images(ops.multibox_detection, shared=2),
        "detect": _vmap_images(ops.detect, shared=2),
        "assign_threshold": functools.partial(_vmap_assign_anchors, ops.assign_threshold),
        "assign_atss": functools.partial(_vmap_assign_anchors, ops.assign_atss, gt_boxes=2),
        "assign_task_aligned": _vmap_images(ops.assign_task_aligned, shared=2),
        "assign_simota": _vmap_images(ops.assign_simota, shared=(2, 3)),
        "assignment_target": _vmap_images(ops.assignment_target, shared=3),
    }
    for name, rule in rules.items():
        torch.library.register_vmap(f"{namespace}::{name}", rule)


def _fake_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    _checks.check_box_iou(boxes1, boxes2)
    batch = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
    dtype = _checks.compute_dtype(boxes1=boxes1, boxes2=boxes2)
    return boxes1.new_empty(*batch, boxes1.shape[-2], boxes2.shape[-2], dtype=dtype)


def _fake_iou_pairs(boxes1: Tensor, boxes2: Tensor, kind: int, aligned: bool, union_eps: float, eps: float) -> Tensor:
    _checks.check_iou_pairs(boxes1, boxes2, kind, aligned, union_eps, eps)
    if not aligned:
        return _fake_box_iou(boxes1, boxes2)
    return boxes1.new_empty(boxes1.shape[:-1], dtype=_checks.compute_dtype(boxes1=boxes1, boxes2=boxes2))


def _fake_iou_pairs_backward(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: int, aligned: bool, union_eps: float, eps: float
) -> tuple[Tensor, Tensor]:
    dtype = _checks.compute_dtype(boxes1=boxes1, boxes2=boxes2, grad=grad)
    return boxes1.new_empty(boxes1.shape, dtype=dtype), boxes2.new_empty(boxes2.shape, dtype=dtype)


def _fake_assign_anchors(
    anchors: Tensor, gt_boxes: Tensor, gt_valid: Tensor | None = None, iou_threshold: float = 0.5
) -> Tensor:
    _checks.check_assign_anchors(anchors, gt_boxes, gt_valid, iou_threshold)
    return anchors.new_empty(*gt_boxes.shape[:-2], anchors.shape[0], dtype=torch.int64)


def _fake_multibox_target(anchors: Tensor, labels: Tensor, iou_threshold: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    _checks.check_multibox_target(anchors, labels, iou_threshold)
    dtype = _checks.compute_dtype(anchors=anchors, labels=labels)
    num_images, num_anchors = labels.shape[0], anchors.shape[-2]
    offsets, mask = (anchors.new_empty(num_images, 4 * num_anchors, dtype=dtype) for _ in range(2))
    return offsets, mask, anchors.new_empty(num_images, num_anchors, dtype=torch.int64)


def _fake_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    _checks.check_nms(boxes, scores, iou_threshold)
    num_kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(num_kept, dtype=torch.int64)  # type: ignore[arg-type]


def _fake_batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    _checks.check_batched_nms(boxes, scores, idxs, iou_threshold)
    return _fake_nms(boxes, scores, iou_threshold)


def _fake_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    class_ids: Tensor | None = None,
    score_threshold: float | None = None,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    _checks.check_nms_padded(boxes, scores, iou_threshold, class_ids, score_threshold, max_output)
    size = boxes.shape[1] if max_output is None else max_output
    keep = boxes.new_empty(boxes.shape[0], size, dtype=torch.int64)
    return keep, boxes.new_empty(boxes.shape[0], dtype=torch.int64)


def _fake_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    gaussian: bool = False,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    class_ids: Tensor | None = None,
    score_threshold: float | None = 0.001,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    _checks.check_soft_nms(boxes, scores, iou_threshold, sigma, class_ids, score_threshold, max_output)
    keep, counts = _fake_nms_padded(boxes, scores, iou_threshold, class_ids, score_threshold, max_output)
    return keep, boxes.new_empty(keep.shape, dtype=_checks.compute_dtype(boxes=boxes, scores=scores)), counts


def _fake_multibox_detection(
    cls_probs: Tensor, offset_preds: Tensor, anchors: Tensor, nms_threshold: float = 0.5, pos_threshold: float = 0.01
) -> Tensor:
    _checks.check_multibox_detection(cls_probs, offset_preds, anchors, nms_threshold, pos_threshold)
    dtype = _checks.compute_dtype(cls_probs=cls_probs, offset_preds=offset_preds, anchors=anchors)
    return cls_probs.new_empty(cls_probs.shape[0], cls_probs.shape[2], 6, dtype=dtype)


def _fake_detect(
    cls_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float = 0.5,
    score_threshold: float = 0.01,
    max_detections: int = 100,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    _checks.check_detect(cls_probs, offset_preds, anchors, nms_threshold, score_threshold, max_detections)
    dtype = _checks.compute_dtype(cls_probs=cls_probs, offset_preds=offset_preds, anchors=anchors)
    rows = cls_probs.new_empty(cls_probs.shape[0], max_detections, 6, dtype=dtype)
    return rows, cls_probs.new_empty(cls_probs.shape[0], dtype=torch.int64)


def _in_front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The tensor with the mapped dimension in front, repeated if it was not mapped."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _mapped_in_front(boxes: tuple[Tensor, Tensor], in_dims: tuple[int | None, ...], size: int) -> list[Tensor]:
    """Both with the mapped dimension in front, and as many sizes behind it, so that those still broadcast."""
    fronts = [_in_front(b, dim, size) for b, dim in zip(boxes, in_dims, strict=False)]
    rank = max(front.dim() for front in fronts)
    return [front.reshape(front.shape[0], *[1] * (rank - front.dim()), *front.shape[1:]) for front in fronts]


def _vmap_pairs(
    op: Any, info: Any, in_dims: tuple[int | None, ...], boxes1: Tensor, boxes2: Tensor, *family: Any
) -> tuple[Tensor, int]:
    return op(*_mapped_in_front((boxes1, boxes2), in_dims, info.batch_size), *family), 0


def _vmap_images(op: Callable[..., Any], shared: int | tuple[int, ...] = ()) -> Callable[..., tuple[Any, Any]]:
    """A vmap rule for an op over images: the mapped dimension joins theirs.

    Where an argument ``shared`` by all images (the anchors) is mapped too, the op runs once for each.
    """
    common = (shared,) if isinstance(shared, int) else shared

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        one_by_one = any(in_dims[i] is not None for i in common if i < len(in_dims))
        batched = [
            _in_front(arg, dim, size) if isinstance(arg, Tensor) and (one_by_one or i not in common) else arg
            for i, (arg, dim) in enumerate(zip(args, in_dims, strict=False))
        ]
        batched += args[len(batched) :]
        fronts = {i for i, arg in enumerate(batched) if isinstance(arg, Tensor) and (one_by_one or i not in common)}
        if one_by_one and size == 0:
            pattern = op(*(arg.new_zeros(arg.shape[1:]) if i in fronts else arg for i, arg in enumerate(batched)))
            stacked = tree_map(lambda part: part.new_empty(0, *part.shape), pattern)
        elif one_by_one:
            results = [op(*(arg[k] if i in fronts else arg for i, arg in enumerate(batched))) for k in range(size)]
            stacked = tree_map(lambda *parts: torch.stack(parts), *results)
        else:
            merged = op(*(arg.flatten(0, 1) if i in fronts else arg for i, arg in enumerate(batched)))
            num_images = batched[min(fronts)].shape[1]
            stacked = tree_map(lambda part: part.unflatten(0, (size, num_images)), merged)
        return stacked, tree_map(lambda _: 0, stacked)

    return rule


def _vmap_ragged(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """No rule: the results would be of different sizes."""
    raise RuntimeError("vmap: the sizes of nms and batched_nms depend on their boxes; map nms_padded instead")


def _vmap_assign_anchors(
    op: Any, info: Any, in_dims: tuple[Any, ...], *args: Any, gt_boxes: int = 1
) -> tuple[Any, Any]:
    """The rule of an op of shared anchors; ``gt_boxes`` is the place of the boxes, of a batch or of one image."""
    rule = _vmap_images(op, shared=0)
    if args[gt_boxes].dim() - (in_dims[gt_boxes] is not None) == 3:
        return rule(info, in_dims, *args)
    # One image each: give every image list a batch of one, and take it off again.
    fronts = [
        _in_front(arg, dim, info.batch_size)[:, None] if isinstance(arg, Tensor) else arg
        for arg, dim in zip(args[1:], in_dims[1:], strict=False)
    ]
    dims = (in_dims[0], *(0 if isinstance(arg, Tensor) else None for arg in fronts))
    result, out_dim = rule(info, dims, args[0], *fronts)
    return result[:, 0], out_dim
