"""Slow, plain loops for what the ops mean, written from their definitions and from nothing else.

Numbers are NumPy scalars, so that every operation is rounded to the dtype on its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _rows(tensor: Tensor) -> list[list[Any]]:
    array = tensor.numpy()
    return [list(row) for row in array]


def _area(box: list[Any]) -> Any:
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a: list[Any], b: list[Any]) -> Any:
    """IoU of two boxes; 0 where one holds a NaN or the union is 0 or less."""
    zero = type(a[0])(0)
    if any(math.isnan(v) for v in (*a, *b)):
        return zero
    with np.errstate(all="ignore"):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(width, zero) * max(height, zero)
        union = _area(a) + _area(b) - inter
        return inter / union if union > 0 else zero


def assign(anchors: Tensor, gts: Tensor, valid: Tensor | None, threshold: float) -> Tensor:
    """One image: the index of each anchor's box, or -1."""
    a, g = _rows(anchors), _rows(gts)
    least = anchors.numpy().dtype.type(threshold)
    boxes = [j for j in range(len(g)) if valid is None or bool(valid[j])]
    table = {(i, j): iou(a[i], g[j]) for i in range(len(a)) for j in boxes}
    result = [-1] * len(a)
    for i in range(len(a)):
        best = None
        for j in boxes:
            if best is None or table[i, j] > table[i, best]:
                best = j
        if best is not None and table[i, best] >= least:
            result[i] = best
    while table:
        # The largest IoU left; of equals the lowest anchor, then the lowest box.
        i, j = min(table, key=lambda pair: (-table[pair], pair))
        result[i] = j
        table = {pair: v for pair, v in table.items() if pair[0] != i and pair[1] != j}
    return torch.tensor(result, dtype=torch.int64)


def nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    ids: Tensor | None = None,
    score_threshold: float | None = None,
    most: int | None = None,
) -> list[int]:
    """One image: the kept indices, best first."""
    b, s = _rows(boxes), list(scores.numpy())
    narrow = boxes.numpy().dtype.type
    ranked = sorted(range(len(b)), key=lambda i: (math.isnan(s[i]), 0 if math.isnan(s[i]) else -s[i], i))
    if score_threshold is not None:
        ranked = [i for i in ranked if s[i] >= narrow(score_threshold)]
    kept: list[int] = []
    for i in ranked:
        rivals = (k for k in kept if ids is None or ids[k] == ids[i])
        if not any(iou(b[k], b[i]) > narrow(threshold) for k in rivals):
            kept.append(i)
    return kept[:most]


def _best(column: list[Any], first: int) -> int:
    """The class of the largest probability from ``first`` on, the lowest of equals; a NaN counts as the largest."""
    classes = range(first, len(column))
    return min(classes, key=lambda c: (not math.isnan(column[c]), 0 if math.isnan(column[c]) else -column[c], c))


def multibox_detection(probs: Tensor, boxes: Tensor, nms_threshold: float, pos_threshold: float) -> Tensor:
    """One image: the rows [A, 6], of probabilities [C, A] and decoded boxes [A, 4]."""
    columns = _rows(probs.T)
    classes = [_best(column, 0) for column in columns]
    scores = torch.tensor([column[c] for column, c in zip(columns, classes, strict=True)], dtype=probs.dtype)
    objects = [i for i, c in enumerate(classes) if c > 0]
    kept = [objects[k] for k in nms(boxes[objects], scores[objects], nms_threshold)]
    gone = [i for i in objects if i not in kept]
    background = [i for i, c in enumerate(classes) if c == 0]
    result = []
    for i in kept + gone + background:
        class_id, confidence = float(classes[i]) if i in kept else 0.0, scores[i]
        if confidence < torch.tensor(pos_threshold, dtype=probs.dtype):
            class_id, confidence = 0.0, 1 - confidence
        result.append(torch.cat((torch.tensor([class_id], dtype=probs.dtype), confidence[None], boxes[i])))
    return torch.stack(result) if result else probs.new_zeros(0, 6)


def detect(
    probs: Tensor, boxes: Tensor, nms_threshold: float, score_threshold: float, most: int, class_agnostic: bool
) -> tuple[Tensor, int]:
    """One image: the rows [K, 6], padded, and how many there are."""
    columns = _rows(probs.T)
    pairs = [
        (anchor, c)
        for anchor, column in enumerate(columns)
        for c in ([_best(column, 1)] if class_agnostic and len(column) > 1 else range(1, len(column)))
    ]
    scores = torch.tensor([columns[anchor][c] for anchor, c in pairs], dtype=probs.dtype)
    corners = boxes[[anchor for anchor, _ in pairs]]
    ids = None if class_agnostic else torch.tensor([c for _, c in pairs], dtype=torch.int64)
    kept = nms(corners, scores, nms_threshold, ids, score_threshold, most)
    rows = probs.new_zeros(most, 6)
    rows[:, 0] = -1
    for row, k in enumerate(kept):
        rows[row, 0], rows[row, 1], rows[row, 2:] = pairs[k][1], scores[k], corners[k]
    return rows, len(kept)
