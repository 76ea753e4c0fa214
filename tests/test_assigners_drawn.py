"""The assigners against the oracles of the papers on thousands of drawn images whose scores, IoUs and distances tie."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cases
import oracle_assigners as oracle
import pytest
import torch
from cases import assert_same
from cases_assigners import detection_head, strides_of
from torch import Tensor

from tinyssd_ops import reference

# Batches of this many images each; SIMT runs a seventh.
IMAGES, BATCHES = 16, range(100)
# Of an eighth of the batches each but float32.
DTYPES = (*[torch.float32] * 5, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Drawn:
    """What a head and its labels may look like; the names are those of the ops' arguments."""

    scores: Tensor  # [B, A, C]
    boxes: Tensor  # [B, A, 4]
    points: Tensor  # [A, 2]
    strides: Tensor  # [A]
    gt_labels: Tensor  # [B, G], some of no class
    gt_boxes: Tensor  # [B, G, 4]
    gt_valid: Tensor  # [B, G]
    gt_ignored: Tensor  # [B, G]

    def image(self, i: int) -> Drawn:
        """One image, in the dtype of the computation."""
        shared = ("points", "strides")
        return Drawn(**{k: _wide(v if k in shared else v[i]) for k, v in vars(self).items()})


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in cases.HALVES else t


@functools.cache
def draw(seed: int) -> Drawn:
    """A batch: corners on a grid in every other one, of few classes and few scores; few or no anchors in some."""
    g = cases.generator(seed)

    def pick(most: int) -> int:
        return int(torch.randint(most, (), generator=g))

    num_anchors = (pick(3) if seed % 6 == 0 else 1 + pick(30)) or 1
    num_gt, dtype, tied = (0 if seed % 10 == 9 else 1 + pick(6)), DTYPES[seed % len(DTYPES)], seed % 2 == 0

    def grid(t: Tensor) -> Tensor:
        return (t * 8).round() / 8 if tied else t

    def corners(*shape: int) -> Tensor:
        low = grid(0.6 * torch.rand(*shape, 2, generator=g))
        # On the grid some boxes are without area.
        return torch.cat((low, low + grid(0.8 * torch.rand(*shape, 2, generator=g))), dim=-1)

    scores = torch.rand(IMAGES, num_anchors, 2 if tied else 4, generator=g)
    if tied:
        scores = torch.rand(3, generator=g)[(scores * 3).long()]
    gts, boxes = corners(IMAGES, num_gt), corners(IMAGES, num_anchors)
    if num_gt:  # Half of the predictions are good ones.
        boxes[:, ::2] = gts[:, torch.arange(boxes[:, ::2].shape[1]) % num_gt] + grid(
            0.1 * torch.rand(*boxes[:, ::2].shape, generator=g)
        )
    labels = torch.randint(-1 if seed % 3 == 0 else 0, scores.shape[2] + (seed % 3 == 1), gts.shape[:2], generator=g)
    valid, ignored = (torch.rand(gts.shape[:2], generator=g) < share for share in (0.8, 0.2))
    points, strides = grid(torch.rand(num_anchors, 2, generator=g)), grid(0.3 * torch.rand(num_anchors, generator=g))
    scores, boxes, points, strides, gts = (t.to(dtype) for t in (scores, boxes, points, strides, gts))
    return Drawn(scores, boxes, points, strides, labels, gts, valid, ignored)


def _threshold(d: Drawn, seed: int) -> tuple[Any, ...]:
    rules = ((0.5, 0.4, False, False), (0.7, 0.3, True, False), (0.5, 0.5, False, True), (0.25, 0.125, True, True))
    anchors = d.boxes[0] if d.boxes.dim() == 3 else d.boxes
    return anchors, d.gt_boxes, d.gt_valid, d.gt_ignored, *rules[seed % len(rules)]


def _atss(d: Drawn, seed: int) -> tuple[Any, ...]:
    anchors = d.boxes[0] if d.boxes.dim() == 3 else d.boxes
    first = len(anchors) * 2 // 3
    return anchors, [first, len(anchors) - first], d.gt_boxes, d.gt_valid, d.gt_ignored, (1, 2, 3, 9)[seed % 4]


def _task_aligned(d: Drawn, seed: int) -> tuple[Any, ...]:
    rule = ((13, 1.0, 6.0), (2, 0.5, 6.0), (3, 0.5, 2.5), (1, 0.0, 1.0))[seed % 4]
    return d.scores, d.boxes, d.points, d.gt_labels, d.gt_boxes, d.gt_valid, d.gt_ignored, *rule


def _simota(d: Drawn, seed: int) -> tuple[Any, ...]:
    rule = ((2.5, 10), (1.0, 2), (0.0, 64), (0.5, 5))[seed % 4]
    return d.scores, d.boxes, d.points, d.strides, d.gt_labels, d.gt_boxes, d.gt_valid, d.gt_ignored, *rule


ARGUMENTS: dict[str, Callable[[Drawn, int], tuple[Any, ...]]] = {
    "assign_threshold": _threshold,
    "assign_atss": _atss,
    "assign_task_aligned": _task_aligned,
    "assign_simota": _simota,
}


@functools.cache
def answers(op: str, seed: int) -> list[Any]:
    """What the oracle says of each image of a batch; None where rounding may decide."""
    drawn, found = draw(seed), []
    for i in range(IMAGES):
        image = drawn.image(i)
        if op in ("assign_threshold", "assign_atss"):  # their anchors are those of the first image
            image = Drawn(**{**vars(image), "boxes": _wide(drawn.boxes[0])})
        try:
            found.append(getattr(oracle, op)(*ARGUMENTS[op](image, seed)))
        except oracle.UndecidedError:
            found.append(None)
    return found


@pytest.mark.parametrize("op", ARGUMENTS)
def test_oracle(ops, op):
    decided = matched = ignored = 0
    for seed in BATCHES[::7] if ops.name == "simt" else BATCHES:
        result = getattr(ops, op)(*ARGUMENTS[op](draw(seed), seed))
        parts = result if isinstance(result, tuple) else (result,)
        for i, expected in enumerate(answers(op, seed)):
            if expected is None:
                continue
            decided += 1
            own = tuple(part[i] for part in parts)
            assigned, *targets = expected if isinstance(expected, tuple) else (expected,)
            assert_same(own[0], assigned, (seed, i))
            # The square root of float64 is refined, not rounded correctly.
            last_bits = 1e-14 if own[-1].dtype == torch.float64 else 0
            torch.testing.assert_close(list(own[1:]), targets, rtol=last_bits, atol=0)
            matched += int((own[0] >= 0).any())
            ignored += int((own[0] == -2).any())
    # The draws are worth something: nearly all decide, and many have a matched anchor, or an ignored one.
    images = IMAGES * (len(BATCHES[::7]) if ops.name == "simt" else len(BATCHES))
    assert decided > 0.98 * images
    assert matched > 0.25 * images
    assert ignored > 0.1 * images


@pytest.mark.parametrize("op", ARGUMENTS)
def test_parity_with_many_anchors(other, op):
    """From 2,048 anchors on, the CUDA kernels give each of a few boxes more warps."""
    scores, boxes, points, labels, gts, valid, ignored = detection_head(2100, 12)
    drawn = Drawn(scores, boxes, points, strides_of(2100), labels, gts, valid, ignored)
    for seed in range(4):
        args = ARGUMENTS[op](drawn, seed)
        assert_same(getattr(other, op)(*args), getattr(reference, op)(*args), seed)
