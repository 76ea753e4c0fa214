"""torchvision's box operators with torchvision's signatures, on the kernels of this package.

``from tinyssd_ops.torchvision import nms, batched_nms, box_iou`` in place of ``from torchvision.ops import ...``; or
:func:`patched`, for code that cannot be changed. For a model of torchvision's, :func:`replace_postprocessor` and
:func:`replace_matcher` do in one pass over the batch what it does picture by picture and class by class. torchvision
itself is needed by these three alone.

Results are torchvision's, float by float or to the last bits of a sum, but for what follows. Each line is a choice,
held by a test (``tests/test_torchvision.py``).

- **Order of equal scores**: always that of the indices. torchvision's ``batched_nms`` sorts more than 1,000 boxes
  again, in no stable order.
- **NaN**: a box with a NaN overlaps nothing, and its IoU is 0, not NaN; a NaN score ranks last, not first.
- **No union**: two boxes without area, or with inverted sides, have the IoU 0 where torchvision divides 0 by 0; so does
  each other term of the family whose denominator is not positive and finite.
- **Classes are compared as such**: ``batched_nms`` shifts no coordinates, where torchvision adds
  ``id * (largest coordinate + 1)`` and rounds, and lets boxes with negative coordinates reach into another class.
- **Half precision**: float16 and bfloat16 boxes are computed in float32, from the first difference on; and ``nms``
  takes them on the CPU too, and boxes and scores of two dtypes.
- **Integers**: computed in float64 and rounded once; torchvision's differences of uint8 and int16 boxes wrap around.
- **Formats**: ``box_iou`` turns other formats into corners first, so that areas and intersection are rounded alike.
- **NaN among the ids** of ``batched_nms`` is a class; torchvision keeps each such box, or none of more than 1,000.
- **Refused**: rotated formats; boxes of other than four numbers; quantized boxes, and those of bool, complex or 8-bit
  floats.
- **eps of** ``complete_box_iou_loss`` is used throughout; torchvision uses 1e-7 for all but ``alpha``, whatever it is.
- **Gradients at ties**: where boxes share an edge, each gets half of its slope; edges that touch count as overlapping;
  slopes are finite whatever the boxes are.
- **Threshold of the IoU**: one below 0 suppresses by the IoU 0 too, whatever the boxes; one above 1, or NaN, suppresses
  nothing.
- **Errors** are a ValueError or TypeError with a sentence in place of a RuntimeError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from tinyssd_ops import _checks, _torchvision_models, _torchvision_patch, ops

_FORMATS = ("xyxy", "xywh", "cxcywh")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """As ``torchvision.ops.nms``: [N, 4], [N] to int64 [K], the kept indices by falling score."""
    _checks.expect_tensor("boxes", boxes)
    _checks.expect_tensor("scores", scores)
    threshold = _threshold(iou_threshold, boxes, scores)
    if threshold < 0:
        _checks.check_nms(boxes, scores, 0.0)
        return ops.nms(boxes.new_tensor([0.0, 0, 1, 1]).expand(boxes.shape[0], 4), scores, 0.0)
    return ops.nms(boxes, scores, threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """As ``torchvision.ops.batched_nms``: :func:`nms` within each class. ``idxs`` [N] may be of any real dtype."""
    for name, tensor in (("boxes", boxes), ("scores", scores), ("idxs", idxs)):
        _checks.expect_tensor(name, tensor)
    threshold = _threshold(iou_threshold, boxes, scores)
    if boxes.shape == (0,):  # torchvision takes an empty list there
        boxes = boxes.reshape(0, 4)
    ids = _integer_ids(idxs).to(boxes.device)
    if threshold < 0:
        _checks.check_batched_nms(boxes, scores, ids, 0.0)
        return ops.batched_nms(boxes.new_tensor([0.0, 0, 1, 1]).expand(boxes.shape[0], 4), scores, ids, 0.0)
    return ops.batched_nms(boxes, scores, ids, threshold)


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """As ``torchvision.ops.box_area``: [..., 4] to [...], in at least 32 bits."""
    _expect_boxes("boxes", boxes)
    _expect_format("fmt", fmt)
    if boxes.dtype in (torch.float32, torch.float64, torch.int32, torch.int64):
        wide = boxes
    else:
        wide = boxes.float() if boxes.is_floating_point() else boxes.int()
    sides = wide[..., 2:] - wide[..., :2] if fmt == "xyxy" else wide[..., 2:]
    return sides[..., 0] * sides[..., 1]


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """As ``torchvision.ops.box_convert``, for xyxy, xywh and cxcywh: [..., 4] to a new [..., 4]."""
    _expect_boxes("boxes", boxes)
    _expect_format("in_fmt", in_fmt)
    _expect_format("out_fmt", out_fmt)
    if in_fmt == out_fmt:
        return boxes.clone()
    first, second = boxes[..., :2], boxes[..., 2:]
    if in_fmt == "xywh":
        second = first + second
    elif in_fmt == "cxcywh":
        first, second = first - 0.5 * second, first + 0.5 * second
    if out_fmt == "xywh":
        second = second - first
    elif out_fmt == "cxcywh":
        first, second = (first + second) / 2, second - first
    return torch.cat((first, second), dim=-1)


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """As ``torchvision.ops.clip_boxes_to_image``: boxes [..., 4] cut to a picture of ``(height, width)``."""
    _expect_boxes("boxes", boxes)
    height, width = size
    x, y = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack((x, y), dim=-1).flatten(-2)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """As ``torchvision.ops.remove_small_boxes``: the indices of the boxes whose sides reach ``min_size``."""
    _expect_boxes("boxes", boxes)
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides >= min_size).all(dim=-1))[0]


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """As ``torchvision.ops.box_iou``: [..., N, 4], [..., M, 4] to [..., N, M]."""
    _expect_format("fmt", fmt)
    return _family(boxes1, boxes2, "iou", fmt=fmt)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """As ``torchvision.ops.generalized_box_iou``: [..., N, 4], [..., M, 4] to [..., N, M]."""
    return _family(boxes1, boxes2, "giou")


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """As ``torchvision.ops.distance_box_iou``: [..., N, 4], [..., M, 4] to [..., N, M]."""
    return _family(boxes1, boxes2, "diou", eps)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """As ``torchvision.ops.complete_box_iou``: [..., N, 4], [..., M, 4] to [..., N, M]."""
    return _family(boxes1, boxes2, "ciou", eps)


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """As ``torchvision.ops.generalized_box_iou_loss``: 1 - GIoU of [..., 4] and [..., 4], row by row."""
    return _loss(boxes1, boxes2, "giou", reduction, eps)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """As ``torchvision.ops.distance_box_iou_loss``: 1 - DIoU of [..., 4] and [..., 4], row by row."""
    return _loss(boxes1, boxes2, "diou", reduction, eps)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """As ``torchvision.ops.complete_box_iou_loss``: 1 - CIoU of [..., 4] and [..., 4], row by row."""
    return _loss(boxes1, boxes2, "ciou", reduction, eps)


def patched() -> AbstractContextManager[None]:
    """``with patched():`` an unmodified torchvision model runs on the kernels of this package.

    Its detections are the same but for what this page lists; so are its losses, as long as no two proposals score the
    same: which of them a random sample takes then depends on their order.

    See :class:`tinyssd_ops._torchvision_patch.Patch` for what is replaced, and where.

    Raises:
        ImportError: If torchvision cannot be imported.
    """
    return _torchvision_patch.patched(_functions())


def patch() -> _torchvision_patch.Patch:
    """:func:`patched` for good, or until ``undo()`` of what it returns."""
    return _torchvision_patch.Patch(_functions())


def replace_postprocessor(model: Any) -> None:
    """Replaces the post-processor of torchvision's ``SSD`` or ``RetinaNet``: no loop over pictures and classes.

    The detections are torchvision's, those of equal scores in another order perhaps; a score may differ in the last
    bit. The settings (thresholds, counts) are those that the model has at the time of the call. A model to be scripted
    must keep its own. ``del model.postprocess_detections`` undoes it.

    Args:
        model: Changed in place.

    Raises:
        TypeError: For another model.
    """
    model.postprocess_detections = _torchvision_models.postprocessor(model)


def replace_matcher(model: Any) -> None:
    """Replaces the matching of torchvision's ``SSD`` or ``RetinaNet`` in training: all pictures at once.

    ``SSD.forward`` still makes an IoU matrix a picture, of which no more is made. For a loop of your own, what replaces
    it is ``matched_idxs = matcher(model)(anchors, targets)``. ``del model.compute_loss`` undoes it (and for an ``SSD``
    a ``proposal_matcher`` of torchvision's put back).

    Args:
        model: Changed in place.

    Raises:
        TypeError: For another model.
    """
    model.compute_loss = _torchvision_models.loss(model)
    if isinstance(model.compute_loss, _torchvision_models.SSDLoss):
        model.proposal_matcher = _torchvision_models.no_match


def matcher(model: Any) -> _torchvision_models.Matcher:
    """What :func:`replace_matcher` uses: a function of ``(anchors, targets)``, lists of a tensor or dict a picture.

    Returns the list of the pictures' matches, int64 [A]: as torchvision's ``Matcher`` and ``SSDMatcher`` of the model.
    """
    return _torchvision_models.matcher(model)


def _functions() -> dict[str, Callable[..., Tensor]]:
    """What takes the place of torchvision's functions. The rest of this page gains nothing."""
    replaced = (
        nms,
        batched_nms,
        box_iou,
        generalized_box_iou,
        distance_box_iou,
        complete_box_iou,
        generalized_box_iou_loss,
        distance_box_iou_loss,
        complete_box_iou_loss,
    )
    return {function.__name__: function for function in replaced}


def _family(boxes1: Tensor, boxes2: Tensor, kind: str, eps: float = 0.0, fmt: str = "xyxy") -> Tensor:
    one, two, result = _as_floats(boxes1, boxes2)
    eps = _number("eps", eps)
    if fmt != "xyxy":
        one, two = box_convert(one, fmt, "xyxy"), box_convert(two, fmt, "xyxy")
    one = one[None] if one.dim() == 1 else one  # torchvision takes a single box there
    found = ops.box_iou(one, two) if kind == "iou" else ops.iou_pairs(one, two, kind, eps=eps)
    return found.to(result)


def _loss(boxes1: Tensor, boxes2: Tensor, kind: str, reduction: str, eps: float) -> Tensor:
    known = ("none", "mean", "sum")
    _checks.expect(reduction in known, f"reduction: expected one of {', '.join(known)}, got {reduction!r}")
    one, two, _ = _as_floats(boxes1, boxes2)
    eps = _number("eps", eps)
    _checks.expect_number("eps", eps)
    loss = 1 - ops.iou_pairs(one, two, kind, aligned=True, eps=eps, union_eps=eps)
    if boxes1.dtype != torch.float64 and boxes2.dtype != torch.float64:
        loss = loss.float()
    if reduction == "mean" and loss.numel() > 0:
        return loss.mean()
    return loss if reduction == "none" else loss.sum()


def _as_floats(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Boxes of any real dtype as floats, and the dtype of torchvision's result."""
    for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        _expect_boxes(name, boxes)
    together = torch.promote_types(boxes1.dtype, boxes2.dtype)
    if not together.is_floating_point:
        return boxes1.double(), boxes2.double(), torch.get_default_dtype()
    dtype = torch.promote_types(together, torch.float32)
    return (
        boxes1 if boxes1.is_floating_point() else boxes1.to(dtype),
        boxes2 if boxes2.is_floating_point() else boxes2.to(dtype),
        dtype,
    )


def _threshold(value: float | Tensor, boxes: Tensor, scores: Tensor) -> float:
    """A threshold in 0..1 with the outcome of this one, or one below 0, which suppresses all boxes but the first.

    torchvision compares in float64; for a float32 IoU that is a comparison with the float32 at or below the threshold.
    """
    value = _number("iou_threshold", value)
    if not value < 1:
        return 1.0  # also NaN
    if value < 0 or torch.float64 in (boxes.dtype, scores.dtype):
        return value
    _, exponent = math.frexp(value)
    unit = max(exponent - 24, -149)  # of the last bit of a float32
    return math.ldexp(math.floor(math.ldexp(value, -unit)), unit)


def _number(name: str, value: float | Tensor) -> float:
    """The value; torchvision takes a tensor of one number too."""
    return _checks.number(name, value.item() if isinstance(value, Tensor) and value.numel() == 1 else value)


def _integer_ids(idxs: Tensor) -> Tensor:
    """Ids that are equal where these are."""
    if idxs.dtype == torch.bool:
        return idxs.to(torch.uint8)
    if not idxs.is_floating_point():
        return idxs
    if idxs.element_size() == 1:
        idxs = idxs.float()
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[idxs.element_size()]
    return (idxs + 0.0).contiguous().view(bits)  # -0.0 and 0.0 are one class


def _expect_boxes(name: str, boxes: Tensor) -> None:
    _checks.expect_shape(name, boxes, [..., 4])
    good = boxes.dtype != torch.bool and not boxes.is_complex()
    good = good and not (boxes.is_floating_point() and boxes.element_size() == 1)
    _checks.expect(good, f"{name}: expected floats or integers, got {boxes.dtype}")


def _expect_format(name: str, fmt: str) -> None:
    _checks.expect(fmt in _FORMATS, f"{name}: expected one of {', '.join(_FORMATS)}, got {fmt!r}")
