"""The parts that run our kernels under NVIDIA's tools: compute-sanitizer and Nsight Compute."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gate.programs import Done, Gate, Result, failed, judged, tail

_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# CUB's kernels are known to be flagged by these; what they say is reported and decides nothing.
_TOOLS_FOR_OTHERS = ("racecheck", "initcheck")
# The beginning of the mangled name of each of our kernels; CUB's may have it within.
_OURS = "_ZN7tinyssd"
_CUDA_BIN = Path("/usr/local/cuda/bin")


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit, which need not be on the PATH."""
    return shutil.which(name) or shutil.which(name, path=str(_CUDA_BIN))


def sanitizers(gate: Gate) -> Result:
    """Four tools over our kernels, one after another, then two over all others."""
    tool = find_tool("compute-sanitizer")
    if tool is None:
        return Result("sanitizers", "skipped", "compute-sanitizer is not installed")
    figures, tails = {}, []
    for name in _TOOLS:
        done = _sanitize(gate, tool, name, ("--kernel-name", f"kns={_OURS}"))
        figures[name] = _summary(done)
        # The exit status alone would pass a tool that refused the device and ran nothing.
        if done.status != 0 or not _is_clean(done):
            tails.append(f"--- {name}\n{tail(done, 25)}")
    for name in _TOOLS_FOR_OTHERS:
        done = _sanitize(gate, tool, name, ("--kernel-name-exclude", f"kns={_OURS}"))
        figures[f"{name} of other kernels"] = _summary(done)
    summary = "; ".join(f"{name}: {said}" for name, said in figures.items())
    return Result("sanitizers", "failed" if tails else "passed", summary, figures, tail="\n".join(tails))


def _sanitize(gate: Gate, tool: str, name: str, which: Sequence[str]) -> Done:
    options = ("--tool", name, *which, "--error-exitcode", 86, "--print-limit", 20)
    program = (sys.executable, "-m", "benchmarks.sanitize", "--device", gate.device)
    return gate.run("sanitizers", [tool, *options, *program], PYTORCH_NO_CUDA_MEMORY_CACHING="1", OMP_NUM_THREADS="2")


def _summary(done: Done) -> str:
    said = [line.strip("= ") for line in done.lines if "SUMMARY" in line]
    return said[-1] if said else f"no summary, exit status {done.status}"


def _is_clean(done: Done) -> bool:
    ran = any(re.fullmatch(r"\d+ calls", line) for line in done.lines)
    # racecheck: "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)".
    return ran and re.search(r"SUMMARY: 0 (errors|hazards)", _summary(done)) is not None


def profile(gate: Gate) -> Result:
    """One launch of each of our kernels in Nsight Compute, as a CSV file in the folder of the result."""
    tool = find_tool("ncu")
    if tool is None:
        return Result("profile", "skipped", "ncu is not installed")
    file = gate.out / "profile.csv"
    file.unlink(missing_ok=True)
    # The card's clocks stay as they are. ncu asks each kernel several times for what it counts.
    options = ("--csv", "--page", "details", "--set", "basic", "--clock-control", "none", "--target-processes", "all")
    which = ("--kernel-name-base", "mangled", "--kernel-name", f"regex:^{_OURS}", "--log-file", file)
    program = (sys.executable, "-m", "benchmarks.sanitize", "--device", gate.device, "--headline")
    done = gate.run("profile", [tool, *options, *which, *program])
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    rows = [line for line in text.splitlines() if line.startswith('"') and not line.startswith('"ID"')]
    launches = {line.split('","')[0] for line in rows}
    if not rows:
        return failed("profile", done, "ncu wrote no rows")
    summary = f"{len(launches)} launches, {len(rows)} rows in {file.name}"
    return judged("profile", done, done.status == 0, summary, {"launches": len(launches)})
