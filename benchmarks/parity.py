"""``python -m benchmarks.parity``: random batches through the CPU kernels and the CUDA kernels, results compared.

The inputs are of every kind that the tests know (clustered, identical, broken, of mixed sizes ...), of random sizes.
Integers must be the same; so must the floats, but for the offsets of ``multibox_target`` and ``assignment_target``,
whose logarithm may differ in the last place. The first call that differs is saved with both results.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

import tinyssd_ops
from tinyssd_ops import reference

# The kinds of inputs are those of the tests, which are no package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import cases
import cases_assigners

_LARGEST, _RARE_LARGEST = 2_000, 20_000
_OFFSET_TOLERANCE = 1e-6
# After a fault of the device every call fails.
_ENOUGH_MISMATCHES = 50
_SECONDS_BETWEEN_SAVES = 2


@dataclass(frozen=True)
class Call:
    """An op and its arguments, on the CPU."""

    op: str
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Count:
    """What has been compared so far; ``mismatches`` counts calls."""

    calls: int = 0
    integers: int = 0
    mismatches: int = 0
    first: str = ""


class Draw:
    """Random choices from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included, small numbers as likely as large ones."""
        share = torch.rand((), generator=self._random).item()
        return min(high, math.floor(low * ((high + 1) / low) ** share))

    def one_of(self, choices: Sequence[Any]) -> Any:
        """One of them."""
        return choices[int(torch.randint(len(choices), (), generator=self._random))]


def batch(seed: int) -> Iterator[Call]:
    """One call of every op, or two, on inputs that the seed decides."""
    draw = Draw(seed)
    largest = _RARE_LARGEST if seed % 100 == 99 else _LARGEST
    images, size = draw.integer(1, 8), draw.integer(2, largest)
    threshold, kinds = draw.one_of(cases.THRESHOLDS), list(cases.BOXES.values())
    boxes = torch.stack([draw.one_of(kinds)(size, 100 * seed + i) for i in range(images)])
    scores = draw.one_of(list(cases.SCORES.values()))(images * size, seed).view(images, size)
    ids = draw.one_of(list(cases.CLASS_IDS.values()))(images * size).view(images, size)
    least = draw.one_of([0.0, 0.2, 0.6, 2.0])
    yield Call("nms_padded", (boxes, scores, threshold))
    yield Call("nms_padded", (boxes, scores, threshold), {"class_ids": ids})
    limits = {"class_ids": ids, "score_threshold": least, "max_output": draw.integer(1, size)}
    yield Call("nms_padded", (boxes, scores, threshold), limits)
    for gaussian in (False, True):
        few = limits | {"max_output": min(limits["max_output"], 200)}  # its time grows with what is kept
        yield Call("soft_nms", (boxes, scores, gaussian, threshold), few)
    yield Call("nms", (boxes[0], scores[0], threshold))
    yield Call("batched_nms", (boxes.flatten(0, 1), scores.flatten(), ids.flatten(), threshold))

    some, others = (draw.one_of(kinds)(draw.integer(2, 600), seed + k) for k in (3, 4))
    yield Call("box_iou", (some, others))

    anchors = draw.one_of(kinds)(draw.integer(2, largest), seed + 1)
    labels = cases.labels(images, draw.integer(1, 100), seed)
    if draw.one_of([True, False]):
        rows = labels.shape[:2].numel()
        labels[..., 1:] = draw.one_of(kinds)(max(2, rows), seed + 2)[:rows].view_as(labels[..., 1:])
    valid = draw.one_of([None, labels[..., 0] >= 0])
    yield Call("assign_anchors", (anchors, labels[..., 1:].contiguous(), valid, threshold))
    yield Call("multibox_target", (anchors, labels, threshold))

    yield from assigner_calls(draw, anchors, largest, seed)

    predictions = cases.predictions(images, draw.integer(1, 24), draw.integer(1, largest // 2), seed)
    yield Call("multibox_detection", (*predictions, threshold, draw.one_of([0.01, 0.3])))
    options = {"max_detections": draw.integer(1, 300), "class_agnostic": draw.one_of([True, False])}
    yield Call("detect", (*predictions, threshold, draw.one_of([0.01, 0.2])), options)


def assigner_calls(draw: Draw, anchors: Tensor, largest: int, seed: int) -> Iterator[Call]:
    """The rules of today's detectors, some of whose boxes are padding or crowds, and the targets that follow."""
    kind = draw.one_of(list(cases.BOXES))
    head = cases_assigners.detection_head(draw.integer(2, largest), 2 * draw.integer(1, 100), kind, seed)
    *_, labels, gts, valid, ignored = head
    high, low = draw.one_of([(0.5, 0.4), (0.7, 0.3), (0.5, 0.5), (0.0, 0.0)])
    keeps = (draw.one_of([True, False]), draw.one_of([True, False]))
    yield Call("assign_threshold", (anchors, gts, valid, ignored, high, low, *keeps))
    first = draw.integer(1, len(anchors))
    yield Call("assign_atss", (anchors, [first, len(anchors) - first], gts, valid, ignored, draw.integer(1, 64)))
    topk, powers = draw.integer(1, 64), draw.one_of([(1.0, 6.0), (0.5, 6.0), (0.0, 2.5)])
    yield Call("assign_task_aligned", (*head, topk, *powers))
    strides = cases_assigners.strides_of(len(head[2]))
    yield Call("assign_simota", (*head[:3], strides, *head[3:], draw.one_of([0.0, 1.0, 2.5]), topk))
    assigned = torch.arange(2 * len(anchors)).view(2, -1) % (gts.shape[1] + 3) - 2
    yield Call("assignment_target", (assigned, labels, gts, draw.one_of([None, anchors])))


def difference(op: str, expected: Any, actual: Any) -> str:
    """In what two results differ; "" if in nothing."""
    ours, theirs = tree_leaves(expected), tree_leaves(actual)
    if len(ours) != len(theirs):
        return f"{len(ours)} results and {len(theirs)}"
    for place, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        if one.shape != two.shape or one.dtype != two.dtype:
            return f"result {place}: {one.dtype} {list(one.shape)} and {two.dtype} {list(two.shape)}"
        tolerance = _OFFSET_TOLERANCE if op.endswith("_target") and place == 0 else 0
        same = torch.isclose(one, two, rtol=tolerance, atol=tolerance, equal_nan=one.is_floating_point())
        if not same.all():
            where = (~same).nonzero()[0].tolist()
            values = f"{one[tuple(where)].item()} and {two[tuple(where)].item()} at {where}"
            return f"result {place}: {int((~same).sum())} of {same.numel()} values differ, first {values}"
    return ""


def compare(calls: Iterator[Call], device: torch.device, what: str, count: Count, out: Path | None) -> None:
    """Calls the ops on the CPU and on the device, and counts what differs; saves the first call that does."""
    for call in calls:
        expected = getattr(tinyssd_ops, call.op)(*call.args, **call.options)
        count.calls += 1
        count.integers += sum(t.numel() for t in tree_leaves(expected) if not t.is_floating_point())
        actual = None
        try:
            args, options = tree_map_only(Tensor, lambda t: t.to(device), (call.args, call.options))
            actual = tree_map_only(Tensor, lambda t: t.cpu(), _other(call.op, device)(*args, **options))
            differs = difference(call.op, expected, actual)
        except RuntimeError as error:
            differs = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if differs:
            count.mismatches += 1
            print(f"{what}: {call.op}: {differs}", flush=True)
        if differs and not count.first:
            count.first = f"{what}: {call.op}: {differs}"
            if out is not None:
                contents = {"op": call.op, "args": call.args, "options": call.options}
                torch.save({**contents, "expected": expected, "actual": actual}, out / "mismatch.pt")


def _other(op: str, device: torch.device) -> Callable[..., Any]:
    """The CUDA kernel; on the CPU, where the program itself is tested, the Torch reference."""
    return getattr(tinyssd_ops if device.type == "cuda" else reference, op)


def figures(drawn: int, count: Count, seconds: float) -> dict[str, Any]:
    """What is known after so many batches."""
    return {"batches": drawn, **vars(count), "seconds": round(seconds, 1)}


def save(file: Path, contents: dict[str, Any]) -> None:
    """Writes a JSON file that is whole at any moment."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(contents) + "\n", encoding="utf-8")
    part.replace(file)


def main(argv: Sequence[str]) -> int:
    """Compares; returns 1 if a result differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"), help="cpu: the Torch reference there")
    parser.add_argument("--batches", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first batch's seed")
    parser.add_argument("--seconds", type=float, default=math.inf, help="draw no more batches after this time")
    parser.add_argument("--out", type=Path, help="folder for mismatch.pt")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the counts to this file")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    serving = tinyssd_ops.info()["backends"]
    for name in {"cpu", options.device}:
        if serving[name]["backend"] != "native":
            raise SystemExit(f"no native kernels for {name}: {serving[name]['why']}")
    started, saved, count, drawn = time.perf_counter(), -math.inf, Count(), 0
    for seed in range(options.first, options.first + options.batches):
        if time.perf_counter() - started > options.seconds or count.mismatches >= _ENOUGH_MISMATCHES:
            break
        compare(batch(seed), device, f"batch {seed}", count, options.out)
        drawn += 1
        now = time.perf_counter()
        # Again and again, so that a run that is cut off leaves what it found.
        if options.json is not None and now - saved > _SECONDS_BETWEEN_SAVES:
            saved = now
            save(options.json, figures(drawn, count, now - started))
    found = figures(drawn, count, time.perf_counter() - started)
    print(json.dumps(found))
    if options.json is not None:
        save(options.json, found)
    return 1 if count.mismatches or drawn < options.batches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
