"""Slow, plain loops for the assigners, written from the papers and from nothing else.

Numbers are NumPy scalars, so that every operation is rounded to the dtype on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

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
