"""The parts that take times: the promises, and the small rows of the suite. Each row is on disk once it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gate.programs import Done, Gate, Result, failed, judged, read


def bench(gate: Gate) -> Result:
    """The promises for CUDA."""
    file = gate.out / "bench.json"
    file.unlink(missing_ok=True)
    done = gate.run_module("bench", "benchmarks.targets", "--device", gate.device, "--seconds", 1, "--json", file)
    figures = read(file)
    if not figures:
        return failed("bench", done, "it broke off")
    met = sum(target["met"] is True for target in figures["targets"])
    rows = figures["run"]["rows"]
    errors = [row for row in rows if row["error"]]
    summary = f"{met} of {len(figures['targets'])} promises met" + (f", {len(errors)} rows failed" if errors else "")
    good = done.status == 0 and not errors and met == len(figures["targets"])
    return judged("bench", done, good, summary, figures, printed(done, rows))


def suite(gate: Gate) -> Result:
    """The small rows of the suite."""
    file = gate.out / "suite.json"
    file.unlink(missing_ok=True)
    options = ("--quick", "--device", gate.device, "--seconds", 0.05, "--json", file)
    done = gate.run_module("suite", "benchmarks", *options)
    figures = read(file)
    if not figures:
        return failed("suite", done, "it broke off")
    timed = sum(row["ours"] is not None for row in figures["rows"])
    summary = f"{timed} rows timed, {sum(bool(row['error']) for row in figures['rows'])} failed"
    return judged("suite", done, done.status == 0, summary, figures, printed(done, figures["rows"]))


def printed(done: Done, rows: Sequence[dict[str, Any]]) -> str:
    """The rows and the promises among the lines that a benchmark printed."""
    starts = {row["op"] for row in rows} | {"cuda"}
    return "\n".join(line for line in done.lines if line.split()[0] in starts)
