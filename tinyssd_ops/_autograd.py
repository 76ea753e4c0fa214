"""How the IoU family differentiates: one rule for the kernels and for the Torch reference.

The first derivative of a kernel is a kernel. While autograd watches the backward pass itself (``create_graph``,
``torch.func``), and in forward mode, it is the composition of :mod:`tinyssd_ops._iou`, which has derivatives of every
order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from tinyssd_ops import _iou
from tinyssd_ops._iou import Family

Gradient = Callable[[Tensor, Tensor, Tensor, Family], tuple[Tensor, Tensor]]


def backward(grad: Tensor, boxes1: Tensor, boxes2: Tensor, family: Family, kernel: Gradient) -> tuple[Tensor, Tensor]:
    """The gradients of the boxes, in their shapes and dtypes; ``kernel`` takes one leading size, or none if aligned."""
    own = 1 if family.aligned else 2
    if torch.is_grad_enabled():
        dtype = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
        grads = _iou.gradient(grad.to(dtype), boxes1.to(dtype), boxes2.to(dtype), family)
    else:
        batch = torch.broadcast_shapes(boxes1.shape[:-own], boxes2.shape[:-own])
        size = math.prod(batch)  # Size.numel() would make a graph's size a number
        full = [b.expand(*batch, *b.shape[-own:]).reshape(size, *b.shape[-own:]) for b in (boxes1, boxes2)]
        flat = kernel(grad.reshape(size, *grad.shape[len(batch) :]), full[0], full[1], family)
        grads = tuple(g.reshape(*batch, *g.shape[1:]) for g in flat)  # type: ignore[assignment]
    grad1, grad2 = (g.sum_to_size(b.shape).to(b.dtype) for g, b in zip(grads, (boxes1, boxes2), strict=True))
    return grad1, grad2


def _tangent(boxes1: Tensor, boxes2: Tensor, moves: tuple[Tensor | None, ...], family: Family) -> Tensor | None:
    # Forward mode is off while a jvp runs, but these may have tangents of an outer level; of this one, none.
    with forward_ad._set_fwd_grad_enabled(True):
        one, two = (forward_ad.unpack_dual(boxes, level=0).primal for boxes in (boxes1, boxes2))
        dtype = torch.promote_types(torch.promote_types(one.dtype, two.dtype), torch.float32)
        moved = [None if move is None else move.to(dtype) for move in moves]
        return _iou.tangent(one.to(dtype), two.to(dtype), moved[0], moved[1], family)


class ReferenceFamily(torch.autograd.Function):
    """:func:`tinyssd_ops._iou.pairs` with the gradient of this library; the family number by number, as torch.func
    takes tuples among the arguments apart.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(boxes1: Tensor, boxes2: Tensor, kind: int, aligned: bool, union_eps: float, eps: float) -> Tensor:
        """The values."""
        return _iou.pairs(boxes1, boxes2, Family(kind, aligned, union_eps, eps))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the boxes."""
        boxes1, boxes2, *family = inputs
        ctx.family = Family(*family)
        ctx.save_for_backward(boxes1, boxes2)
        ctx.save_for_forward(boxes1, boxes2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradients of the boxes."""
        boxes1, boxes2 = ctx.saved_tensors
        return (*backward(grad, boxes1, boxes2, ctx.family, _iou.gradient), *[None] * len(ctx.family))

    @staticmethod
    def jvp(ctx: Any, move1: Tensor | None, move2: Tensor | None, *_: None) -> Tensor | None:  # type: ignore[override]
        """The change of the values."""
        boxes1, boxes2 = ctx.saved_tensors
        return _tangent(boxes1, boxes2, (move1, move2), ctx.family)


class _KernelFamily(_SingleLevelFunction):
    """A kernel of the family under autograd, for one level of torch.func: the dispatcher comes by at every level."""

    @staticmethod
    def forward(ctx: Any, call: Any, kernel: Gradient, boxes1: Tensor, boxes2: Tensor, family: Family) -> Tensor:
        ctx.kernel, ctx.family = kernel, family
        ctx.save_for_backward(boxes1, boxes2)
        ctx.save_for_forward(boxes1, boxes2)
        # The levels below, if there are any, differentiate too.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
            return call(boxes1, boxes2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes1, boxes2 = ctx.saved_tensors
        return (None, None, *backward(grad, boxes1, boxes2, ctx.family, ctx.kernel), None)

    @staticmethod
    def jvp(ctx: Any, *moves: Any) -> Tensor | None:
        boxes1, boxes2 = ctx.saved_tensors
        return _tangent(boxes1, boxes2, moves[2:4], ctx.family)


def call(op: Callable[..., Tensor], boxes1: Tensor, boxes2: Tensor, *family: Any) -> Tensor:
    """An op of the family, past its rule where nothing differentiates: that takes a third of a small call."""
    if torch.compiler.is_compiling() or _is_differentiated(boxes1, boxes2):
        return op(boxes1, boxes2, *family)
    with torch._C._AutoDispatchBelowAutograd():
        return op(boxes1, boxes2, *family)


def register(library: torch.library.Library, ops: Any, constant: tuple[str, ...]) -> None:
    """Registers the rules of the family's ops, and that the ops ``constant`` have none: their results are constants to
    whatever differentiates around them.
    """

    def kernel(grad: Tensor, boxes1: Tensor, boxes2: Tensor, family: Family) -> tuple[Tensor, Tensor]:
        return ops.iou_pairs_backward(grad, boxes1, boxes2, *family)

    def run(call: Any, boxes1: Tensor, boxes2: Tensor, family: Family) -> Tensor:
        if _is_differentiated(boxes1, boxes2):
            with enable_single_level_autograd_function():
                return _KernelFamily.apply(call, kernel, boxes1, boxes2, family)  # type: ignore[attr-defined,no-any-return]
        with torch._C._AutoDispatchBelowAutograd():
            return call(boxes1, boxes2)

    def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        return run(ops.box_iou, boxes1, boxes2, Family())

    def iou_pairs(boxes1: Tensor, boxes2: Tensor, kind: int, aligned: bool, union_eps: float, eps: float) -> Tensor:
        family = Family(kind, aligned, union_eps, eps)
        return run(lambda one, two: ops.iou_pairs(one, two, *family), boxes1, boxes2, family)

    library.impl("box_iou", box_iou, "Autograd")
    library.impl("iou_pairs", iou_pairs, "Autograd")
    for name in constant:
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")


def _is_differentiated(boxes1: Tensor | None, boxes2: Tensor | None) -> bool:
    if boxes1 is None or boxes2 is None:
        return False  # The kernel's check has a sentence for it.
    if torch.is_grad_enabled() and (boxes1.requires_grad or boxes2.requires_grad):
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
