"""``python -m benchmarks.gpu_gate --out DIR``: everything that only a GPU can show, as one command without a network.

Each part is a program of its own with a time limit, so one that fails or hangs hides no other:

  build       the package with CUDA kernels for this GPU, installed into a folder of its own
  tests       the test suite, on the CPU and on the GPU
  parity      1,000 random batches, CPU kernels against CUDA kernels
  graphs      tests/test_cuda.py: CUDA graphs, torch.compile, streams, a captured training step, half a million boxes
  sanitizers  compute-sanitizer's memcheck, racecheck, initcheck and synccheck
  bench       the promises of benchmarks/targets.py for CUDA
  suite       the small rows of the benchmark suite

DIR gets ``gate.json``, ``gate.md``, ``gate.log`` (all that the parts printed) and, where kernels differ,
``mismatch.pt``. The exit status is 1 if a part failed, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_TAIL = 60
_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_TEST_PACKAGES = ("pytest", "hypothesis", "numpy")
_APP_PACKAGES = ("numpy", "PIL", "matplotlib", "tqdm", "pycocotools")
_PROBE = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available()}
if found["available"]:
    gpu = torch.cuda.get_device_properties(0)
    found |= {"name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "count": torch.cuda.device_count()}
    found |= {"multiprocessors": gpu.multi_processor_count, "memory": gpu.total_memory, "l2": gpu.L2_cache_size}
print(json.dumps(found))
"""
_INFO = "import json, tinyssd_ops; print(json.dumps(tinyssd_ops.info()))"


@dataclass(frozen=True)
class Done:
    """A program that ended, or was ended at its limit (``status`` None)."""

    status: int | None
    seconds: float
    output: str

    @property
    def lines(self) -> list[str]:
        """What it printed, without empty lines."""
        return [line for line in self.output.splitlines() if line.strip()]


@dataclass
class Result:
    """What became of a part.

    Attributes:
        name: The part.
        verdict: "passed", "failed" or "skipped".
        summary: A sentence.
        figures: What was measured, for ``gate.json``.
        lines: The same for people; "" if the figures are short.
        tail: The end of a failing output.
        seconds: Set when the part has ended.
    """

    name: str
    verdict: str
    summary: str
    figures: dict[str, Any] = field(default_factory=dict)
    lines: str = ""
    tail: str = ""
    seconds: float = 0.0


@dataclass
class Gate:
    """Where the gate works, and what is left of its time."""

    architecture: str
    out: Path
    work: Path
    wheels: Path | None
    batches: int
    deadline: float
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def site(self) -> Path:
        """Where the package is installed."""
        return self.work / "site"

    @property
    def extras(self) -> Path:
        """Where wheels of missing packages are installed."""
        return self.work / "wheels"

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of every part: the built package first, none of the library's own settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TINYSSD_OPS_")}
        paths = [str(self.site), str(self.extras), kept.get("PYTHONPATH", "")]
        return {**kept, "PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONUNBUFFERED": "1", **more}

    def run(self, part: str, command: Sequence[object], cwd: Path = ROOT, **variables: str) -> Done:
        """Runs a program to its end or its limit; what it prints goes to the log.

        Its whole process group is ended at the limit: a sanitizer and the program under it, pytest and its workers.
        """
        left = min(PARTS[part][1], self.deadline - time.monotonic())
        if left < 1:
            return Done(None, 0.0, "no time was left for it")
        started = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=left)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, status = process.communicate()[0] + f"\nended at its limit of {left:.0f} s\n", None
        done = Done(status, time.monotonic() - started, output.replace(str(ROOT), "."))
        with self.lock, (self.out / "gate.log").open("a", encoding="utf-8") as log:
            log.write(f"===== {part}: exit status {status}, {done.seconds:.1f} s\n{done.output}\n")
        return done


# --- the parts -------------------------------------------------------------------------------------------------------


def build(gate: Gate) -> Result:
    """Installs the package, and looks at what was built."""
    gate.work.mkdir(parents=True, exist_ok=True)
    notes = install_wheels(gate)
    if missing := absent(gate, ("pip", "setuptools", "ninja", "pybind11")):
        return Result("build", "failed", f"needs {', '.join(missing)}: give their wheels with --wheels DIR{notes}")
    shutil.rmtree(gate.site, ignore_errors=True)
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--disable-pip-version-check", "-v")
    done = gate.run(
        "build",
        [sys.executable, "-m", "pip", "install", *options, "--target", gate.site, ROOT],
        TORCH_CUDA_ARCH_LIST=gate.architecture,
        TINYSSD_OPS_CUDA="1",
    )
    if done.status != 0:
        return _failed("build", done, f"pip install failed{notes}")
    # Away from the source tree: what is looked at is what was installed.
    asked = gate.run("build", [sys.executable, "-c", _INFO], cwd=gate.work)
    if asked.status != 0:
        return _failed("build", asked, "the built package cannot be imported")
    info = json.loads(asked.lines[-1])
    served = info["backends"]["cuda"]
    if served["backend"] != "native" or str(gate.work).replace(str(ROOT), ".") not in served["why"]:
        return _failed("build", asked, f"the library in use is not the one built: {served['why']}")
    return Result("build", "passed", f"{done.seconds:.0f} s{notes}", info["build"]["_C_cuda"])


def install_wheels(gate: Gate) -> str:
    """Installs what is missing and lies in the folder of wheels; a sentence about it, or ""."""
    if gate.wheels is None:
        return ""
    found = sorted(gate.wheels.glob("*.whl"))
    named = {wheel: re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower() for wheel in found}
    there = {re.sub(r"[-_.]+", "-", d.metadata["Name"] or "").lower() for d in importlib.metadata.distributions()}
    wanted = [wheel for wheel in found if named[wheel] not in there]
    if not wanted:
        return f"; none of the {len(found)} wheels was needed"
    options = ("--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", "--upgrade", "-q")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", gate.extras, *wanted]
    done = gate.run("build", command)
    names = ", ".join(named[wheel] for wheel in wanted)
    return f"; from wheels: {names}" if done.status == 0 else f"; the wheels of {names} could not be installed"


def absent(gate: Gate, modules: Sequence[str]) -> list[str]:
    """The modules that a part could not import."""
    code = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])"
    command = [sys.executable, "-c", code, *modules]
    return subprocess.run(command, env=gate.environment(), capture_output=True, text=True, check=True).stdout.split()


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
        return _failed(part, done, summary)
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
    figures_file = gate.work / "parity.json"
    figures_file.unlink(missing_ok=True)
    # It stops drawing early enough to say how far it came.
    seconds = 0.8 * min(PARTS["parity"][1], gate.deadline - time.monotonic())
    command = ["--batches", gate.batches, "--seconds", seconds, "--out", gate.out, "--json", figures_file]
    done = gate.run("parity", [sys.executable, "-m", "benchmarks.parity", *command], OMP_NUM_THREADS="4")
    figures = _read(figures_file)
    if not figures:
        return _failed("parity", done, "it broke off")
    summary = f"{figures['batches']} batches, {figures['calls']} calls, {figures['integers']} integers compared: "
    summary += f"{figures['mismatches']} calls differ"
    return _judged("parity", done, done.status == 0, summary, figures)


def sanitizers(gate: Gate) -> Result:
    """Four tools over the same program, at once: they keep the GPU busy for a small part of their time."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).is_file():
        return Result("sanitizers", "skipped", "compute-sanitizer is not installed")
    program = [sys.executable, "-m", "benchmarks.sanitize"]

    def one(name: str) -> Done:
        command = [tool, "--tool", name, "--error-exitcode", 86, "--print-limit", 20, *program]
        return gate.run("sanitizers", command, PYTORCH_NO_CUDA_MEMORY_CACHING="1", OMP_NUM_THREADS="2")

    with concurrent.futures.ThreadPoolExecutor(len(_TOOLS)) as pool:
        done = dict(zip(_TOOLS, pool.map(one, _TOOLS), strict=True))
    figures, tails = {}, []
    for name, one_done in done.items():
        said = [line.strip("= ") for line in one_done.lines if "SUMMARY" in line]
        figures[name] = said[-1] if said else f"no summary, exit status {one_done.status}"
        # The exit status alone would pass a tool that refused the device and ran nothing.
        clean = one_done.status == 0 and said and re.search(r"SUMMARY: 0 (errors|hazards)", said[-1])
        if not clean or not any(re.fullmatch(r"\d+ calls", line) for line in one_done.lines):
            tails.append(f"--- {name}\n{_tail(one_done, 25)}")
    summary = "; ".join(f"{name}: {said}" for name, said in figures.items())
    return Result("sanitizers", "failed" if tails else "passed", summary, figures, tail="\n".join(tails))


def bench(gate: Gate) -> Result:
    """The promises for CUDA."""
    file = gate.work / "targets.json"
    file.unlink(missing_ok=True)
    command = ["--device", "cuda", "--seconds", 1, "--json", file]
    done = gate.run("bench", [sys.executable, "-m", "benchmarks.targets", *command])
    figures = _read(file)
    if not figures:
        return _failed("bench", done, "it broke off")
    met = sum(target["met"] is True for target in figures["targets"])
    rows = figures["run"]["rows"]
    errors = [row for row in rows if row["error"]]
    summary = f"{met} of {len(figures['targets'])} promises met" + (f", {len(errors)} rows failed" if errors else "")
    summary += "; ran out of time" if done.status is None else ""
    good = done.status == 0 and not errors and met == len(figures["targets"])
    return _judged("bench", done, good, summary, figures, printed(done, rows))


def suite(gate: Gate) -> Result:
    """The small rows of the suite."""
    file = gate.work / "suite.json"
    file.unlink(missing_ok=True)
    command = ["--quick", "--device", "cuda", "--seconds", 0.05, "--json", file]
    done = gate.run("suite", [sys.executable, "-m", "benchmarks", *command])
    figures = _read(file)
    if not figures:
        return _failed("suite", done, "it broke off")
    timed = sum(row["ours"] is not None for row in figures["rows"])
    summary = f"{timed} rows timed, {sum(bool(row['error']) for row in figures['rows'])} failed"
    return _judged("suite", done, done.status == 0, summary, figures, printed(done, figures["rows"]))


def printed(done: Done, rows: Sequence[dict[str, Any]]) -> str:
    """The rows and the promises among the lines that a benchmark printed."""
    starts = {row["op"] for row in rows} | {"cuda"}
    return "\n".join(line for line in done.lines if line.split()[0] in starts)


# Seconds for each. The second group runs at once, since most of it waits for the CPU; timings are taken alone.
PARTS: dict[str, tuple[Callable[[Gate], Result], int]] = {
    "build": (build, 170),
    "tests": (tests, 230),
    "parity": (parity, 200),
    "graphs": (graphs, 200),
    "sanitizers": (sanitizers, 230),
    "bench": (bench, 150),
    "suite": (suite, 100),
}
_GROUPS = (("build",), ("tests", "parity", "graphs", "sanitizers"), ("bench",), ("suite",))
# Seconds for all of it, and what is kept of them for the timings, however long the parts before take.
_BUDGET, _RESERVED_FOR_BENCH = 530, 170


def _failed(name: str, done: Done, summary: str) -> Result:
    why = "ran out of time" if done.status is None else f"exit status {done.status}"
    return _judged(name, done, False, f"{summary} ({why})")


def _judged(
    name: str, done: Done, good: bool, summary: str, figures: dict[str, Any] | None = None, lines: str = ""
) -> Result:
    return Result(name, "passed" if good else "failed", summary, figures or {}, lines, "" if good else _tail(done))


def _tail(done: Done, lines: int = _TAIL) -> str:
    return "\n".join(done.lines[-lines:])


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


# --- the result ------------------------------------------------------------------------------------------------------


def machine(probe: dict[str, Any]) -> dict[str, str]:
    """The device, the driver and the versions of everything that takes part."""
    found = {"device": probe["name"], "torch": probe["torch"], "CUDA of torch": probe["cuda"]}
    found |= {name: str(probe[name]) for name in ("capability", "count", "multiprocessors", "memory", "l2")}
    found["driver"] = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    found["nvcc"] = _last_match(r"release \S+ V\S+", "nvcc", "--version")
    found["compute-sanitizer"] = _last_match(r"Version \S+", "compute-sanitizer", "--version")
    found["python"] = sys.version.split()[0]
    for package in ("torchvision", "triton", "pytest"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["CPU cores"] = str(os.cpu_count())
    return found


def _first_line(*command: str) -> str:
    return next(iter(_output(*command).splitlines()), "not found")


def _last_match(pattern: str, *command: str) -> str:
    return next(iter(re.findall(pattern, _output(*command))[-1:]), "not found")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def write(out: Path, command: str, date: str, environment: dict[str, str], results: Sequence[Result]) -> None:
    """Both files; after every part, so that a gate that is cut off leaves what it knows."""
    contents = {"command": command, "date": date, "machine": environment}
    contents["parts"] = [dataclasses.asdict(result) for result in results]
    (out / "gate.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    (out / "gate.md").write_text(page(command, date, environment, results), encoding="utf-8")


def page(command: str, date: str, environment: dict[str, str], results: Sequence[Result]) -> str:
    """The result for people."""
    parts = [f"# GPU gate: {environment['device']}", f"`{command}`, {date}"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in environment.items()))
    lines = ["| part | verdict | seconds | |", "|---|---|---|---|"]
    lines += [f"| {r.name} | **{r.verdict}** | {r.seconds:.0f} | {r.summary.replace('|', '/')} |" for r in results]
    parts.append("\n".join(lines))
    for result in results:
        figures = "\n".join(f"{name}: {value}" for name, value in result.figures.items())
        for title, text in (("figures", result.lines or figures), ("the end of its output", result.tail)):
            if text:
                parts.append(f"## {result.name}: {title}\n\n```text\n{text.replace('```', '` ` `')}\n```")
    return "\n\n".join(parts) + "\n"


# --- the command -----------------------------------------------------------------------------------------------------


def probe_gpu() -> dict[str, Any]:
    """What PyTorch sees, asked in another process: this one must hold no memory of the GPU."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), "no message")
        return {"torch": "none", "cuda": None, "available": False, "error": last}
    return json.loads(done.stdout.splitlines()[-1])


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the result goes")
    parser.add_argument("--only", metavar="PART,...", help="only these; without build, the last one built is used")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels for packages that this machine lacks")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu_gate", help="where the package is installed")
    parser.add_argument("--batches", type=int, default=1_000, help="of the part parity (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=_BUDGET, help="seconds for all parts (default: %(default)s)")
    options = parser.parse_args(argv)
    options.only = options.only.split(",") if options.only else list(PARTS)
    if unknown := sorted(set(options.only) - set(PARTS)):
        parser.error(f"--only: there is no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    return options


def main(argv: Sequence[str]) -> int:
    """Runs the parts; see above for the exit status."""
    options = _parse(argv)
    probe = probe_gpu()
    if not probe["available"]:
        why = probe.get("error") or f"torch {probe['torch']} is built for CUDA {probe['cuda']} and sees no device"
        print(f"No GPU, so the gate cannot run: {why}.", file=sys.stderr)
        return 2
    started = time.monotonic()
    out, work = options.out.resolve(), options.work.resolve()
    if "build" not in options.only and not (work / "site").is_dir():
        print(f"Nothing was built in {work}: run the part build first, or with the others.", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    for old in ("gate.log", "mismatch.pt"):
        (out / old).unlink(missing_ok=True)
    wheels = options.wheels.resolve() if options.wheels else None
    end = started + options.budget
    gate = Gate(probe["capability"], out, work, wheels, options.batches, end)
    only = "" if options.only == list(PARTS) else f" --only {','.join(options.only)}"
    command = f"python -m benchmarks.gpu_gate{only}"
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    environment = machine(probe)
    print("; ".join(f"{name} {value}" for name, value in environment.items()), flush=True)

    results: dict[str, Result] = {}

    def take(name: str) -> None:
        print(f"{name} ...", flush=True)
        begun = time.monotonic()
        try:
            result = PARTS[name][0](gate)
        except Exception as error:  # A slip of the gate itself must not cost the other parts.
            result = Result(name, "failed", f"the gate broke: {type(error).__name__}: {error}")
        result.seconds = time.monotonic() - begun
        with gate.lock:
            results[name] = result
            write(out, command, date, environment, [results[part] for part in PARTS if part in results])
            print(f"{name}: {result.verdict}, {result.seconds:.0f} s, {result.summary}", flush=True)

    for group in _GROUPS:
        chosen = [name for name in group if name in options.only]
        timings_follow = "bench" in options.only and group != ("bench",) and group != ("suite",)
        gate.deadline = end - (_RESERVED_FOR_BENCH if timings_follow else 0)
        with concurrent.futures.ThreadPoolExecutor(max(1, len(chosen))) as pool:
            list(pool.map(take, chosen))
        if "build" in results and results["build"].verdict == "failed":
            break
    ordered = [
        results.get(name, Result(name, "failed", "not run: the build failed")) for name in PARTS if name in options.only
    ]
    write(out, command, date, environment, ordered)
    for result in ordered:
        if result.tail:
            print(f"\n===== {result.name}: the end of its output\n{result.tail}")
    print("\n".join(["", *(result.lines for result in ordered if result.name == "bench")]))
    print(
        "\n".join(
            f"{result.name:<11}{result.verdict:<8}{result.seconds:>5.0f} s  {result.summary}" for result in ordered
        )
    )
    print(f"{time.monotonic() - started:.0f} s in all; gate.md, gate.json and gate.log in {options.out}")
    return 1 if any(result.verdict == "failed" for result in ordered) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
