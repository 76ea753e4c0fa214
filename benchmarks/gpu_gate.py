"""``python -m benchmarks.gpu_gate --out DIR``: everything that only a GPU can show, as one command without a network.

Each part is a program of its own with a time limit, so one that fails or hangs hides no other:

  build       the package with CUDA kernels for this GPU, installed into a folder of its own
  tests       the test suite, on the CPU and on the GPU
  parity      1,000 random batches, CPU kernels against CUDA kernels
  graphs      tests/test_cuda.py: CUDA graphs, torch.compile, streams, a captured training step, half a million boxes
  sanitizers  compute-sanitizer's memcheck, racecheck, initcheck and synccheck, of our kernels alone
  bench       the promises of benchmarks/targets.py for CUDA
  profile     Nsight Compute on each of our kernels
  suite       the small rows of the benchmark suite

Tests share the GPU, all else has it alone. All of it ends within 8 minutes. DIR gets ``gate.json``, ``gate.md``,
``gate.log`` (all that the parts printed), ``parity.json``, ``bench.json`` and ``suite.json`` (written as they grow),
``profile.csv`` and, where kernels differ, ``mismatch.pt``. The exit status is 1 if a part failed, 2 if there is no GPU.
``--rehearse`` runs it without one: the CPU's kernels stand in for those of CUDA.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gate.build import build
from benchmarks.gate.checks import graphs, parity, tests
from benchmarks.gate.machine import machine, probe_gpu, stand_in
from benchmarks.gate.page import write
from benchmarks.gate.programs import ROOT, Gate, Result
from benchmarks.gate.timings import bench, suite
from benchmarks.gate.tools import profile, sanitizers


@dataclass(frozen=True)
class Part:
    """A part of the gate.

    Attributes:
        run: Does it.
        limit: Seconds that it may take.
        reserved: Seconds that the parts before it leave it, however long they take.
    """

    run: Callable[[Gate], Result]
    limit: float
    reserved: float


PARTS = {
    "build": Part(build, 170, 0),
    "tests": Part(tests, 150, 0),
    "parity": Part(parity, 130, 0),
    "graphs": Part(graphs, 150, 0),
    "sanitizers": Part(sanitizers, 110, 60),
    "bench": Part(bench, 120, 80),
    "profile": Part(profile, 50, 30),
    "suite": Part(suite, 50, 15),
}
# What may run at once: the second group, most of which waits for the CPU.
GROUPS = (("build",), ("tests", "parity", "graphs"), ("sanitizers",), ("bench",), ("profile",), ("suite",))
BUDGET = 480.0


def group_deadline(group: Sequence[str], only: Sequence[str], end: float) -> float:
    """When a group must have ended: later parts that were asked for keep what is reserved for them."""
    later = [name for other in GROUPS[GROUPS.index(tuple(group)) + 1 :] for name in other if name in only]
    return end - sum(PARTS[name].reserved for name in later)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the result goes")
    parser.add_argument("--only", metavar="PART,...", help="only these; without build, the last one built is used")
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="wheels for packages that are missing here, or older"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu_gate", help="where the package is installed")
    parser.add_argument("--batches", type=int, default=1_000, help="of the part parity (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all of it (default: %(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: everything on the CPU")
    options = parser.parse_args(argv)
    options.only = options.only.split(",") if options.only else list(PARTS)
    if unknown := sorted(set(options.only) - set(PARTS)):
        parser.error(f"--only: there is no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    return options


class Record:
    """The results so far, on disk after every part."""

    def __init__(self, gate: Gate, command: str, environment: dict[str, str]) -> None:
        self.results: dict[str, Result] = {}
        self._gate, self._command, self._environment = gate, command, environment
        self._date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")

    def take(self, name: str) -> None:
        """Runs a part."""
        print(f"{name} ...", flush=True)
        begun = time.monotonic()
        try:
            result = PARTS[name].run(self._gate)
        except Exception as error:  # A slip of the gate itself must not cost the other parts.
            result = Result(name, "failed", f"the gate broke: {type(error).__name__}: {error}")
        result.seconds = time.monotonic() - begun
        with self._gate.lock:
            self.results[name] = result
            self.save()
            print(f"{name}: {result.verdict}, {result.seconds:.0f} s, {result.summary}", flush=True)

    def save(self) -> None:
        """Writes what is known."""
        ordered = [self.results[name] for name in PARTS if name in self.results]
        write(self._gate.out, self._command, self._date, self._environment, ordered)


def run_parts(gate: Gate, record: Record, only: Sequence[str], end: float) -> None:
    """Group by group; nothing after a build that failed."""
    for group in GROUPS:
        chosen = [name for name in group if name in only]
        gate.deadline = group_deadline(group, only, end)
        with concurrent.futures.ThreadPoolExecutor(max(1, len(chosen))) as pool:
            list(pool.map(record.take, chosen))
        if "build" in record.results and record.results["build"].verdict == "failed":
            break
    for name in only:
        record.results.setdefault(name, Result(name, "failed", "not run: the build failed"))
    record.save()


def main(argv: Sequence[str]) -> int:
    """Runs the parts; see above for the exit status."""
    started = time.monotonic()
    options = _parse(argv)
    probe: dict[str, Any] = stand_in() if options.rehearse else probe_gpu()
    if not probe["available"]:
        why = probe.get("error") or f"torch {probe['torch']} is built for CUDA {probe['cuda']} and sees no device"
        print(f"No GPU, so the gate cannot run: {why}.", file=sys.stderr)
        return 2
    out, work = options.out.resolve(), options.work.resolve()
    if "build" not in options.only and not (work / "site").is_dir():
        print(f"Nothing was built in {work}: run the part build first, or with the others.", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    for old in ("gate.log", "mismatch.pt"):
        (out / old).unlink(missing_ok=True)
    wheels = options.wheels.resolve() if options.wheels else None
    device = "cpu" if options.rehearse else "cuda"
    end = started + options.budget
    limits = {name: part.limit for name, part in PARTS.items()}
    gate = Gate(device, probe["capability"], out, work, wheels, options.batches, end, limits)
    only = "" if options.only == list(PARTS) else f" --only {','.join(options.only)}"
    command = f"python -m benchmarks.gpu_gate{only}{' --rehearse' if options.rehearse else ''}"
    environment = machine(probe)
    print("; ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
    record = Record(gate, command, environment)
    record.save()
    run_parts(gate, record, options.only, end)
    ordered = [record.results[name] for name in PARTS if name in options.only]
    for result in ordered:
        if result.tail:
            print(f"\n===== {result.name}: the end of its output\n{result.tail}")
    print("\n".join(["", *(result.lines for result in ordered if result.name == "bench")]))
    for result in ordered:
        print(f"{result.name:<11}{result.verdict:<8}{result.seconds:>5.0f} s  {result.summary}")
    print(f"{time.monotonic() - started:.0f} s in all; the files are in {options.out}")
    return 1 if any(result.verdict == "failed" for result in ordered) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
