"""The IoU family in plain Torch: values, slopes and gradients, in step with csrc/iou.h, operation by operation.

Terms and rules are stated there. The gradients are written out, not left to autograd: their values at ties and for
degenerate boxes are a rule of this library, whatever torch's version does; and they are made of differentiable
operations, so that they have derivatives of their own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

KINDS = ("iou", "giou", "diou", "ciou")
_ANGLE_SCALE = 4 / math.pi**2
_STEEPEST = {torch.float32: 2.0**96, torch.float64: 2.0**992}
_LANES = 32


class Family(NamedTuple):
    """Which of the family: the kind, as its place in ``KINDS``, pairwise or row by row, and what is added to the union
    and to the other denominators.
    """

    kind: int = 0
    aligned: bool = False
    union_eps: float = 0.0
    eps: float = 0.0


class _Terms(NamedTuple):
    """What value and slopes have in common, each [...] or, with an axis last, [..., 2]."""

    raw: Tensor  # the intersection's sides, negative where the boxes are apart, [..., 2]
    sides: Tensor  # the same, at least 0
    area: Tensor  # of box a
    divisor: Tensor  # of the IoU; 1 where it has none
    has_iou: Tensor
    iou: Tensor
    raw_hull: Tensor  # the sides of the smallest box around both, [..., 2]
    hull: Tensor
    denominator: Tensor  # of the penalty; 1 where it has none
    has_penalty: Tensor
    penalty: Tensor
    distance: Tensor  # from centre to centre, [..., 2]
    turn: Tensor
    weight: Tensor


def area(boxes: Tensor) -> Tensor:
    """[..., 4] to [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def value(a: Tensor, b: Tensor, family: Family) -> Tensor:
    """The family's value of boxes [..., 4] of one dtype, broadcast against each other."""
    terms = _terms(a, b, family)
    result = terms.iou if family.kind == 0 else terms.iou - terms.penalty
    return result - terms.weight * (_ANGLE_SCALE * (terms.turn * terms.turn)) if family.kind == 3 else result


def pairs(boxes1: Tensor, boxes2: Tensor, family: Family) -> Tensor:
    """The values of [..., N, 4] and [..., M, 4]: [..., N, M]; aligned, of [..., 4] and [..., 4]: [...]."""
    return value(*_spread(boxes1, boxes2, family), family)


def slopes(a: Tensor, b: Tensor, family: Family) -> Tensor:
    """How the value grows with each edge of ``a``: [..., 4]."""
    t = _terms(a, b, family)
    low_a, high_a, low_b, high_b = a[..., :2], a[..., 2:], b[..., :2], b[..., 2:]
    inter = torch.where(t.raw >= 0, t.sides.flip(-1), 0)  # the other axis's side
    own_side = (high_a - low_a).flip(-1)
    grown = _ends(-_share(low_a, low_b) * inter, _share(high_b, high_a) * inter)
    own = _ends(-own_side, own_side)
    iou, divisor, has_iou = t.iou[..., None], t.divisor[..., None], t.has_iou[..., None]
    slope = torch.where(has_iou, (grown * (1 + iou) - own * iou) / divisor, 0)
    if family.kind > 0:
        there = torch.where(t.raw_hull >= 0, torch.ones_like(t.raw_hull), 0)
        hull = _ends(-_share(low_b, low_a) * there, _share(high_a, high_b) * there)
        penalty, denominator = t.penalty[..., None], t.denominator[..., None]
        if family.kind == 1:
            by_penalty = (hull * _twice(t.hull.flip(-1)) * (1 - penalty) - (own - grown)) / denominator
        else:
            by_penalty = (_twice(t.distance) - penalty * (2 * _twice(t.hull) * hull)) / denominator
        slope = slope - torch.where(t.has_penalty[..., None], by_penalty, 0)
    if family.kind == 3:
        slope = slope - (t.weight * ((2 * _ANGLE_SCALE) * t.turn))[..., None] * _turning(a)
    steepest = _STEEPEST[slope.dtype]
    cut = torch.where(slope > steepest, steepest, torch.where(slope < -steepest, -steepest, slope))
    return torch.where(slope == slope, cut, 0)


def tangent(
    boxes1: Tensor, boxes2: Tensor, moved1: Tensor | None, moved2: Tensor | None, family: Family
) -> Tensor | None:
    """How the values of :func:`pairs` change as the boxes move: the derivative of forward mode."""
    a, b = _spread(boxes1, boxes2, family)
    parts = []
    for one, two, moved, dim in ((a, b, moved1, -2), (b, a, moved2, -3)):
        if moved is not None:
            move = moved if family.aligned else moved.unsqueeze(dim)
            parts.append((slopes(one, two, family) * move).sum(-1))
    return sum(parts[1:], parts[0]) if parts else None


def gradient(grad: Tensor, boxes1: Tensor, boxes2: Tensor, family: Family) -> tuple[Tensor, Tensor]:
    """The gradients of the boxes from that of the values, in the order of sums that csrc/iou.h states.

    While autograd watches, the sums are torch's, of the same terms in another order.
    """
    a, b = _spread(boxes1, boxes2, family)
    terms1, terms2 = grad[..., None] * slopes(a, b, family), grad[..., None] * slopes(b, a, family)
    if family.aligned:
        return terms1, terms2
    return _sum(terms1.transpose(-2, -3)), _sum(terms2)


def _spread(boxes1: Tensor, boxes2: Tensor, family: Family) -> tuple[Tensor, Tensor]:
    return (boxes1, boxes2) if family.aligned else (boxes1[..., :, None, :], boxes2[..., None, :, :])


def _terms(a: Tensor, b: Tensor, family: Family) -> _Terms:
    raw = _smaller(a[..., 2:], b[..., 2:]) - _larger(a[..., :2], b[..., :2])
    sides = torch.where(raw > 0, raw, 0)
    inter = sides[..., 0] * sides[..., 1]
    own_area = area(a)
    united = own_area + area(b) - inter
    has_iou, divisor, iou = _ratio(inter, united + family.union_eps)
    none = raw.new_zeros(())
    if family.kind == 0:
        return _Terms(raw, sides, own_area, divisor, has_iou, iou, *[none] * 8)
    raw_hull = _larger(a[..., 2:], b[..., 2:]) - _smaller(a[..., :2], b[..., :2])
    hull = torch.where(raw_hull > 0, raw_hull, 0)
    distance = (a[..., :2] + a[..., 2:]) / 2 - (b[..., :2] + b[..., 2:]) / 2
    if family.kind == 1:
        hull_area = hull[..., 0] * hull[..., 1]
        has_penalty, denominator, penalty = _ratio(hull_area - united, hull_area + family.eps)
    else:
        square = distance * distance
        diagonal = hull * hull
        has_penalty, denominator, penalty = _ratio(
            square[..., 0] + square[..., 1], diagonal[..., 0] + diagonal[..., 1] + family.eps
        )
    turn = weight = none
    if family.kind == 3:
        turn = _angle(a) - _angle(b)
        turn = torch.where(turn.isfinite(), turn, 0)
        v = _ANGLE_SCALE * (turn * turn)
        rest = 1 - iou + v + family.eps
        weight = torch.where(rest != 0, v / torch.where(rest != 0, rest, 1), 0).detach()
    return _Terms(
        raw, sides, own_area, divisor, has_iou, iou, raw_hull, hull, denominator, has_penalty, penalty, distance, turn,
        weight,
    )  # fmt: skip


def _ratio(numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the ratio is defined, its denominator, or 1, and its value, or 0."""
    defined = (denominator > 0) & denominator.isfinite() & numerator.isfinite()
    divisor = torch.where(defined, denominator, 1)
    return defined, divisor, torch.where(defined, numerator, 0) / divisor


def _angle(boxes: Tensor) -> Tensor:
    """The angle of the diagonal; in float64, so that its rounding to float32 is the same on every backend."""
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    empty = (w == 0) & (h == 0)
    w, h = torch.where(empty, 0, w), torch.where(empty, 1, h)
    ratio = (w / h).detach()
    # onnxruntime has no arc tangent in float64.
    angle = torch.atan(ratio if torch.onnx.is_in_onnx_export() else ratio.double()).to(boxes.dtype)
    # Its derivative is that of the arc tangent of two arguments, which is finite for flat boxes too.
    turned = torch.atan2(w, h)
    return angle + (turned - turned.detach())


def _turning(boxes: Tensor) -> Tensor:
    """How the angle of the diagonal grows with each edge: [..., 4]."""
    sides = boxes[..., 2:] - boxes[..., :2]
    w, h = sides[..., 0], sides[..., 1]
    square = w * w + h * h
    good = square > 0
    divisor = torch.where(good, square, 1)
    high = torch.stack((torch.where(good, h, 0) / divisor, torch.where(good, -w, 0) / divisor), dim=-1)
    return _ends(-high, high)


def _ends(low: Tensor, high: Tensor) -> Tensor:
    return torch.cat((low, high), dim=-1)


def _twice(x: Tensor) -> Tensor:
    return torch.cat((x, x), dim=-1)


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a > b, a, b)


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a < b, a, b)


def _share(upper: Tensor, lower: Tensor) -> Tensor:
    """1 where ``upper`` is above ``lower``, half at a tie, else 0."""
    return torch.where(upper > lower, 1.0, torch.where(upper == lower, 0.5, 0.0)).to(upper.dtype)


def _sum(terms: Tensor) -> Tensor:
    """[..., M, N, 4] to [..., N, 4]."""
    if torch.is_grad_enabled():
        return terms.sum(-3)
    size = terms.shape[-3]
    padded = torch.nn.functional.pad(terms, (0, 0, 0, 0, 0, -size % _LANES))
    chunks = padded.reshape(*terms.shape[:-3], padded.shape[-3] // _LANES, _LANES, *terms.shape[-2:]).unbind(-4)
    total = terms.new_zeros(*terms.shape[:-3], _LANES, *terms.shape[-2:])
    for chunk in chunks:
        total = total + chunk
    half = _LANES
    while half > 1:
        half //= 2
        total = total[..., :half, :, :] + total[..., half:, :, :]
    return total.squeeze(-3)
