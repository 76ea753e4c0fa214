"""``python -m benchmarks.counts``: instructions and peak memory of fixed calls on the CPU, which no clock can blur.

Each call runs on one thread under valgrind's callgrind, on the AVX2 path (valgrind knows no AVX-512), after a first one
that warms up. Its instructions are those of the whole call, dispatcher and Torch included; its bytes are the most that
it had allocated at once, results included. ``--update`` commits them, ``--check`` fails where a count has grown.

``counts.json`` holds them with what they depend on, the compiler and the versions of Python and Torch: under others
nothing is compared. Needs Linux on x86-64, g++ and valgrind (``apt-get install valgrind``).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import tinyssd_ops as ops
from benchmarks import assigner_cases, inputs

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "counts.json"
SIMD = "avx2"
_GROWTH = 1.05

Counts = dict[str, dict[str, int]]  # "instructions" and "bytes" by the names of calls


def calls() -> dict[str, Callable[[], Any]]:
    """What is counted, by name."""
    boxes, scores, anchors = inputs.random_boxes(2000, 0), inputs.scores(2000, 0), inputs.ssd_anchors()
    found: dict[str, Callable[[], Any]] = {
        "box_iou 500 x 500": lambda: ops.box_iou(boxes[:500], boxes[500:1000]),
        "iou_pairs ciou N=2,000": lambda: ops.iou_pairs(boxes, boxes.flip(0), kind="ciou", aligned=True),
        "batched_nms random N=2,000 C=20": lambda: ops.batched_nms(boxes, scores, classes, 0.5),
        "nms_padded random B=2 N=1,000": lambda: ops.nms_padded(boxes.view(2, -1, 4), scores.view(2, -1), 0.5),
        "soft_nms random N=300": lambda: ops.soft_nms(boxes[None, :300], scores[None, :300], gaussian=True),
        "soft_nms random N=2,000": lambda: ops.soft_nms(boxes[None], scores[None]),
        "assign_anchors A=5,444 G=8": lambda: ops.assign_anchors(anchors[0], labels[0, :, 1:]),
        "multibox_target B=4 A=5,444 G=8": lambda: ops.multibox_target(anchors, labels),
        "multibox_detection A=5,444 C=2": lambda: ops.multibox_detection(probs, heads.offsets, anchors),
        "detect A=5,444 C=2": lambda: ops.detect(probs, heads.offsets, anchors),
    }
    classes, labels = inputs.class_ids(2000, 20, 0), inputs.labels(4, 8, 1, 0)
    heads = inputs.random_predictions(1, 2, 0, anchors)
    probs = heads.logits.softmax(2).transpose(1, 2).contiguous()
    for kind, threshold in (("random", 0.5), ("clustered", 0.5), ("disjoint", 0.005), ("identical", 0.5)):
        drawn = getattr(inputs, f"{kind}_boxes")(2000, 1)
        found[f"nms {kind} N=2,000"] = lambda drawn=drawn, threshold=threshold: ops.nms(drawn, scores, threshold)
    pyramid = assigner_cases.YOLO
    for op in ("assign_threshold", "assign_atss", "assign_task_aligned", "assign_simota", "assignment_target"):
        args, rule = assigner_cases.arguments(op, pyramid, 1, 20, 0), assigner_cases._rule(op, ops)
        found[f"{op} A=8,400 G=20"] = lambda args=args, rule=rule: rule(*args)
    same = boxes[:1].expand(1000, 4).contiguous()
    found["assign_anchors A=1,000 G=300, all alike"] = lambda: ops.assign_anchors(same, same[:300])
    return found


def conditions() -> dict[str, str]:
    """What the counts depend on, beside the code."""
    build = ops.info()["build"].get("_C", {})
    python = "{}.{}".format(*sys.version_info)
    return {"python": python, "torch": torch.__version__, "compiler": str(build.get("compiler")), "simd": SIMD}


def missing() -> str | None:
    """Why this machine can count nothing, or None."""
    if os.uname().machine != "x86_64" or not sys.platform.startswith("linux"):
        return "calls are counted on x86-64 Linux alone"
    if SIMD not in ops.info()["build"].get("_C", {}).get("simd_paths", ()):
        return f"no kernels for {SIMD} here"
    tool = shutil.which("valgrind")
    if tool is None or not (Path(tool).parents[1] / "include/valgrind/callgrind.h").exists():
        return "no valgrind"
    return "no g++" if shutil.which("g++") is None else None


def count() -> Counts:
    """Runs every call once under callgrind."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/counter.so"
        source = str(ROOT / "benchmarks" / "counter.cpp")
        subprocess.run(["g++", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out", "-q"]
        fixed = {
            "LD_PRELOAD": library,
            "TINYSSD_OPS_SIMD": SIMD,
            "ATEN_CPU_CAPABILITY": SIMD,
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
        }
        program = [sys.executable, "-m", "benchmarks.counts", "--inside"]
        done = subprocess.run(
            [*command, *program, library], cwd=ROOT, env={**os.environ, **fixed}, check=True, stdout=subprocess.PIPE
        )
        peaks: dict[str, int] = json.loads(done.stdout)
        return {
            name: {"instructions": _total(Path(f"{folder}/out.{i}"), name), "bytes": peak}
            for i, (name, peak) in enumerate(peaks.items(), start=1)
        }


def _total(file: Path, name: str) -> int:
    """The instructions in one of callgrind's files."""
    text = file.read_text()
    assert f"Client Request: {name}\n" in text
    total = re.search(r"^totals: (\d+)", text, flags=re.MULTILINE)
    assert total is not None
    return int(total[1])


def _inside(library: str) -> None:
    """The counted program: prints the peak of each call in bytes."""
    counter = ctypes.CDLL(library)
    counter.count_end.restype = ctypes.c_int64
    torch.set_num_threads(1)
    peaks = {}
    for name, call in calls().items():
        call()
        label = name.encode()
        counter.count_begin()
        results = call()
        peaks[name] = counter.count_end(label)
        del results
    print(json.dumps(peaks))


def load() -> tuple[dict[str, str], Counts]:
    """What is committed: the conditions and the counts."""
    committed = json.loads(FILE.read_text())
    return committed["conditions"], committed["counts"]


def grown(counts: Counts, committed: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence for each count that is more than 5 % above the committed one, or has none, or lacks its call."""
    sentences = [f"{name}: committed, but no longer counted" for name in committed if name not in counts]
    for name, values in counts.items():
        if name not in committed:
            sentences.append(f"{name}: nothing is committed; python -m benchmarks.counts --update does it")
            continue
        for what, value in values.items():
            most = _GROWTH * committed[name][what]
            if value > most:
                sentences.append(f"{name}: {value:,} {what}, the table allows {most:,.0f}")
    return sentences


def main(argv: Sequence[str]) -> int:
    """Counts and prints; returns 1 where a count has grown, 2 where nothing can be counted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counts", description=(__doc__ or "").split("\n\n")[0].partition(": ")[2]
    )
    parser.add_argument("--update", action="store_true", help="commit the counts")
    parser.add_argument("--check", action="store_true", help="fail where a count has grown by more than 5 %%")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside is not None:
        _inside(options.inside)
        return 0
    if reason := missing():
        print(f"not counted: {reason}", file=sys.stderr)
        return 2
    counts = count()
    for name, values in counts.items():
        print(f"{name:<44} {values['instructions']:>14,} instructions {values['bytes']:>12,} bytes")
    if options.update:
        FILE.write_text(json.dumps({"conditions": conditions(), "counts": counts}, indent=1) + "\n")
    if not options.check:
        return 0
    under, committed = load()
    if under != conditions():
        print(f"not compared: the table is of {under}, this is {conditions()}", file=sys.stderr)
        return 2
    sentences = grown(counts, committed)
    print("\n".join(sentences), file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
