"""``python -m benchmarks.targets``: what the project promises of its kernels, next to what this machine shows."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import inputs
from benchmarks.__main__ import print_environment, refuse_fallback, use_threads
from benchmarks.case import Trained
from benchmarks.results import Row, describe, milliseconds
from benchmarks.runner import CAPTURED, line, run_captured, run_case
from benchmarks.suite import cases
from tinyssd_ops import info

Key = tuple[str, str, str]
Rows = dict[Key, Row]

_NMS_20K: Key = ("nms", "random", "N=20,000")
_NMS_100K: Key = ("nms", "random", "N=100,000")
_BATCHED: Key = ("batched_nms", "random", "N=100,000 C=80")
_BOX_IOU: Key = ("box_iou", "random", "5,444 x 5,444")
_TARGET: Key = ("multibox_target", "random", "B=32 A=5444 G=32")
_DETECTION: Key = ("multibox_detection", "random", "B=4 A=5444 C=2")
_NMS_1K: Key = ("nms", "random", "N=1,000")
_PADDED: Key = ("nms_padded", "random", "B=32 N=5,444")
_ONE_IMAGE = ("one image", "B=1 A=136100 G=100")
_THRESHOLD: Key = ("assign_threshold", "pyramid", "B=8 A=8400 G=500")
_CAPTURED_TARGET: Key = ("multibox_target", "random" + CAPTURED, _TARGET[2])
_CAPTURED_IOU: Key = ("box_iou", "random" + CAPTURED, _BOX_IOU[2])
# What the other fixed-shape ops take of the device alone: promised nowhere, measured with the rest on CUDA.
_CUDA_EXTRA: tuple[Key, ...] = (
    ("assign_anchors", "random" + CAPTURED, _TARGET[2]),
    ("nms_padded", "random" + CAPTURED, _PADDED[2]),
    ("multibox_detection", "random" + CAPTURED, "B=32 A=5444 C=2"),
    ("detect", "random" + CAPTURED, "B=32 A=5444 C=2"),
)


@dataclass(frozen=True)
class Target:
    """A promise.

    Attributes:
        text: What is promised, without the number.
        threads: Of every side, on the CPU.
        rows: The rows it needs.
        value: The measured number; None where a peer is missing.
        bound: What the number must reach.
        at_least: Whether the bound is the least or the most.
        device: Whose kernels: "cpu" or "cuda".
    """

    text: str
    threads: int
    rows: tuple[Key, ...]
    value: Callable[[Rows], float | None]
    bound: float
    at_least: bool = True
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The promise in words, with the number."""
        where = f"{self.threads} thread{'s' if self.threads > 1 else ' '}" if self.device == "cpu" else self.device
        return f"{where} {self.text} {'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Outcome:
    """What became of a promise: the measured number, whether it is met (None: not measured), and why or how."""

    name: str
    value: float | None
    met: bool | None
    note: str = ""

    def __str__(self) -> str:
        verdict = "skipped" if self.met is None else "met" if self.met else "NOT MET"
        number = "" if self.value is None else f"{self.value:.2f}, "
        return f"{self.name}: {number}{verdict}{f' ({self.note})' if self.note else ''}"


def faster_than(peer: str, op: str, key: Key, threads: int, bound: float) -> Target:
    """``op`` takes one ``bound``-th of the peer's time, or less."""
    text = f"{op}: times as fast as {peer}"
    return Target(text, threads, (key,), lambda rows: rows[key].ratio(peer), bound)


def near_floor(text: str, key: Key, bound: float) -> Target:
    """The row's time is at most ``bound`` times its floor, on two threads."""
    return Target(text, 2, (key,), lambda rows: rows[key].over_floor, bound, at_least=False)


def on_cuda(*targets: Target) -> tuple[Target, ...]:
    """The same promises, of the CUDA kernels."""
    return tuple(replace(target, device="cuda") for target in targets)


def microseconds(key: Key) -> Callable[[Rows], float | None]:
    """The time of one call."""

    def value(rows: Rows) -> float | None:
        ours = rows[key].ours
        return ours.median * 1e6 if ours else None

    return value


def share_of_floor(key: Key) -> Callable[[Rows], float | None]:
    """The floor's time over ours: for a floor that only writes, the share of the bandwidth that is reached."""

    def value(rows: Rows) -> float | None:
        over = rows[key].over_floor
        return 1 / over if over else None

    return value


def growth(rows: Rows) -> float | None:
    """How many times as long ``nms`` takes for 100,000 boxes as for 20,000."""
    small, large = rows[_NMS_20K].ours, rows[_NMS_100K].ours
    return large.median / small.median if small and large else None


def worst_adversarial(rows: Rows) -> float | None:
    """The smallest ratio to torchvision over the inputs that are not random."""
    ratios = [ratio for key in _ADVERSARIAL if (ratio := rows[key].ratio("torchvision")) is not None]
    return min(ratios, default=None)


def slowest(rows: Rows) -> float | None:
    """The longest time that ``nms`` takes for 100,000 boxes of the worst kinds, in seconds."""
    return max((ours.median for key in _WORST_100K if (ours := rows[key].ours)), default=None)


def steepest(rows: Rows) -> float | None:
    """How many times as long ``nms`` takes for five times as many boxes of the worst kinds, at most."""
    pairs = [(rows[small].ours, rows[large].ours) for small, large in zip(_WORST_20K, _WORST_100K, strict=True)]
    return max((large.median / small.median for small, large in pairs if small and large), default=None)


_WORST_20K: tuple[Key, ...] = tuple(("nms", kind, "N=20,000") for kind in inputs.WORST)
_WORST_100K: tuple[Key, ...] = tuple(("nms", kind, "N=100,000") for kind in inputs.WORST)
_SIZES = ("N=100", "N=1,000", "N=5,000", "N=20,000", "N=100,000", "N=500,000")
_ADVERSARIAL: tuple[Key, ...] = tuple(
    [("nms", kind, size) for kind in ("clustered", "identical", "disjoint") for size in _SIZES]
    + [("batched_nms", "clustered", f"{size} C=80") for size in _SIZES]
)

TARGETS = (
    faster_than("torch loop", "multibox_target B=32, A=5444, G=32", _TARGET, 1, 50),
    faster_than("reference", "multibox_target B=32, A=5444, G=32", _TARGET, 1, 100),
    faster_than("reference", "assign_threshold B=8, A=8400, G=500", _THRESHOLD, 1, 100),
    faster_than("torchvision", "nms of 20,000 random boxes", _NMS_20K, 1, 10),
    faster_than("torchvision", "box_iou 5444 x 5444", _BOX_IOU, 1, 8),
    # A call so small shows what the wrapper and the dispatcher take.
    faster_than("powerboxes", "nms of 100 random boxes", ("nms", "random", "N=100"), 1, 1),
    faster_than("powerboxes", "box_iou 100 x 100", ("box_iou", "random", "100 x 100"), 1, 1),
    faster_than("fastbbox", "box_iou 100 x 100", ("box_iou", "random", "100 x 100"), 1, 1),
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
    Target("nms of 100,000 boxes of the worst kinds: seconds", 1, _WORST_100K, slowest, 0.2, at_least=False),
    Target(
        "the same (nearly all of them kept): times 20,000 boxes",
        1,
        (*_WORST_20K, *_WORST_100K),
        steepest,
        10,
        at_least=False,
    ),
    faster_than("one thread", "nms of 100,000 random boxes", ("nms", "random, threads", "N=100,000"), 2, 1.6),
    faster_than("one thread", "assign_anchors of one large image", ("assign_anchors", *_ONE_IMAGE), 2, 1.6),
    faster_than("one thread", "multibox_target of one large image", ("multibox_target", *_ONE_IMAGE), 2, 1.6),
    *on_cuda(
        faster_than("torchvision", "nms_padded of 32 x 5444 boxes, image by image", _PADDED, 1, 50),
        faster_than("torchvision", "nms of 1,000 random boxes", _NMS_1K, 1, 5),
        faster_than("torchvision", "batched_nms of 100,000 boxes, 80 classes", _BATCHED, 1, 20),
        faster_than("torch loop", "multibox_target B=32, A=5444, G=32", _TARGET, 1, 500),
        Target(
            "multibox_target B=32, A=5444, G=32: microseconds in a CUDA graph",
            1,
            (_CAPTURED_TARGET,),
            microseconds(_CAPTURED_TARGET),
            25,
            at_least=False,
        ),
        Target(
            "box_iou 5444 x 5444: share of the write bandwidth, in a CUDA graph",
            1,
            (_CAPTURED_IOU,),
            share_of_floor(_CAPTURED_IOU),
            0.85,
        ),
    ),
)


def verdict(target: Target, rows: Rows) -> Outcome:
    """Whether the rows keep the promise."""
    errors = [rows[key].error for key in target.rows if rows[key].error]
    if errors:
        return Outcome(target.name, None, False, errors[0])
    value = target.value(rows)
    if value is None:
        return Outcome(target.name, None, None, "its peer is not importable or was not run")
    met = value >= target.bound if target.at_least else value <= target.bound
    ours = rows[target.rows[-1]].ours
    note = f"ours {milliseconds(ours.median)}" if ours and len(target.rows) <= 2 else ""
    return Outcome(target.name, value, met, note)


def measure(
    keys: Iterable[Key], device: torch.device, seconds: float, rows: Rows, save: Callable[[Iterable[Row]], None]
) -> None:
    """Adds the rows that are not there yet, saves all after each, and prints those of CUDA."""
    every = {(case.op, case.inputs, case.label): case for case in cases(Trained(None, Path()), quick=False)}
    for key in keys:
        if key not in rows:
            op, kind, label = key
            case = every[op, kind.removesuffix(CAPTURED), label]
            if kind.endswith(CAPTURED):
                rows[key] = run_captured(case, device, seconds)
            else:
                rows[key] = run_case(case, device, seconds, "native")
            if device.type == "cuda":
                print(line(rows[key]), flush=True)
            save(rows.values())


def main(argv: Sequence[str]) -> int:
    """Measures and prints every target; returns 1 if one that could be measured is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="whose kernels (default: cpu)")
    parser.add_argument("--threads", type=int, help="only the targets for this many threads, on the CPU")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each side of a row (default: 2)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the targets and the rows to this file")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    refuse_fallback(info(), device, "native")
    cuda = options.device == "cuda"
    run = describe(device, "native", info(), "python -m benchmarks.targets" + (" --device cuda" if cuda else ""))
    chosen = [target for target in TARGETS if target.device == options.device]
    outcomes: list[Outcome] = []
    measured: list[Row] = []

    def save(rows: Iterable[Row]) -> None:
        # After each row and target, so that a run that is cut off leaves what it measured.
        if options.json is not None:
            results = {"targets": [dataclasses.asdict(outcome) for outcome in outcomes]}
            results["run"] = dataclasses.asdict(replace(run, rows=(*measured, *rows)))
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    for threads in sorted({target.threads for target in chosen if cuda or options.threads in (None, target.threads)}):
        use_threads(None if cuda else threads)
        print_environment(replace(run, threads=torch.get_num_threads()))
        rows: Rows = {}
        for target in (target for target in chosen if target.threads == threads):
            measure(target.rows, device, options.seconds, rows, save)
            outcomes.append(verdict(target, rows))
            print(outcomes[-1], flush=True)
            save(rows.values())
        if cuda:
            measure(_CUDA_EXTRA, device, options.seconds, rows, save)
        measured += rows.values()
        save(())
    return 1 if any(outcome.met is False for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
