"""``python -m benchmarks.targets``: what the project promises of its CPU kernels, next to what this machine shows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.__main__ import print_environment, refuse_fallback, use_threads
from benchmarks.results import Row, describe, milliseconds
from benchmarks.runner import run_case
from benchmarks.suite import Trained, cases
from tinyssd_ops import info

Key = tuple[str, str, str]
Rows = dict[Key, Row]

_NMS_20K: Key = ("nms", "random", "N=20,000")
_NMS_100K: Key = ("nms", "random", "N=100,000")
_BATCHED: Key = ("batched_nms", "random", "N=100,000 C=80")
_BOX_IOU: Key = ("box_iou", "random", "5,444 x 5,444")
_TARGET: Key = ("multibox_target", "random", "B=32 A=5444 G=32")
_DETECTION: Key = ("multibox_detection", "random", "B=4 A=5444 C=2")


@dataclass(frozen=True)
class Target:
    """A promise.

    Attributes:
        text: What is promised, without the number.
        threads: Of every side.
        rows: The rows it needs.
        value: The measured number; None where a peer is missing.
        bound: What the number must reach.
        at_least: Whether the bound is the least or the most.
    """

    text: str
    threads: int
    rows: tuple[Key, ...]
    value: Callable[[Rows], float | None]
    bound: float
    at_least: bool = True


def faster_than(peer: str, op: str, key: Key, threads: int, bound: float) -> Target:
    """``op`` takes one ``bound``-th of the peer's time, or less."""
    text = f"{op}: times as fast as {peer}"
    return Target(text, threads, (key,), lambda rows: rows[key].ratio(peer), bound)


def near_floor(text: str, key: Key, bound: float) -> Target:
    """The row's time is at most ``bound`` times its floor, on two threads."""
    return Target(text, 2, (key,), lambda rows: rows[key].over_floor, bound, at_least=False)


def growth(rows: Rows) -> float | None:
    """How many times as long ``nms`` takes for 100,000 boxes as for 20,000."""
    small, large = rows[_NMS_20K].ours, rows[_NMS_100K].ours
    return large.median / small.median if small and large else None


def worst_adversarial(rows: Rows) -> float | None:
    """The smallest ratio to torchvision over the inputs that are not random."""
    ratios = [ratio for key in _ADVERSARIAL if (ratio := rows[key].ratio("torchvision")) is not None]
    return min(ratios, default=None)


_SIZES = ("N=100", "N=1,000", "N=5,000", "N=20,000", "N=100,000", "N=500,000")
_ADVERSARIAL: tuple[Key, ...] = tuple(
    [("nms", kind, size) for kind in ("clustered", "identical", "disjoint") for size in _SIZES]
    + [("batched_nms", "clustered", f"{size} C=80") for size in _SIZES]
)

TARGETS = (
    faster_than("torch loop", "multibox_target B=32, A=5444, G=32", _TARGET, 1, 50),
    faster_than("torchvision", "nms of 20,000 random boxes", _NMS_20K, 1, 10),
    faster_than("torchvision", "box_iou 5444 x 5444", _BOX_IOU, 1, 8),
    faster_than("torchvision", "nms of 20,000 random boxes", _NMS_20K, 2, 100),
    near_floor("nms of 20,000 random boxes: times torch.sort of the scores", _NMS_20K, 5),
    Target("nms of 100,000 random boxes: times 20,000 boxes", 2, (_NMS_20K, _NMS_100K), growth, 8, at_least=False),
    faster_than("torchvision", "batched_nms of 100,000 boxes, 80 classes", _BATCHED, 2, 40),
    faster_than("torchvision", "box_iou 5444 x 5444", _BOX_IOU, 2, 25),
    near_floor("box_iou 5444 x 5444: times torch.empty(output).fill_()", _BOX_IOU, 1.5),
    faster_than("torch loop", "multibox_target B=32, A=5444, G=32", _TARGET, 2, 150),
    faster_than("torch loop", "multibox_detection of 4 x 5444 predictions", _DETECTION, 2, 50),
    Target(
        "nms and batched_nms, clustered, identical, disjoint, every size: times as fast as torchvision",
        2,
        _ADVERSARIAL,
        worst_adversarial,
        1,
    ),
)


def verdict(target: Target, rows: Rows) -> str:
    """A line: the promise, the number, whether it is met."""
    sign = ">=" if target.at_least else "<="
    name = f"{target.threads} thread{'s' if target.threads > 1 else ' '} {target.text} {sign} {target.bound:g}"
    errors = [rows[key].error for key in target.rows if rows[key].error]
    if errors:
        return f"{name}: NOT MET, results differ ({errors[0]})"
    value = target.value(rows)
    if value is None:
        return f"{name}: skipped, its peer is not importable or was not run"
    met = value >= target.bound if target.at_least else value <= target.bound
    ours = rows[target.rows[-1]].ours
    time = f" (ours {milliseconds(ours.median)})" if ours and len(target.rows) <= 2 else ""
    return f"{name}: {value:.2f}{time}, {'met' if met else 'NOT MET'}"


def main(argv: Sequence[str]) -> int:
    """Measures and prints every target; returns 1 if one that could be measured is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--threads", type=int, help="only the targets for this many threads")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each side of a row (default: 2)")
    options = parser.parse_args(argv)
    device = torch.device("cpu")
    refuse_fallback(info(), device, "native")
    every = {(case.op, case.inputs, case.label): case for case in cases(Trained(None, Path()), quick=False)}
    unmet = 0
    for threads in sorted({target.threads for target in TARGETS if options.threads in (None, target.threads)}):
        use_threads(threads)
        print_environment(describe(device, "native", info(), "python -m benchmarks.targets"))
        rows: Rows = {}
        for target in (target for target in TARGETS if target.threads == threads):
            for key in target.rows:
                if key not in rows:
                    rows[key] = run_case(every[key], device, options.seconds, "native")
            text = verdict(target, rows)
            unmet += "NOT MET" in text
            print(text, flush=True)
    return 1 if unmet else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
