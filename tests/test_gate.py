"""The gate of benchmarks/gpu_gate.py, part by part, with stand-ins for what a machine without a GPU lacks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from with_benchmarks import ROOT

from benchmarks import gpu_gate, runner, targets
from benchmarks.gate import checks, timings, tools
from benchmarks.gate.programs import Done, Gate, Result
from benchmarks.measure import Timing
from benchmarks.results import Row


@pytest.fixture
def tool(tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """Puts a program of Python lines on the PATH, and nothing else of the CUDA toolkit."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(tools, "_CUDA_BIN", folder)

    def put(name: str, lines: str) -> None:
        (folder / name).write_text(f"#!{sys.executable}\nimport json, sys, time\n{lines}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def module(gate, tmp_path, monkeypatch) -> Callable[[str], None]:
    """Makes a program of Python lines, with its options in sys.argv, what the gate runs as its own modules."""

    def put(lines: str) -> None:
        file = tmp_path / "stand_in.py"
        file.write_text(f"import json, pathlib, sys, time\n{lines}\n")

        def run(part: str, module: str, *options: object, **variables: str) -> Done:
            return gate.run(part, [sys.executable, file, module, *options], **variables)

        monkeypatch.setattr(gate, "run_module", run)

    return put


# -- Results: parity, graphs


def test_parity_counts_what_it_compared(gate, module):
    module("""
out = pathlib.Path(sys.argv[sys.argv.index("--json") + 1])
out.write_text(json.dumps({"batches": 7, "calls": 70, "integers": 700, "mismatches": int("--device" not in sys.argv)}))
""")
    result = checks.parity(gate)
    assert (result.verdict, result.figures["calls"]) == ("passed", 70)
    assert result.summary == "7 batches, 70 calls, 700 integers compared: 0 calls differ"


def test_parity_that_differs_fails_and_says_so(gate, module):
    module("""
out = pathlib.Path(sys.argv[sys.argv.index("--json") + 1])
out.write_text(json.dumps({"batches": 1, "calls": 9, "integers": 90, "mismatches": 2}))
print("nms_padded differs")
sys.exit(1)
""")
    result = checks.parity(gate)
    assert (result.verdict, result.tail) == ("failed", "nms_padded differs")
    assert "2 calls differ" in result.summary


def test_graphs_are_listed_by_name(gate, tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "tests" / "test_cuda.py").write_text(
        "import pytest\ndef test_graph(): pass\n@pytest.mark.skip(reason='one GPU')\ndef test_two_gpus(): pass\n"
    )
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    result = checks.graphs(gate)
    assert result.verdict == "passed", result.tail
    assert result.figures["results"] == {"test_graph": "PASSED", "test_two_gpus": "SKIPPED"}
    assert result.summary.startswith("1 passed, 1 skipped in ")


class _Capture:
    """Of torch.cuda what a capture needs. Within it, an input that was not met before is an error."""

    def __init__(self, monkeypatch) -> None:
        self.capturing, self.replays = False, 0
        for name, value in {
            "Stream": lambda device: self,
            "current_stream": lambda device: self,
            "stream": lambda stream: contextlib.nullcontext(),
            "CUDAGraph": lambda: self,
            "graph": self._graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def wait_stream(self, stream: Any) -> None:
        assert not self.capturing

    @contextlib.contextmanager
    def _graph(self, graph: Any):
        self.capturing = True
        yield
        self.capturing = False

    def replay(self) -> None:
        self.replays += 1


def test_every_variant_is_warm_before_it_is_captured(monkeypatch):
    capture, met = _Capture(monkeypatch), set()

    def run(variant: int) -> int:
        assert variant in met or not capture.capturing, "met for the first time within the capture"
        met.add(variant)
        return variant

    replay = runner._captured(run, [(k,) for k in range(6)], torch.device("cpu"))
    assert met == set(range(6))
    replay()
    assert capture.replays == 1


# -- NVIDIA's tools

_SANITIZER = """
tool, ours = sys.argv[2], "--kernel-name" in sys.argv
bad = {bad}
print("========= COMPUTE-SANITIZER")
if {refuses}: print("no device"); sys.exit(0)
print("81 calls")
unit = "hazards displayed (0 errors, 0 warnings)" if tool == "racecheck" else "errors"
print(f"========= {{'RACECHECK' if tool == 'racecheck' else 'ERROR'}} SUMMARY: {{int(bad)}} {{unit}}")
sys.exit(86 if bad else 0)
"""


def test_sanitizers_judge_our_kernels_and_report_the_others(gate, tool):
    tool("compute-sanitizer", _SANITIZER.format(bad="not ours", refuses=False))
    result = tools.sanitizers(gate)
    assert (result.verdict, result.tail) == ("passed", "")
    assert len(result.figures) == 6
    assert result.figures["memcheck"] == "ERROR SUMMARY: 0 errors"
    assert result.figures["racecheck of other kernels"].startswith("RACECHECK SUMMARY: 1 hazards")


@pytest.mark.parametrize(
    ("bad", "refuses", "named"),
    [("ours and tool == 'initcheck'", "False", "--- initcheck"), ("False", "tool == 'synccheck'", "--- synccheck")],
)
def test_sanitizers_that_find_something_or_ran_nothing_fail(gate, tool, bad, refuses, named):
    tool("compute-sanitizer", _SANITIZER.format(bad=bad, refuses=refuses))
    result = tools.sanitizers(gate)
    assert result.verdict == "failed"
    assert [line for line in result.tail.splitlines() if line.startswith("---")] == [named]


_NCU = """
log = sys.argv[sys.argv.index("--log-file") + 1]
assert "regex:^_ZN7tinyssd" in sys.argv
with open(log, "w") as file:
    print('"ID","Kernel Name","Metric Name"', file=file)
    for launch in range(3):
        for metric in ("Duration", "Registers"): print(f'"{launch}","match_kernel","{metric}"', file=file, flush=True)
"""


def test_the_profile_is_a_table(gate, tool):
    tool("ncu", _NCU)
    result = tools.profile(gate)
    assert (result.verdict, result.summary) == ("passed", "3 launches, 6 rows in profile.csv")


def test_a_profile_of_nothing_fails(gate, tool):
    tool("ncu", "print('==ERROR== no permission to use the performance counters'); sys.exit(1)")
    result = tools.profile(gate)
    assert (result.verdict, result.summary) == ("failed", "ncu wrote no rows (exit status 1)")
    assert "performance counters" in result.tail


# -- Time


def test_a_part_that_is_cut_off_leaves_what_it_measured(gate, module):
    module("""
print("nms random", flush=True)
row = {"op": "nms", "ours": {"median": 1e-3}, "error": ""}
pathlib.Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({"rows": [row]}))
time.sleep(60)
""")
    gate.limits = {"suite": 2.0}
    started = time.monotonic()
    result = timings.suite(gate)
    assert time.monotonic() - started < 20
    assert (result.verdict, result.summary) == ("failed", "1 rows timed, 0 failed; ran out of time")
    assert result.lines == "nms random"
    assert "ended at its limit of 2 s" in result.tail


def test_a_profile_that_is_cut_off_keeps_its_rows(gate, tool):
    tool("ncu", _NCU + "time.sleep(60)")
    gate.limits = {"profile": 3.0}
    result = tools.profile(gate)
    assert result.verdict == "failed"
    assert result.summary == "3 launches, 6 rows in profile.csv; ran out of time"


def test_the_program_under_a_tool_ends_with_it(gate, tmp_path):
    """A sanitizer's child must not hold the GPU after its part."""
    child = f"import pathlib, time\ntime.sleep(4)\npathlib.Path({str(tmp_path / 'late')!r}).touch()"
    gate.limits = {"sanitizers": 1.5}
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    assert gate.run("sanitizers", [sys.executable, "-c", parent]).status is None
    time.sleep(4)
    assert not (tmp_path / "late").exists()


def test_each_row_is_on_disk_once_it_is_measured(tmp_path, monkeypatch):
    file, seen = tmp_path / "bench.json", []

    def run_case(case: Any, *_: Any) -> Row:
        if file.exists():
            seen.append(len(json.loads(file.read_text())["run"]["rows"]))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return Row(case.op, case.inputs, case.size, case.label, ours=Timing(1.0, 1.0, 1.0, 3))

    monkeypatch.setattr(targets, "run_case", run_case)
    monkeypatch.setattr(targets, "refuse_fallback", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        targets.main(["--seconds", "0", "--json", str(file)])
    assert seen[-1] == len(json.loads(file.read_text())["run"]["rows"]) >= 2
    assert seen == sorted(seen)


def test_sanitizers_and_times_have_the_gpu_alone(gate, monkeypatch):
    spans: dict[str, tuple[float, float]] = {}

    def part(name: str) -> gpu_gate.Part:
        def run(_: Gate) -> Result:
            begun = time.monotonic()
            time.sleep(0.05)
            spans[name] = begun, time.monotonic()
            return Result(name, "passed", "")

        return gpu_gate.Part(run, 10, 0)

    monkeypatch.setattr(gpu_gate, "PARTS", {name: part(name) for name in gpu_gate.PARTS})
    gpu_gate.run_parts(gate, gpu_gate.Record(gate, "", {"device": ""}), list(gpu_gate.PARTS), time.monotonic() + 300)
    assert set(spans) == set(gpu_gate.PARTS)
    for name in ("build", "sanitizers", "bench", "profile", "suite"):
        begun, ended = spans.pop(name)
        assert all(end <= begun or start >= ended for start, end in spans.values()), name


def test_the_clock_starts_before_the_probe(tmp_path, monkeypatch):
    deadlines = []

    def probe() -> dict[str, Any]:
        time.sleep(0.4)
        return gpu_gate.stand_in()

    def part(gate: Gate) -> Result:
        deadlines.append(gate.deadline)
        return Result("parity", "passed", "")

    monkeypatch.setattr(gpu_gate, "probe_gpu", probe)
    monkeypatch.setitem(gpu_gate.PARTS, "parity", gpu_gate.Part(part, 10, 0))
    (tmp_path / "work" / "site").mkdir(parents=True)
    started = time.monotonic()
    options = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--only", "parity", "--budget", "100"]
    assert gpu_gate.main(options) == 0
    assert started <= deadlines[0] - 100 < started + 0.3


def test_all_of_it_ends_within_500_seconds():
    assert gpu_gate.BUDGET < 500
    names = list(gpu_gate.PARTS)
    deadlines = [gpu_gate.group_deadline(group, names, gpu_gate.BUDGET) for group in gpu_gate.GROUPS]
    assert deadlines == sorted(deadlines)
    assert deadlines[-1] == gpu_gate.BUDGET
    # However long the parts before take, what is reserved for a part is left.
    for group, deadline, before in zip(gpu_gate.GROUPS[1:], deadlines[1:], deadlines, strict=False):
        assert deadline - before >= max(gpu_gate.PARTS[name].reserved for name in group)


# -- Elsewhere


def test_it_works_from_a_copy_inside_another_folder(tmp_path):
    copy = tmp_path / "outer project" / "copy"
    for folder in ("benchmarks", "tests", "tinyssd_ops"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    # What pytest or Python would take from the folder around it.
    (copy.parent / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--no-such-option'\n")
    (copy.parent / "conftest.py").write_text("raise RuntimeError('not of this project')\n")
    site = copy / "build" / "gpu_gate" / "site"
    site.mkdir(parents=True)
    shutil.copytree(ROOT / "tinyssd_ops", site / "tinyssd_ops", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tests" / "test_cuda.py").write_text("def test_graph(): pass\n")
    command = [sys.executable, "-m", "benchmarks.gpu_gate", "--rehearse", "--only", "graphs", "--out", "result"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "graphs     passed" in done.stdout
    parts = json.loads((copy / "result" / "gate.json").read_text())["parts"]
    assert parts[0]["figures"]["results"] == {"test_graph": "PASSED"}
