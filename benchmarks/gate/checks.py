"""The parts that compare results: the tests, those that need a GPU, and random batches on both backends."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.gate.build import absent
from benchmarks.gate.programs import ROOT, Gate, Result, failed, judged, read

_TEST_PACKAGES = ("pytest", "hypothesis", "numpy")
_APP_PACKAGES = ("numpy", "PIL", "matplotlib", "tqdm", "faster_coco_eval")


def tests(gate: Gate) -> Result:
    """The whole suite but for the part ``graphs``."""
    # test_simt.py is about a stand-in for a GPU.
    more, notes = [f"--ignore={ROOT / 'tests' / name}" for name in ("test_cuda.py", "test_simt.py")], []
    if missing := absent(gate, _APP_PACKAGES):
        more.append("--ignore-glob=*test_app_*")
        notes.append(f"without the application's tests, for want of {', '.join(missing)} (--wheels DIR)")
    if not absent(gate, ("xdist",)):
        more += ["-n", str(min(8, os.cpu_count() or 1))]
    return _pytest(gate, "tests", [ROOT / "tests", *more], notes)


def graphs(gate: Gate) -> Result:
    """The tests that need a GPU, by name."""
    return _pytest(gate, "graphs", [ROOT / "tests" / "test_cuda.py", "-v"], [])


def _pytest(gate: Gate, part: str, arguments: Sequence[object], notes: list[str]) -> Result:
    if missing := absent(gate, _TEST_PACKAGES):
        return Result(part, "failed", f"needs {', '.join(missing)}: give their wheels with --wheels DIR")
    options = ("-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-p", "no:cacheprovider", "--durations", "8")
    # In the folder of the build, so that the tests find the built package and not the source tree.
    done = gate.run(part, [sys.executable, "-m", "pytest", *options, *arguments], cwd=gate.work, OMP_NUM_THREADS="2")
    last = re.findall(r"^=*\s*((?:\d+ \w+(?:, )?)+ in [\d.]+s.*?)\s*=*$", done.output, flags=re.MULTILINE)
    summary = "; ".join([last[-1] if last else "no summary", *notes])
    if done.status != 0:
        return failed(part, done, summary)
    skipped = sorted({line.partition("] ")[2] for line in done.lines if line.startswith("SKIPPED [")})
    results = re.findall(r"::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", done.output)
    figures: dict[str, Any] = {"skipped": skipped} if skipped else {}
    if part == "graphs":
        figures["results"] = dict(results)
    return Result(part, "passed", summary, figures)


def parity(gate: Gate) -> Result:
    """CPU kernels against CUDA kernels."""
    if missing := absent(gate, _TEST_PACKAGES[:1]):
        return Result("parity", "failed", f"needs {', '.join(missing)}: give its wheel with --wheels DIR")
    figures_file = gate.out / "parity.json"
    figures_file.unlink(missing_ok=True)
    # It stops drawing early enough to say how far it came.
    seconds = 0.8 * gate.seconds_for("parity")
    options = ("--device", gate.device, "--batches", gate.batches, "--seconds", seconds)
    files = ("--out", gate.out, "--json", figures_file)
    done = gate.run_module("parity", "benchmarks.parity", *options, *files, OMP_NUM_THREADS="4")
    figures = read(figures_file)
    if not figures:
        return failed("parity", done, "it broke off")
    summary = f"{figures['batches']} batches, {figures['calls']} calls, {figures['integers']} integers compared: "
    summary += f"{figures['mismatches']} calls differ"
    return judged("parity", done, done.status == 0, summary, figures)
