"""The cases that the fuzzer draws, and their form as a file."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cases
import torch
from cases_assigners import detection_head, strides_of
from torch import Tensor

NASTY = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 3e-16, 1e-8, 1e15, 3e38, -3e38, 1e300]
NASTY += [cases.NAN, cases.INF, -cases.INF]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = ["contiguous", "strided", "reversed dimensions", "odd address"]
ALWAYS, NEVER = 0, 2**40
MANY = 1000  # boxes of a list that goes in waves, beyond what the loops of the oracles are for
# The sizes at which kernels change their ways, lowered to those of the cases.
LIMITS: dict[str, list[int]] = {
    "worth_a_thread": [0, 1000],
    "few_kept": [1, 3, 300],
    "wave": [7, 64],
    "least_in_waves": [1, NEVER],
    "grid_cells": [ALWAYS, 2, NEVER],
    "neighbours": [ALWAYS, 1, NEVER],
    "soft_many": [ALWAYS, 12, NEVER],
}


def values_of(tensor: Tensor) -> bytes:
    """Its values, one after the other."""
    # Not contiguous(), which leaves a single value any stride.
    return torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.flatten()).view(torch.uint8).numpy().tobytes()


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values elsewhere in memory."""
    if layout == "strided":
        return torch.stack((tensor, torch.zeros_like(tensor)), dim=-1)[..., 0]
    if layout == "reversed dimensions":
        order = list(range(tensor.dim()))[::-1]
        return tensor.permute(order).contiguous().permute(order)
    if layout == "odd address" and tensor.numel():
        buffer = bytearray(1) + values_of(tensor)
        return torch.frombuffer(buffer, dtype=tensor.dtype, offset=1).view(tensor.shape)
    return tensor.contiguous()


@dataclass(frozen=True)
class Case:
    """A call: the op, its arguments (of tensors the values, contiguous), and how it is made."""

    op: str
    args: tuple[Any, ...]
    layouts: tuple[str, ...]  # of the tensors among the arguments, in order
    simd: str
    threads: int
    limits: dict[str, int]

    def arguments(self) -> tuple[Any, ...]:
        """The arguments, laid out."""
        layouts = iter(self.layouts)
        return tuple(laid_out(arg, next(layouts)) if isinstance(arg, Tensor) else arg for arg in self.args)

    def to_json(self) -> dict[str, Any]:
        """What a file holds."""
        return {**vars(self), "args": [_to_json(arg) for arg in self.args]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Case:
        """The case of a file."""
        return cls(**{**values, "args": tuple(map(_from_json, values["args"])), "layouts": tuple(values["layouts"])})


def _to_json(arg: Any) -> Any:
    if not isinstance(arg, Tensor):
        return arg
    return {"dtype": str(arg.dtype).removeprefix("torch."), "shape": list(arg.shape), "bytes": values_of(arg).hex()}


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    dtype, data = getattr(torch, value["dtype"]), bytearray.fromhex(value["bytes"])
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.view(value["shape"])


def some_boxes(pick: random.Random, n: int) -> Tensor:
    """Boxes [n, 4] of any kind."""
    kind = pick.choice([*cases.BOXES, "nasty", "bits", "few places"])
    if kind == "nasty":
        return torch.tensor([[pick.choice(NASTY) for _ in range(4)] for _ in range(n)]).view(n, 4)
    if kind == "bits":
        numbers = [[pick.getrandbits(32) - 2**31 for _ in range(4)] for _ in range(n)]
        return torch.tensor(numbers, dtype=torch.int32).view(n, 4).view(torch.float32)
    if kind == "few places":
        return torch.tensor([[pick.randrange(4) for _ in range(4)] for _ in range(n)]).view(n, 4).float()
    # One alone cannot graze another.
    return cases.BOXES["clustered" if n < 2 else kind](n, pick.randrange(1000))


def some_scores(pick: random.Random, n: int) -> Tensor:
    """Scores [n] of any kind."""
    return cases.SCORES[pick.choice(list(cases.SCORES))](n, pick.randrange(1000))


def _size(pick: random.Random) -> int:
    return pick.choice([0, 1, 2, 3, 7, 8, 9, 17, 31, 33, pick.randrange(40), pick.randrange(40), 65, 130])


def _few(pick: random.Random) -> int:
    return pick.choice([0, 1, 2, 5, pick.randrange(12), pick.randrange(12)])


def _threshold(pick: random.Random) -> float:
    return pick.choice([*cases.THRESHOLDS, pick.random()])


def _flags(pick: random.Random, *shape: int) -> Tensor | None:
    generator = torch.Generator().manual_seed(pick.getrandbits(40))
    flags = torch.rand(shape, generator=generator) < pick.choice([0.2, 0.8])
    return pick.choice([None, flags, flags])


def _two(pick: random.Random) -> tuple[Any, ...]:
    n, m = _size(pick), pick.randrange(20)
    return some_boxes(pick, n), some_boxes(pick, m)


def _family(pick: random.Random) -> tuple[Any, ...]:
    aligned = pick.random() < 0.3
    one, two = _two(pick)
    if aligned:
        two = some_boxes(pick, len(one))
    return one, two, pick.randrange(4), aligned, pick.choice([0.0, 1e-9]), pick.choice([0.0, 1e-7])


def _assign(pick: random.Random) -> tuple[Any, ...]:
    anchors, gts = some_boxes(pick, _size(pick)), some_boxes(pick, _few(pick))
    return anchors, gts, _flags(pick, len(gts)), _threshold(pick)


def _target(pick: random.Random) -> tuple[Any, ...]:
    images, num_gt = pick.randrange(3), _few(pick)
    classes = torch.tensor([float(pick.randrange(-1, 5)) for _ in range(images * num_gt)]).view(images, num_gt, 1)
    boxes = some_boxes(pick, images * num_gt).view(images, num_gt, 4)
    return some_boxes(pick, _size(pick)), torch.cat((classes, boxes), dim=2), _threshold(pick)


def _many_boxes(pick: random.Random, n: int) -> Tensor:
    """Boxes [n, 4] of many sizes, some of them again and again: enough for waves, and for a grid to be of no use."""
    generator = torch.Generator().manual_seed(pick.getrandbits(40))
    corner = torch.rand(n, 2, generator=generator) * 10 ** pick.uniform(-2, 2)
    longest = 10 ** (pick.choice([1, 2, 4]) * (torch.rand(n, 1, generator=generator) - 1))
    boxes = torch.cat((corner, corner + longest * (0.5 + torch.rand(n, 2, generator=generator))), dim=1)
    return boxes[torch.randint(n // pick.choice([1, 5, 50]), (n,), generator=generator)]


def _nms(pick: random.Random) -> tuple[Any, ...]:
    if pick.random() < 0.1:
        n = pick.randrange(MANY, 3 * MANY)
        return _many_boxes(pick, n), some_scores(pick, n), pick.choice([0.0101, 0.015, 0.02, 0.3, 0.9])
    n = _size(pick)
    return some_boxes(pick, n), some_scores(pick, n), _threshold(pick)


def _ids(pick: random.Random, n: int) -> Tensor:
    return cases.CLASS_IDS[pick.choice(list(cases.CLASS_IDS))](n)


def _batched_nms(pick: random.Random) -> tuple[Any, ...]:
    boxes, scores, threshold = _nms(pick)
    return boxes, scores, _ids(pick, len(boxes)), threshold


def _nms_padded(pick: random.Random) -> tuple[Any, ...]:
    images, n = pick.randrange(4), pick.randrange(40)
    boxes = some_boxes(pick, images * n).view(images, n, 4)
    scores = some_scores(pick, images * n).view(images, n)
    ids = pick.choice([None, _ids(pick, images * n).view(images, n)])
    return boxes, scores, _threshold(pick), ids, pick.choice([None, 0.2]), pick.choice([None, 0, 1, 7, 50])


def _soft_nms(pick: random.Random) -> tuple[Any, ...]:
    boxes, scores, threshold, ids, least, most = _nms_padded(pick)
    if pick.random() < 0.1:
        n = pick.randrange(MANY // 10, MANY)
        boxes, scores, ids = (
            _many_boxes(pick, n)[None],
            some_scores(pick, n)[None],
            pick.choice([None, _ids(pick, n)[None]]),
        )
    sigma = pick.choice([0.1, 0.5, 0.5, 1e-50, 1e30])  # 1e-50 is 0 in float32
    return boxes, scores, pick.random() < 0.5, threshold, sigma, ids, least, most


def _predictions(pick: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    images, classes, anchors = pick.randrange(3), pick.randrange(1, 5), pick.randrange(30)
    probs = some_scores(pick, images * classes * anchors).view(images, classes, anchors)
    offsets = some_boxes(pick, images * anchors).view(images, 4 * anchors)
    return probs, offsets, some_boxes(pick, anchors)


def _detection(pick: random.Random) -> tuple[Any, ...]:
    return *_predictions(pick), _threshold(pick), pick.choice([0.0, 0.01, 0.5])


def _detect(pick: random.Random) -> tuple[Any, ...]:
    return *_predictions(pick), _threshold(pick), pick.choice([0.0, 0.01, 0.5]), pick.randrange(60), pick.random() < 0.5


def _assign_threshold(pick: random.Random) -> tuple[Any, ...]:
    anchors, gts, valid, high = _assign(pick)
    low = high * pick.choice([0.0, 0.5, 1.0])
    return anchors, gts, valid, _flags(pick, len(gts)), high, low, pick.random() < 0.5, pick.random() < 0.5


def _assign_atss(pick: random.Random) -> tuple[Any, ...]:
    anchors, gts, valid, _ = _assign(pick)
    first = pick.randrange(len(anchors) + 1)
    return anchors, [first, len(anchors) - first], gts, valid, _flags(pick, len(gts)), pick.choice([1, 4, 9])


def _head(pick: random.Random) -> list[Any]:
    """One image of a dense head and its labels; the boxes now and then of any kind."""
    anchors, num_gt = _size(pick), _few(pick)
    kind = pick.choice(["random_boxes", "random_boxes", *cases.BOXES])
    scores, boxes, points, labels, truth, valid, ignored = detection_head(
        anchors, 2 * num_gt, kind, pick.randrange(1000)
    )
    if pick.random() < 0.3:
        boxes = some_boxes(pick, 2 * anchors).view(2, anchors, 4)
    return [scores, boxes, points, labels, truth, *pick.choice([(None, None), (valid, ignored)])]


def _task_aligned(pick: random.Random) -> tuple[Any, ...]:
    return *_head(pick), pick.choice([1, 5, 13]), pick.choice([0.5, 1.0]), pick.choice([2.0, 6.0])


def _simota(pick: random.Random) -> tuple[Any, ...]:
    scores, boxes, points, *rest = _head(pick)
    return scores, boxes, points, strides_of(len(points)), *rest, pick.choice([1.5, 2.5]), pick.choice([1, 10])


def _assignment_target(pick: random.Random) -> tuple[Any, ...]:
    images, anchors, num_gt = pick.randrange(3), _size(pick), _few(pick)
    assigned = torch.tensor([pick.randrange(-3, num_gt + 2) for _ in range(images * anchors)], dtype=torch.int64)
    labels = torch.tensor([pick.randrange(80) for _ in range(images * num_gt)], dtype=torch.int64)
    boxes = some_boxes(pick, images * num_gt).view(images, num_gt, 4)
    encoded = pick.choice([None, some_boxes(pick, anchors)])
    return assigned.view(images, anchors), labels.view(images, num_gt), boxes, encoded


DRAWN: dict[str, Callable[[random.Random], tuple[Any, ...]]] = {
    "box_iou": _two,
    "box_iou_gradient": _two,
    "iou_pairs": _family,
    "iou_pairs_gradient": _family,
    "assign_anchors": _assign,
    "multibox_target": _target,
    "nms": _nms,
    "batched_nms": _batched_nms,
    "nms_padded": _nms_padded,
    "soft_nms": _soft_nms,
    "multibox_detection": _detection,
    "detect": _detect,
    "assign_threshold": _assign_threshold,
    "assign_atss": _assign_atss,
    "assign_task_aligned": _task_aligned,
    "assign_simota": _simota,
    "assignment_target": _assignment_target,
}


def draw(pick: random.Random, simd_paths: list[str]) -> Case:
    """A case, decided by ``pick``."""
    op = pick.choice(list(DRAWN))
    args = DRAWN[op](pick)
    if pick.random() < 0.5:  # a mix of dtypes, else all float32
        args = tuple(a.to(pick.choice(FLOATS)) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    tensors = sum(isinstance(arg, Tensor) for arg in args)
    layouts = tuple(pick.choice(LAYOUTS) if pick.random() < 0.4 else "contiguous" for _ in range(tensors))
    limits = {name: pick.choice(values) for name, values in LIMITS.items()} if pick.random() < 0.7 else {}
    threads = pick.choice([1, 1, 3])
    if op in ("nms", "batched_nms") and len(args[0]) >= MANY:  # as they come, in waves
        limits, threads = {"least_in_waves": 1}, 3
    return Case(op, args, layouts, pick.choice(simd_paths), threads, limits)
