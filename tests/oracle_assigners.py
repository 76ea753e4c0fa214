"""Slow, plain loops for the assigners, written from the papers and from nothing else.

Numbers are NumPy scalars, so that every operation is rounded to the dtype on its own.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from oracle import _rows, iou
from torch import Tensor

Table = dict[tuple[int, int], Any]


def _split(num_gt: int, valid: Tensor | None, ignored: Tensor | None) -> tuple[list[int], list[int]]:
    """The boxes that anchors may learn, and those to be ignored."""
    there = [g for g in range(num_gt) if valid is None or bool(valid[g])]
    crowd = [g for g in there if ignored is not None and bool(ignored[g])]
    return [g for g in there if g not in crowd], crowd


def _first_best(keys: Iterable[int], value: Callable[[int], Any]) -> int:
    """The key of the largest value, the first of equals."""
    best = None
    for key in keys:
        if best is None or value(key) > value(best):
            best = key
    assert best is not None
    return best


def _ignore_crowds(assigned: list[int], table: Table, boxes: list[int], crowd: list[int]) -> Tensor:
    """COCO's habit: an anchor that overlaps a crowd most is neither an object nor background."""
    for a in range(len(assigned)):
        if crowd:
            best = _first_best(sorted(boxes + crowd), lambda g, a=a: table[a, g])
            if best in crowd and table[a, best] > 0:
                assigned[a] = -2
    return torch.tensor(assigned, dtype=torch.int64)


def assign_threshold(
    anchors: Tensor,
    gts: Tensor,
    valid: Tensor | None,
    ignored: Tensor | None,
    high: float,
    low: float,
    low_quality: bool,
    every_box: bool,
) -> Tensor:
    """One image. Faster R-CNN, section 3.1.2, and SSD, section 2.2, with torchvision's reading of both."""
    a, g = _rows(anchors), _rows(gts)
    narrow = anchors.numpy().dtype.type
    boxes, crowd = _split(len(g), valid, ignored)
    table = {(i, j): iou(a[i], g[j]) for i in range(len(a)) for j in boxes + crowd}
    result = [-1] * len(a)
    if boxes and a:
        best = [_first_best(boxes, lambda j, i=i: table[i, j]) for i in range(len(a))]
        for i, j in enumerate(best):
            result[i] = -1 if table[i, j] < narrow(low) else -2 if table[i, j] < narrow(high) else j
        for j in boxes:
            most = max(table[i, j] for i in range(len(a)))
            for i in range(len(a)):
                if low_quality and table[i, j] == most:
                    result[i] = best[i]
        for j in boxes:
            if every_box:
                result[_first_best(range(len(a)), lambda i, j=j: table[i, j])] = j
    return _ignore_crowds(result, table, boxes, crowd)


def _inside(point: list[Any], box: list[Any]) -> bool:
    return bool(box[0] < point[0] < box[2] and box[1] < point[1] < box[3])


def _power(x: Any, power: float) -> Any:
    """x to a multiple of 0.5, each multiplication rounded."""
    one = type(x)(1)
    with np.errstate(all="ignore"):
        result = math.prod([x] * int(power), start=one)
        return result * np.sqrt(x) if power % 1 else result


def assign_task_aligned(
    scores: Tensor,
    predicted: Tensor,
    points: Tensor,
    labels: Tensor,
    gts: Tensor,
    valid: Tensor | None,
    ignored: Tensor | None,
    topk: int,
    alpha: float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """One image. TOOD, section 3.2: alignment, the m best for each instance, and normalised targets."""
    s, b, p, g = _rows(scores), _rows(predicted), _rows(points), _rows(gts)
    boxes, crowd = _split(len(g), valid, ignored)
    table = {(i, j): iou(b[i], g[j]) for i in range(len(b)) for j in boxes + crowd}
    aligned, choosers = {}, {i: [] for i in range(len(b))}
    for j in boxes:
        for i in range(len(b)):
            if _inside(p[i], g[j]) and 0 <= labels[j] < scores.shape[1]:
                aligned[i, j] = _power(s[i][int(labels[j])], alpha) * _power(table[i, j], beta)
        ranked = sorted(
            (i for i in range(len(b)) if (i, j) in aligned and aligned[i, j] > 0), key=lambda i, j=j: -aligned[i, j]
        )
        for i in ranked[:topk]:
            choosers[i].append(j)
    result = [_first_best(choosers[i], lambda j, i=i: table[i, j]) if choosers[i] else -1 for i in range(len(b))]
    assigned = _ignore_crowds(result, table, boxes, crowd)
    targets = scores.new_zeros(len(b))
    for j in set(assigned.tolist()) - {-1, -2}:
        own = (assigned == j).nonzero()[:, 0].tolist()
        most, overlap = max(aligned[i, j] for i in own), max(table[i, j] for i in own)
        with np.errstate(all="ignore"):
            for i in own:
                targets[i] = torch.as_tensor(aligned[i, j] * overlap / most)
    return assigned, targets


def _sum(values: Iterable[float]) -> float:
    """One after the other; Python's own ``sum`` carries what rounding lost, from 3.12 on."""
    return functools.reduce(operator.add, values, 0.0)


def assign_atss(
    anchors: Tensor, level_sizes: list[int], gts: Tensor, valid: Tensor | None, ignored: Tensor | None, topk: int
) -> Tensor:
    """One image. ATSS, algorithm 1, with the authors' choices: the deviation of a sample, the centre within the box."""
    a, g = _rows(anchors), _rows(gts)
    two = anchors.numpy().dtype.type(2)
    boxes, crowd = _split(len(g), valid, ignored)
    table = {(i, j): iou(a[i], g[j]) for i in range(len(a)) for j in boxes + crowd}
    positive: dict[int, list[int]] = {i: [] for i in range(len(a))}
    with np.errstate(all="ignore"):
        centers = [((row[0] + row[2]) / two, (row[1] + row[3]) / two) for row in a]
        for j in boxes:
            x, y = (g[j][0] + g[j][2]) / two, (g[j][1] + g[j][3]) / two
            apart = [(cx - x) * (cx - x) + (cy - y) * (cy - y) for cx, cy in centers]
            apart = [math.inf if math.isnan(d) else d for d in apart]
            candidates: list[int] = []
            for level, size in enumerate(level_sizes):
                start = sum(level_sizes[:level])
                candidates += sorted(range(start, start + size), key=lambda i, d=apart: d[i])[:topk]
            overlaps = [float(table[i, j]) for i in candidates]
            mean = _sum(overlaps) / max(len(overlaps), 1)
            squares = _sum((v - mean) * (v - mean) for v in overlaps)
            deviation = math.sqrt(squares / (len(overlaps) - 1)) if len(overlaps) > 1 else 0.0
            for i, overlap in zip(candidates, overlaps, strict=True):
                if overlap - mean >= deviation and _inside(centers[i], g[j]):
                    positive[i].append(j)
    result = [_first_best(positive[i], lambda j, i=i: table[i, j]) if positive[i] else -1 for i in range(len(a))]
    return _ignore_crowds(result, table, boxes, crowd)


def _cross_entropy(scores: list[Any], label: int) -> float:
    """The binary cross entropy of probabilities against one class, summed; logarithms are at least -100."""
    log = lambda p: max(math.log(p), -100.0) if p >= 2.0**-126 else -100.0  # noqa: E731
    return -sum(log(float(p) if c == label else 1 - float(p)) for c, p in enumerate(scores))


class UndecidedError(Exception):
    """Two costs are so close that the rounding of the ops' logarithms may decide."""


def _expect_apart(one: tuple[bool, float], two: tuple[bool, float]) -> None:
    """Costs of one tier are the same, of the same numbers, or apart."""
    if one[0] == two[0] and 0 < abs(one[1] - two[1]) < 1e-4:
        raise UndecidedError


def assign_simota(
    scores: Tensor,
    predicted: Tensor,
    points: Tensor,
    strides: Tensor,
    labels: Tensor,
    gts: Tensor,
    valid: Tensor | None,
    ignored: Tensor | None,
    radius: float,
    topk: int,
) -> tuple[Tensor, Tensor]:
    """One image. YOLOX, section 2.1, with OTA's dynamic k. Costs are in float64, not rounded as the ops round them.

    Raises:
        UndecidedError: Where that may matter.
    """
    s, b, p, g = _rows(scores), _rows(predicted), _rows(points), _rows(gts)
    narrow = points.numpy().dtype.type
    boxes, crowd = _split(len(g), valid, ignored)
    table = {(i, j): iou(b[i], g[j]) for i in range(len(b)) for j in boxes + crowd}
    known = [j for j in boxes if 0 <= labels[j] < scores.shape[1]]
    inside, near = {}, {}
    for j in known:
        with np.errstate(all="ignore"):
            x, y = (g[j][0] + g[j][2]) / narrow(2), (g[j][1] + g[j][3]) / narrow(2)
            for i in range(len(b)):
                reach = narrow(radius) * strides[i].numpy()
                inside[i, j] = _inside(p[i], g[j])
                near[i, j] = _inside(p[i], [x - reach, y - reach, x + reach, y + reach])
    anchors = [i for i in range(len(b)) if any(inside[i, j] or near[i, j] for j in known)]
    takers: dict[int, dict[int, tuple[bool, float]]] = {i: {} for i in range(len(b))}
    for j in known:
        overlaps = sorted((table[i, j] for i in anchors), reverse=True)[:topk]
        count = min(max(int(sum(overlaps, start=narrow(0))), 1), topk)
        costs = {
            i: (
                not (inside[i, j] and near[i, j]),
                _cross_entropy(s[i], int(labels[j])) - 3 * math.log(float(table[i, j]) + 1e-8),
            )
            for i in anchors
        }
        ranked = sorted(anchors, key=lambda i, costs=costs: costs[i])
        if len(ranked) > count:
            _expect_apart(costs[ranked[count - 1]], costs[ranked[count]])
        for i in ranked[:count]:
            takers[i][j] = costs[i]
    for held in takers.values():
        for one, two in itertools.pairwise(sorted(held.values())[:2]):
            _expect_apart(one, two)
    result = [min(takers[i], key=lambda j, i=i: takers[i][j]) if takers[i] else -1 for i in range(len(b))]
    assigned = _ignore_crowds(result, table, boxes, crowd)
    ious = [table[i, j] if j >= 0 else narrow(0) for i, j in enumerate(assigned.tolist())]
    return assigned, torch.tensor(np.array(ious, dtype=narrow))
