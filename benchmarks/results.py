"""What a run of the suite leaves: rows, the environment they were measured in, and their JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.measure import Timing

_FORMAT = 1


@dataclass(frozen=True)
class PeerResult:
    """One peer in one row.

    Attributes:
        name: The peer.
        timing: None if it was not run.
        note: Why not, or in what its result differs.
        same_job: Whether its result was the same, up to what the note says.
    """

    name: str
    timing: Timing | None
    note: str = ""
    same_job: bool = True


@dataclass(frozen=True)
class Row:
    """One op on one kind of inputs of one size.

    Attributes:
        op: The stem of the op's name.
        inputs: The kind of inputs.
        size: What the plots have on their x axis.
        label: The size in words.
        ours: None if the row was skipped or failed.
        peers: The reference first.
        floor: The least the work can cost, or None.
        floor_name: What was measured as the floor.
        note: Why the row was skipped.
        error: What the peers disagree on, or what broke; a row with an error is not timed.
    """

    op: str
    inputs: str
    size: int
    label: str
    ours: Timing | None = None
    peers: tuple[PeerResult, ...] = ()
    floor: Timing | None = None
    floor_name: str = ""
    note: str = ""
    error: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same row in another run."""
        return self.op, self.inputs, self.label

    def peer(self, name: str) -> PeerResult | None:
        """The peer of this name, if the row has it."""
        return next((peer for peer in self.peers if peer.name == name), None)

    def ratio(self, name: str) -> float | None:
        """How many times as long the peer takes, if both were timed."""
        peer = self.peer(name)
        if self.ours is None or peer is None or peer.timing is None:
            return None
        return peer.timing.median / self.ours.median

    @property
    def over_floor(self) -> float | None:
        """Our time as a multiple of the floor."""
        return self.ours.median / self.floor.median if self.ours and self.floor else None


@dataclass(frozen=True)
class Run:
    """All rows of one run, and where, when and how they were measured."""

    device: str
    threads: int
    backend: str
    versions: dict[str, str]
    build: dict[str, str]
    command: str
    date: str
    rows: tuple[Row, ...]


def describe(device: torch.device, backend: str, info: dict[str, Any], command: str) -> Run:
    """A run without rows yet; ``info`` is what ``tinyssd_ops.info()`` returns."""
    library = info["build"].get("_C_cuda" if device.type == "cuda" else "_C", {})
    wanted = ("compiler", "simd", "torch_abi_target", "cuda", "cuda_architectures")
    versions = {"tinyssd_ops": info["version"], "torch": info["torch"], "python": info["python"]}
    versions |= {name: importlib.metadata.version(name) for name in peers.PACKAGES if peers.available(name)}
    return Run(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        threads=torch.get_num_threads(),
        backend=backend,
        versions=versions,
        build={name: str(library[name]) for name in wanted if library.get(name)},
        command=command,
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        rows=(),
    )


def cpu_name() -> str:
    """The CPU's model name and how many of its cores there are."""
    cpuinfo = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        values = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        name = next(values, name)
    return f"{name}, {os.cpu_count() or 1} cores"


def save(run: Run, path: Path) -> None:
    """Writes the run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": _FORMAT, **dataclasses.asdict(run)}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> Run:
    """Reads what :func:`save` wrote.

    Raises:
        ValueError: If the file has another format.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.pop("format", None) != _FORMAT:
        raise ValueError(f"{path}: expected a result file of format {_FORMAT}")
    return Run(**{**values, "rows": tuple(_row(row) for row in values["rows"])})


def compare(old: Run, new: Run) -> list[str]:
    """A line for each row of both runs: old and new median, their ratio, and whether the quartiles part."""
    before = {row.key: row for row in old.rows}
    lines = []
    for row in new.rows:
        was = before.get(row.key)
        if was is None or was.ours is None or row.ours is None:
            continue
        verdict = "same within the spread"
        if row.ours.q1 > was.ours.q3:
            verdict = "slower"
        elif row.ours.q3 < was.ours.q1:
            verdict = "faster"
        ratio = row.ours.median / was.ours.median
        times = f"{milliseconds(was.ours.median)} -> {milliseconds(row.ours.median)}"
        lines.append(f"{' '.join(row.key)}: {times} ({ratio:.2f} of the old time): {verdict}")
    return lines


def milliseconds(seconds: float) -> str:
    """Three significant digits, in the unit that suits: 12.3 µs, 4.56 ms, 7.89 s."""
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 999.5:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds)} s"


def times(ratio: float) -> str:
    """A ratio for people: 0.87x, 4.5x, 132x."""
    return f"{ratio:.2f}x" if ratio < 2 else f"{ratio:.1f}x" if ratio < 20 else f"{ratio:.0f}x"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _row(values: dict[str, Any]) -> Row:
    def timing(value: dict[str, Any] | None) -> Timing | None:
        return None if value is None else Timing(**value)

    found = tuple(PeerResult(**{**peer, "timing": timing(peer["timing"])}) for peer in values["peers"])
    return Row(**{**values, "ours": timing(values["ours"]), "floor": timing(values["floor"]), "peers": found})
