"""``python -m benchmarks.memory``: what the assigners take beside inputs and results, at full size, on Linux.

128 pictures of 8,400 anchors and 4,967 boxes, and 16 of 120,087 anchors and 100 boxes; ``--images`` makes it fewer.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import tinyssd_ops as ops
from benchmarks.assigner_cases import RETINA, YOLO, _rule, arguments

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OPS = (
    "assign_threshold",
    "assign_atss",
    "assign_task_aligned",
    "assign_simota",
    "assignment_target",
    "multibox_target",
)


def memory(field: str) -> int:
    """A number of /proc/self/status, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024


def peak(function: Callable[[], Any]) -> tuple[float, int]:
    """Seconds of a call, and the bytes by which the process grew beyond its results."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier calls have freed leaves the process, so it cannot be reused
    _RESET.write_text("5")  # the peak starts at what there is now
    before = memory("VmRSS")
    started = time.perf_counter()
    results = function()
    seconds = time.perf_counter() - started
    kept = sum(t.numel() * t.element_size() for t in tree_leaves(results) if isinstance(t, Tensor))
    return seconds, memory("VmHWM") - before - kept


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns 1 where an op takes more than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--images", type=int, help="of each batch (default: 128 and 16)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--most", type=float, default=100.0, help="MB that an op may take (default: 100)")
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    worst = 0.0
    for pyramid, images, boxes in ((YOLO, 128, 4967), (RETINA, 16, 100)):
        images = options.images or images
        for op in OPS:
            args, run = arguments(op, pyramid, images, boxes, 0), _rule(op, ops)
            run(*arguments(op, YOLO, 1, 1, 0))  # what the first call leaves behind for good
            seconds, extra = peak(lambda run=run, args=args: run(*args))
            worst = max(worst, extra / 1e6)
            label = f"B={images} A={sum(pyramid.sizes)} G={boxes}"
            print(f"{op:20} {label:24} {seconds:8.3f} s {extra / 1e6:8.1f} MB", flush=True)
    return 1 if worst > options.most else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
