"""Programs that the gate runs, each with a limit, and what became of a part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 60


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
    """Where the gate works, and what is left of its time.

    Attributes:
        device: "cuda"; in a rehearsal "cpu", whose kernels then stand in for those of CUDA.
        architecture: Of the GPU, as TORCH_CUDA_ARCH_LIST names it.
        out: The folder of the result.
        work: Where the package is installed.
        wheels: A folder of wheels, or None.
        batches: Of the part parity.
        deadline: On the monotonic clock, for the parts that run now.
        limits: Seconds for each part.
        lock: Held to write the result.
    """

    device: str
    architecture: str
    out: Path
    work: Path
    wheels: Path | None
    batches: int
    deadline: float
    limits: Mapping[str, float]
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
        left = self.seconds_for(part)
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

    def seconds_for(self, part: str) -> float:
        """What is left for a part."""
        return min(self.limits[part], self.deadline - time.monotonic())

    def run_module(self, part: str, module: str, *options: object, **variables: str) -> Done:
        """Runs one of our own programs on the device under test."""
        return self.run(part, [sys.executable, "-m", module, *options], **variables)


def failed(name: str, done: Done, summary: str) -> Result:
    """A part whose program failed or ran out of time."""
    why = "ran out of time" if done.status is None else f"exit status {done.status}"
    return judged(name, done, False, f"{summary} ({why})")


def judged(
    name: str, done: Done, good: bool, summary: str, figures: dict[str, Any] | None = None, lines: str = ""
) -> Result:
    """A part's result, with the end of its output if it is not good."""
    summary += "; ran out of time" if figures and done.status is None else ""
    return Result(name, "passed" if good else "failed", summary, figures or {}, lines, "" if good else tail(done))


def tail(done: Done, lines: int = _TAIL) -> str:
    """The end of an output."""
    return "\n".join(done.lines[-lines:])


def read(file: Path) -> dict[str, Any]:
    """What a program left in a JSON file; {} if it left none, or was ended while it wrote."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
