"""Argument checks of the Torch reference and the fake kernels: the same sentences as csrc/checks.h."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Iterable, Sequence
from types import EllipsisType

import torch
from torch import Tensor

Size = int | str | EllipsisType
_MOST = 2**31 - 1
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def expect(condition: bool, message: str) -> None:
    """Raises a ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def expect_shape(name: str, tensor: Tensor, shape: Sequence[Size]) -> None:
    """The tensor has this shape: a number is a size, a word any size, a leading ``...`` any sizes."""
    expect_tensor(name, tensor)
    sizes = list(tensor.shape)
    tail = [s for s in shape if s is not ...]
    fits = len(sizes) >= len(tail) if len(tail) < len(shape) else len(sizes) == len(tail)
    # zip over the reversed sizes leaves out what the ellipsis stands for.
    fits = fits and all(isinstance(w, str) or s == w for s, w in zip(sizes[::-1], tail[::-1], strict=False))
    if not fits:
        wanted = ", ".join("..." if s is ... else str(s) for s in shape)
        raise ValueError(f"{name}: expected shape [{wanted}], got {sizes}")


def _kind(value: object) -> str:
    """The type of a value, with its module where there is one: numpy.bool is no bool."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def expect_tensor(name: str, value: object) -> None:
    """The value is an ordinary tensor: not sparse, nested or quantized."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {_kind(value)}")
    if value.layout is not torch.strided or value.is_nested or value.is_quantized:
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else str(value.layout)
        raise TypeError(f"{name}: expected an ordinary, dense tensor, got a {kind} one")


def number(name: str, value: object) -> float:
    """The value, a real number of any type that fits a float64, as Torch's dispatcher takes it."""
    if type(value) is float or isinstance(value, (torch.SymInt, torch.SymFloat)):
        return value  # type: ignore[return-value]
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {_kind(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number, got one beyond float64") from None


def whole_number(name: str, value: object) -> int:
    """The value, a whole number of any type, as Torch's dispatcher takes it."""
    if type(value) is int or isinstance(value, torch.SymInt):
        whole = value
    elif isinstance(value, numbers.Integral):
        whole = int(value)
    else:
        raise TypeError(f"{name}: expected a whole number, got {_kind(value)}")
    if type(whole) is int and not -(2**63) <= whole < 2**63:
        raise ValueError(f"{name}: expected a number from 0 to {_MOST}, got one beyond int64")
    return whole  # type: ignore[return-value]


def whole_numbers(name: str, values: object) -> list[int]:
    """The values, a list of whole numbers of any type."""
    return [whole_number(name, value) for value in _items(name, values, "whole numbers")]


def positive_numbers(name: str, values: object) -> list[float]:
    """The values, a list of at least one number above 0."""
    found = [number(name, value) for value in _items(name, values, "positive numbers")]
    good = len(found) > 0 and all(0 < value < math.inf for value in found)
    expect(good, f"{name}: expected a list of positive numbers, got {found}")
    return found


def _items(name: str, values: object, kind: str) -> list[object]:
    # A tensor or an array without a dimension is iterable only by name.
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{name}: expected a list of {kind}, got {_kind(values)}")
    return list(values)


def flag(name: str, value: object) -> bool:
    """The value, a bool."""
    if not isinstance(value, (bool, torch.SymBool)):
        raise TypeError(f"{name}: expected True or False, got {_kind(value)}")
    return value  # type: ignore[return-value]


def expect_number(name: str, value: float) -> None:
    """The value is a number and not NaN."""
    value = number(name, value)
    expect(value == value, f"{name}: expected a number, got nan")


def expect_count(name: str, value: int) -> None:
    """The value is a whole number from 0 to what one output can hold."""
    value = whole_number(name, value)
    expect(0 <= value <= _MOST, f"{name}: expected a number from 0 to {_MOST}, got {value}")


def expect_threshold(name: str, value: float) -> None:
    """The value is a number in 0..1."""
    value = number(name, value)
    expect(0 <= value <= 1, f"{name}: expected a number between 0 and 1, got {float(value):g}")


def expect_integer(name: str, tensor: Tensor) -> None:
    """The tensor holds integers."""
    good = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    expect(good, f"{name}: expected an integer dtype, got {tensor.dtype}")


def expect_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """The tensor is on the device."""
    expect(tensor.device == device, f"{name}: expected device {device}, got {tensor.device}")


def compute_dtype(**tensors: Tensor) -> torch.dtype:
    """float64 if a tensor is float64, else float32; checks that all hold floats and share the first one's device."""
    for name, tensor in tensors.items():
        expect_tensor(name, tensor)
        expect(tensor.dtype in _FLOATS, f"{name}: expected a floating-point dtype, got {tensor.dtype}")
        expect_device(name, tensor, next(iter(tensors.values())).device)
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors.values()), torch.float32)


def check_box_iou(boxes1: Tensor, boxes2: Tensor) -> None:
    """Arguments of box_iou."""
    expect_shape("boxes1", boxes1, [..., "N", 4])
    expect_shape("boxes2", boxes2, [..., "M", 4])
    compute_dtype(boxes1=boxes1, boxes2=boxes2)
    batch1, batch2 = list(boxes1.shape[:-2]), list(boxes2.shape[:-2])
    pairs = zip(batch1[::-1], batch2[::-1], strict=False)
    good = all(a == b or a == 1 or b == 1 for a, b in pairs)
    expect(good, f"boxes1, boxes2: expected leading sizes that broadcast, got {batch1} and {batch2}")


def broadcast_boxes(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [..., 4] with equal leading sizes."""
    expect_shape("boxes1", boxes1, [..., 4])
    expect_shape("boxes2", boxes2, [..., 4])
    lead1, lead2 = list(boxes1.shape[:-1]), list(boxes2.shape[:-1])
    good = all(a == b or a == 1 or b == 1 for a, b in zip(lead1[::-1], lead2[::-1], strict=False))
    expect(good, f"boxes1, boxes2: expected leading sizes that broadcast, got {lead1} and {lead2}")
    one, two = torch.broadcast_tensors(boxes1, boxes2)
    return one, two


def check_iou_pairs(boxes1: Tensor, boxes2: Tensor, kind: int, aligned: bool, union_eps: float, eps: float) -> None:
    """Arguments of iou_pairs."""
    expect(0 <= kind <= 3, f"kind: expected a number from 0 to 3, got {kind}")
    expect_number("union_eps", union_eps)
    expect_number("eps", eps)
    if not aligned:
        check_box_iou(boxes1, boxes2)
        return
    expect_shape("boxes1", boxes1, [..., 4])
    expect_shape("boxes2", boxes2, [..., 4])
    expect_shape("boxes2", boxes2, list(boxes1.shape))
    compute_dtype(boxes1=boxes1, boxes2=boxes2)


def check_assign_anchors(anchors: Tensor, gt_boxes: Tensor, gt_valid: Tensor | None, iou_threshold: float) -> None:
    """Arguments of assign_anchors."""
    expect_shape("anchors", anchors, ["A", 4])
    expect_tensor("gt_boxes", gt_boxes)
    single = gt_boxes.dim() == 2
    expect_shape("gt_boxes", gt_boxes, ["G", 4] if single else ["B", "G", 4])
    compute_dtype(anchors=anchors, gt_boxes=gt_boxes)
    if gt_valid is not None:
        expect_tensor("gt_valid", gt_valid)
        expect(gt_valid.dtype == torch.bool, f"gt_valid: expected dtype torch.bool, got {gt_valid.dtype}")
        expect_shape("gt_valid", gt_valid, list(gt_boxes.shape[:-1]))
        expect_device("gt_valid", gt_valid, anchors.device)
    expect_threshold("iou_threshold", iou_threshold)


def check_multibox_target(anchors: Tensor, labels: Tensor, iou_threshold: float) -> None:
    """Arguments of multibox_target."""
    expect_tensor("anchors", anchors)
    expect_shape("anchors", anchors, ["A", 4] if anchors.dim() == 2 else [1, "A", 4])
    expect_shape("labels", labels, ["B", "G", 5])
    compute_dtype(anchors=anchors, labels=labels)
    expect_threshold("iou_threshold", iou_threshold)


def check_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> None:
    """Arguments of nms."""
    expect_shape("boxes", boxes, ["N", 4])
    expect_shape("scores", scores, [boxes.shape[0]])
    compute_dtype(boxes=boxes, scores=scores)
    expect_threshold("iou_threshold", iou_threshold)


def check_batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> None:
    """Arguments of batched_nms."""
    check_nms(boxes, scores, iou_threshold)
    expect_shape("idxs", idxs, [boxes.shape[0]])
    expect_integer("idxs", idxs)
    expect_device("idxs", idxs, boxes.device)


def check_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    class_ids: Tensor | None,
    score_threshold: float | None,
    max_output: int | None,
) -> None:
    """Arguments of nms_padded."""
    expect_shape("boxes", boxes, ["B", "N", 4])
    expect_shape("scores", scores, list(boxes.shape[:2]))
    compute_dtype(boxes=boxes, scores=scores)
    expect_threshold("iou_threshold", iou_threshold)
    if class_ids is not None:
        expect_shape("class_ids", class_ids, list(boxes.shape[:2]))
        expect_integer("class_ids", class_ids)
        expect_device("class_ids", class_ids, boxes.device)
    if score_threshold is not None:
        expect_number("score_threshold", score_threshold)
    if max_output is not None:
        expect_count("max_output", max_output)


def check_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    class_ids: Tensor | None,
    score_threshold: float | None,
    max_output: int | None,
) -> None:
    """Arguments of soft_nms."""
    check_nms_padded(boxes, scores, iou_threshold, class_ids, score_threshold, max_output)
    expect(sigma > 0, f"sigma: expected a number above 0, got {sigma:g}")


def check_multibox_detection(
    cls_probs: Tensor, offset_preds: Tensor, anchors: Tensor, nms_threshold: float, pos_threshold: float
) -> None:
    """Arguments of multibox_detection."""
    _check_predictions(cls_probs, offset_preds, anchors)
    expect_threshold("nms_threshold", nms_threshold)
    expect_number("pos_threshold", pos_threshold)


def check_detect(
    cls_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float,
    score_threshold: float,
    max_detections: int,
) -> None:
    """Arguments of detect."""
    _check_predictions(cls_probs, offset_preds, anchors)
    expect_threshold("nms_threshold", nms_threshold)
    expect_number("score_threshold", score_threshold)
    expect_count("max_detections", max_detections)


def _check_predictions(cls_probs: Tensor, offset_preds: Tensor, anchors: Tensor) -> None:
    expect_shape("cls_probs", cls_probs, ["B", "C", "A"])
    num_images, num_classes, num_anchors = cls_probs.shape
    expect(num_classes >= 1, "cls_probs: expected at least 1 class, the background, got 0")
    expect_shape("offset_preds", offset_preds, [num_images, 4 * num_anchors])
    expect_tensor("anchors", anchors)
    expect_shape("anchors", anchors, [num_anchors, 4] if anchors.dim() == 2 else [1, num_anchors, 4])
    compute_dtype(cls_probs=cls_probs, offset_preds=offset_preds, anchors=anchors)
