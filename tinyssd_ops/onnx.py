"""The ops in ONNX: what ``torch.onnx.export`` needs to know of them, in one argument.

::

    torch.onnx.export(model, args, "model.onnx", custom_translation_table=tinyssd_ops.onnx.translation_table())

Needs the packages onnx and onnxscript. The file holds operators of the standard alone, so whatever runs ONNX runs it.
Suppression goes through the standard's NonMaxSuppression, everything else through the Torch reference, operation by
operation. Measured on onnxruntime's CPU: the same bits as the kernels', but for what follows.

- NonMaxSuppression knows float32 alone: float64 boxes are rounded to it before they are compared.
- In ``detect``, boxes of one class with equal scores are taken in the order that the runtime chooses, which the
  standard leaves open; onnxruntime's CPU takes the lower index first, as the kernels do. ``nms``, ``batched_nms``,
  ``nms_padded`` and ``multibox_detection`` hand their own order over, so there the rule holds in every runtime.
- The arc tangent of CIoU and the logarithm in ``assign_simota``'s costs are the runtime's, so last bits may differ.

``soft_nms`` is not exported. Loops over ground-truth boxes are unrolled, so ``assign_anchors`` and ``multibox_target``
want their number fixed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tinyssd_ops import _iou, ops, reference

# Below every score that takes part.
_NEVER = float("-inf")
_LOWEST = torch.finfo(torch.float32).min
_SUPPRESS = "tinyssd_ops_onnx::suppress"

torch.library.define(_SUPPRESS, "(Tensor boxes, Tensor scores, float iou_threshold, Tensor? groups=None) -> Tensor")


def translation_table() -> dict[Any, Callable[..., Any]]:
    """The argument ``custom_translation_table`` of :func:`torch.onnx.export`, for a model that calls our ops.

    For as long as the table lives, torch also knows how the ops decompose, which the export asks where a translation is
    not in the table. Handed over as above it ends with the export, and whatever compiles afterwards is as it was.

    Raises:
        ModuleNotFoundError: If onnx or onnxscript is not installed.
    """
    import onnxscript  # noqa: F401  # So that what is missing is said here.

    table = _Table(
        {
            torch.ops.tinyssd_ops_onnx.suppress.default: _translate_suppress,
            torch.ops.aten.sort.stable: _translate_sort,
        }
    )
    table.decompositions = _decompositions()
    return table


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """Which boxes NonMaxSuppression keeps: a node of its own on the way to ONNX, with no kernel.

    Args:
        boxes: [B, N, 4].
        scores: [B, C, N]; boxes of a class suppress each other, and -inf marks one that takes no part.
        iou_threshold: 0..1.
        groups: int64 [B, N], boxes of different groups never suppress each other; only with C = 1.

    Returns:
        bool [B, C, N].
    """
    return torch.ops.tinyssd_ops_onnx.suppress(boxes, scores, iou_threshold, groups)  # type: ignore[no-any-return]


@torch.library.register_fake(_SUPPRESS)
def _fake_suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


class _Table(dict[Any, Callable[..., Any]]):
    decompositions: _Decompositions | None


class _Decompositions:
    """While it lives, torch knows how our ops decompose.

    torch has one table for the whole process, and others ask it too: with the variable CI set, Inductor compiles no op
    that is in it.
    """

    def __init__(self) -> None:
        own = {"box_iou": _box_iou, "iou_pairs": _iou_pairs, "detect": _detect, "soft_nms": _refuse_soft_nms}
        self.ops = []
        for name in ops._KERNELS:
            function: Any = own.get(name) or getattr(reference, name)
            self.ops.append(getattr(torch.ops.tinyssd_ops, name).default)
            torch._decomp.register_decomposition(self.ops[-1])(function)
            # Fake tensors would run what stands in the table in place of the op's own fake kernel, so that
            # torch.compile compiled anew for every size. They do not where there is an entry of this kind.
            torch._decomp.register_decomposition(self.ops[-1], type="meta")(function)

    def __del__(self) -> None:
        for kind in ("post_autograd", "meta"):
            for op in self.ops:
                torch._decomp.global_decomposition_table[kind].pop(op, None)


_shared: weakref.WeakValueDictionary[str, _Decompositions] = weakref.WeakValueDictionary()


def _decompositions() -> _Decompositions | None:
    """The one that lives, or a new one; None without kernels, where the reference runs and is exported as any Torch."""
    if not hasattr(torch.ops.tinyssd_ops, "box_iou"):
        return None
    found = _shared.get("one")
    if found is None:
        found = _shared["one"] = _Decompositions()
    return found


def _box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return _iou_pairs(boxes1, boxes2, 0, False, 0.0, 0.0)


def _iou_pairs(boxes1: Tensor, boxes2: Tensor, kind: int, aligned: bool, union_eps: float, eps: float) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
    return _iou.pairs(boxes1.to(dtype), boxes2.to(dtype), _iou.Family(kind, aligned, union_eps, eps))


def _detect(
    cls_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float = 0.5,
    score_threshold: float = 0.01,
    max_detections: int = 100,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """As the reference, but that the classes stay side by side for NonMaxSuppression, and TopK ranks what is left."""
    probs, boxes = reference._decode(cls_probs, offset_preds, anchors)
    scores = probs[:, 1:]
    if scores.shape[1] == 0 or scores.shape[2] == 0:
        return reference.detect(cls_probs, offset_preds, anchors, nms_threshold, score_threshold, max_detections)
    classes = torch.arange(1, probs.shape[1], dtype=boxes.dtype)[None, :, None].expand_as(scores)
    if class_agnostic:
        scores, best = scores.max(dim=1, keepdim=True)
        classes = best.to(boxes.dtype) + 1
    candidate = scores >= reference._narrow(score_threshold, scores)
    kept = suppress(boxes, torch.where(candidate, scores, _NEVER), nms_threshold)
    # By anchor, then class: TopK takes equals in this order.
    ranked = torch.where(kept, scores, _NEVER).transpose(1, 2).flatten(1)
    size = min(max_detections, ranked.shape[1])
    confidence, index = ranked.topk(size, dim=1)
    corners = boxes.gather(1, (index // scores.shape[1])[..., None].expand(-1, -1, 4))
    label = classes.transpose(1, 2).flatten(1).gather(1, index)
    rows = torch.cat((label[..., None], confidence[..., None], corners), dim=-1)
    rows = torch.where((confidence > _NEVER)[..., None], rows, reference._padding(boxes, index))
    padding = reference._padding(boxes, index[:, :1].expand(-1, max_detections - size))
    return torch.cat((rows, padding), dim=1), kept.flatten(1).sum(dim=1).clamp(max=size)


def _operators() -> Any:
    """Of the version that torch's own translations are written in; torch converts to the one that is wanted."""
    from onnxscript import opset18

    return opset18


def _refuse_soft_nms(*arguments: Any) -> Any:
    raise NotImplementedError("soft_nms: ONNX has no operator for it, and one round for each result would be too long")


def _translate_suppress(boxes: Any, scores: Any, iou_threshold: float, groups: Any = None) -> Any:
    """NonMaxSuppression lists what it keeps; here it is marked in the place of its score."""
    from onnx import TensorProto

    op = _operators()
    boxes, scores = (op.Cast(values, to=TensorProto.FLOAT) for values in (boxes, scores))
    if groups is not None:
        _, _, number, _ = op.Unique(op.Reshape(groups, op.Constant(value_ints=[-1])))
        column = op.Reshape(op.Range(0, op.ReduceMax(number, keepdims=0) + 1, 1), op.Constant(value_ints=[1, -1, 1]))
        number = op.Unsqueeze(op.Reshape(number, op.Shape(groups)), op.Constant(value_ints=[1]))
        scores = op.Where(op.Equal(number, column), scores, op.Constant(value_float=_NEVER))
    # An inverted box overlaps nothing here; the standard would turn it round. Without width it overlaps nothing there.
    axis, last = op.Constant(value_ints=[2]), op.Constant(value_ints=[4])
    low = op.Slice(boxes, op.Constant(value_ints=[0]), op.Constant(value_ints=[2]), axis)
    high = op.Slice(boxes, op.Constant(value_ints=[2]), last, axis)
    boxes = op.Concat(low, op.Max(low, high), axis=2)
    chosen = op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_int=2**31 - 1),
        op.Constant(value_float=float(iou_threshold)),
        op.Constant(value_float=_LOWEST),
    )
    nowhere = op.ConstantOfShape(op.Shape(scores))
    ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(chosen), [0], [1]))
    marks = op.ScatterND(nowhere, chosen, ones)
    if groups is not None:
        marks = op.ReduceMax(marks, op.Constant(value_ints=[1]), keepdims=1)
    return op.Cast(marks, to=TensorProto.BOOL)


def _translate_sort(values: Any, stable: bool = False, dim: int = -1, descending: bool = False) -> Any:
    """TopK takes equals by index, which is a stable sort."""
    import onnx_ir

    op = _operators()
    small = (onnx_ir.DataType.INT8, onnx_ir.DataType.UINT8, onnx_ir.DataType.BOOL, onnx_ir.DataType.INT16)
    keys = op.Cast(values, to=onnx_ir.DataType.INT32) if values.dtype in small else values
    size = op.Slice(op.Shape(values), [dim], [dim + 1] if dim != -1 else [2**31 - 1])
    ranked, order = op.TopK(keys, size, axis=dim, largest=int(descending), sorted=1)
    return (op.CastLike(ranked, values) if keys is not values else ranked), order
