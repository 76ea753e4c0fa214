"""Anchors, box formats, and the offsets that a detector regresses.

Boxes are ``(x1, y1, x2, y2)`` in any unit unless a name says otherwise. Everything here is plain Torch: it runs on any
device, differentiates and compiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tinyssd_ops import _checks

# exp(x) = 2**n * exp(r) with |r| <= ln(2) / 2. ln 2 is split in two so that n * _LN2_HIGH is exact; adding and taking
# away 1.5 * 2**(mantissa bits) rounds to the nearest integer. (Cody and Waite, "Software Manual for the Elementary
# Functions", 1980; the split is that of the Cephes library.) Keep in step with exp_exact in csrc/box.h.
_LOG2E = 1.4426950408889634
_LN2_SPLIT = {
    torch.float32: (0.693359375, -2.12194440e-4),
    torch.float64: (6.93145751953125e-1, 1.42860682030941723212e-6),
}
_ROUNDING_SHIFT = {torch.float32: 12582912.0, torch.float64: 6755399441055744.0}
_EXP_RANGE = {torch.float32: (-104.0, 89.0), torch.float64: (-746.0, 710.0)}
_EXP_DEGREE = {torch.float32: 7, torch.float64: 13}
_EXPONENT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


def multibox_prior(
    height: int,
    width: int,
    sizes: Sequence[float],
    ratios: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Anchors centred on every cell of a feature map, in units of the picture (0..1).

    A cell has S + R - 1 anchors: first ``(sizes[0], r)`` for every ratio ``r``, then ``(s, ratios[0])`` for the other
    sizes. An anchor of size ``s`` and ratio ``r`` has the width ``s * sqrt(r * H / W)`` and the height
    ``s * sqrt(W / (r * H))``. Computed in float64, rounded once.

    Args:
        height: H, rows of the feature map, at least 1.
        width: W, columns of the feature map, at least 1.
        sizes: S scales, each positive.
        ratios: R ratios of width to height, each positive.
        dtype: A floating-point dtype.
        device: Where the anchors are wanted; None is torch's default device.

    Returns:
        [1, H * W * (S + R - 1), 4], cells row by row.

    Raises:
        ValueError: If a size is not positive or a list is empty.

    Source: Liu et al., "SSD: Single Shot MultiBox Detector", 2016; the choice of S + R - 1 pairs is that of
    Zhang et al., "Dive into Deep Learning", section 14.4. The order is not theirs, nor that of MXNet's
    ``MultiBoxPrior``: in a cell they have ``(s, ratios[0])`` for every size first, then ``(sizes[0], r)`` for the other
    ratios. To use weights trained so, permute the anchors in the channels of the heads: anchor ``k`` here is their
    anchor ``order[k]``, with ``order = [0, *range(S, S + R - 1), *range(1, S)]``. And their anchors are
    ``s * H / W * sqrt(r)`` wide and ``s / sqrt(r)`` high, which is what the size ``s * sqrt(H / W)`` gives here: the
    same on a square map.
    """
    height, width = _checks.whole_number("height", height), _checks.whole_number("width", width)
    _checks.expect(height >= 1 and width >= 1, f"height, width: expected at least 1, got {height}, {width}")
    sizes, ratios = _checks.positive_numbers("sizes", sizes), _checks.positive_numbers("ratios", ratios)
    good = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    _checks.expect(good, f"dtype: expected a floating-point dtype, got {dtype}")
    shapes = [(sizes[0], r) for r in ratios] + [(s, ratios[0]) for s in sizes[1:]]
    # On the CPU, whatever the default device is.
    exact: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    half_w = torch.tensor([s * math.sqrt(r * height / width) / 2 for s, r in shapes], **exact)
    half_h = torch.tensor([s * math.sqrt(width / (r * height)) / 2 for s, r in shapes], **exact)
    cy = ((torch.arange(height, **exact) + 0.5) / height)[:, None, None]
    cx = ((torch.arange(width, **exact) + 0.5) / width)[None, :, None]
    corners = torch.broadcast_tensors(cx - half_w, cy - half_h, cx + half_w, cy + half_h)
    anchors = torch.stack(corners, dim=-1).reshape(1, -1, 4)
    return anchors.to(device=torch.get_default_device() if device is None else device, dtype=dtype)


def corner_to_center(boxes: Tensor) -> Tensor:
    """``(x1, y1, x2, y2)`` to ``(cx, cy, w, h)``, for [..., 4] of any unit."""
    low, high = _halves("boxes", boxes)
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def center_to_corner(boxes: Tensor) -> Tensor:
    """``(cx, cy, w, h)`` to ``(x1, y1, x2, y2)``, for [..., 4] of any unit."""
    center, size = _halves("boxes", boxes)
    return torch.cat((center - size * 0.5, center + size * 0.5), dim=-1)


def clip_boxes(boxes: Tensor, width: float = 1.0, height: float = 1.0) -> Tensor:
    """Boxes [..., 4] cut to the picture, ``0..width`` by ``0..height`` in the unit of the boxes."""
    low, high = _halves("boxes", boxes)
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        width, height = _checks.number("width", width), _checks.number("height", height)
    limit = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    return torch.cat((low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)), dim=-1)


def encode_boxes(
    anchors: Tensor, boxes: Tensor, center_scale: float = 10.0, size_scale: float = 5.0, eps: float = 1e-6
) -> Tensor:
    """The offsets that lead from anchors to boxes: what the detector learns to predict.

    ``center_scale * (c_box - c_anchor) / wh_anchor`` and ``size_scale * log(eps + wh_box / wh_anchor)``.

    Args:
        anchors: [..., 4], float; a width or height of 0 gives an infinite or undefined offset.
        boxes: [..., 4], float, broadcastable with the anchors.
        center_scale: Factor of the centre's offset; SSD's variance 0.1 is the scale 10.
        size_scale: Factor of the size's offset; SSD's variance 0.2 is the scale 5.
        eps: Keeps the logarithm of a box of no width finite.

    Returns:
        [..., 4]: ``(dx, dy, dw, dh)``, float32, or float64 if an input is float64.

    Raises:
        ValueError: If a last dimension is not 4 or a dtype is not floating-point.
    """
    dtype = _checks.compute_dtype(anchors=anchors, boxes=boxes)
    center_scale, size_scale = _checks.number("center_scale", center_scale), _checks.number("size_scale", size_scale)
    eps = _checks.number("eps", eps)
    anchor_center, anchor_size = corner_to_center(anchors.to(dtype)).split(2, dim=-1)
    center, size = corner_to_center(boxes.to(dtype)).split(2, dim=-1)
    # In float64, so that the logarithm rounded to float32 is the same on every backend.
    log_size = torch.log((eps + size / anchor_size).double()).to(dtype)
    return torch.cat((center_scale * (center - anchor_center) / anchor_size, size_scale * log_size), dim=-1)


def decode_boxes(
    anchors: Tensor,
    offsets: Tensor,
    center_scale: float = 10.0,
    size_scale: float = 5.0,
    max_growth: float = math.inf,
) -> Tensor:
    """The boxes that predicted offsets mean: the inverse of :func:`encode_boxes`, without its epsilon.

    ``c = d * wh_anchor / center_scale + c_anchor`` and ``wh = exp(d / size_scale) * wh_anchor``. The exponential is
    made of rounded additions and multiplications only, so that every backend returns the same bits.

    Args:
        anchors: [..., 4], float.
        offsets: [..., 4], float, broadcastable with the anchors.
        center_scale: As in :func:`encode_boxes`.
        size_scale: As in :func:`encode_boxes`.
        max_growth: The most that a box may be wider or higher than its anchor, above 0. Without a limit a wild offset
            gives an infinite box, which overlaps nothing; so do ``detect`` and ``multibox_detection``, which have no
            limit. torchvision's ``BoxCoder`` has the limit ``1000 / 16``.

    Returns:
        [..., 4] corners, float32, or float64 if an input is float64. Not clipped.

    Raises:
        ValueError: If a last dimension is not 4, a dtype is not floating-point or the limit not positive.
    """
    center_scale, size_scale = _checks.number("center_scale", center_scale), _checks.number("size_scale", size_scale)
    max_growth = _checks.number("max_growth", max_growth)
    _checks.expect(max_growth > 0, f"max_growth: expected a number above 0, got {max_growth:g}")
    dtype = _checks.compute_dtype(anchors=anchors, offsets=offsets)
    anchor_center, anchor_size = corner_to_center(anchors.to(dtype)).split(2, dim=-1)
    d_center, d_size = _halves("offsets", offsets.to(dtype))
    center = _divide(d_center * anchor_size, center_scale) + anchor_center
    growth = _divide(d_size, size_scale)
    if max_growth < math.inf:
        growth = growth.clamp(max=math.log(max_growth))
    size = _exp(growth) * anchor_size
    return center_to_corner(torch.cat((center, size), dim=-1))


def _halves(name: str, boxes: Tensor) -> tuple[Tensor, Tensor]:
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _checks.expect_shape(name, boxes, [..., 4])
    low, high = boxes.split(2, dim=-1)
    return low, high


def _divide(x: Tensor, divisor: float) -> Tensor:
    """x / divisor, rounded once. On CUDA, Torch would multiply by the reciprocal of a Python number."""
    return x / torch.full((), divisor, dtype=x.dtype, device=x.device)


def _exp(x: Tensor) -> Tensor:
    """exp(x) for float32 or float64 from basic operations alone; differentiable, NaN stays NaN."""
    int_dtype = _EXPONENT[x.dtype][0]
    high, low = _LN2_SPLIT[x.dtype]
    shift = _ROUNDING_SHIFT[x.dtype]
    x = x.clamp(*_EXP_RANGE[x.dtype])
    shifted = x.detach() * _LOG2E + shift
    n = shifted - shift
    r = (x - n * high) - n * low
    result = torch.full_like(r, 1 / math.factorial(_EXP_DEGREE[x.dtype]))
    for k in range(_EXP_DEGREE[x.dtype] - 1, -1, -1):
        result = result * r + 1 / math.factorial(k)
    # 2**n in two steps: the first product is exact, so a result that underflows is rounded once.
    exponent = torch.where(n == n, n, 0).to(int_dtype)
    first = exponent >> 1
    for part in (first, exponent - first):
        result = result * _power_of_two(part, x.dtype)
    return result


def _power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2**exponent, of a normal number."""
    if torch.onnx.is_in_onnx_export():  # Its operators cannot reinterpret bits.
        return torch.exp2(exponent.to(dtype))
    _, mantissa_bits, bias = _EXPONENT[dtype]
    return ((exponent + bias) << mantissa_bits).view(dtype)
