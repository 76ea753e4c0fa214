"""Keeps the figures of ``benchmarks.training`` and ``benchmarks.prediction``, and makes tables of them.

``python -m benchmarks.speed`` writes the tables of docs/detector.md anew, of what lies in benchmarks/results/speed.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.report import with_table
from benchmarks.results import cpu_name

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "speed"
PAGE = ROOT / "docs" / "detector.md"


@dataclass(frozen=True)
class Row:
    """One side.

    Attributes:
        network: "default" or "classic".
        size: Width and height of the input, pixels.
        batch: Pictures at once.
        name: Of what was measured.
        seconds: Of a batch, the median.
        rounds: How often it was measured.
    """

    network: str
    size: tuple[int, int]
    batch: int
    name: str
    seconds: float
    rounds: int


@dataclass
class Result:
    """Where, when and how the rows were measured."""

    command: str
    date: str
    device: str
    threads: int
    torch: str
    rows: list[Row] = field(default_factory=list)


def describe(program: str, argv: Sequence[str]) -> Result:
    """A result without rows; the command is kept without the file that it writes."""
    kept = [one for k, one in enumerate(argv) if "--json" not in (one, argv[k - 1] if k else "")]
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    command = shlex.join(["python", "-m", f"benchmarks.{program}", *kept])
    return Result(command, date, cpu_name(), torch.get_num_threads(), torch.__version__)


def save(result: Result, path: Path) -> None:
    """Writes the result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Result:
    """Reads what :func:`save` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    rows = [Row(**{**one, "size": tuple(one["size"])}) for one in values.pop("rows")]
    return Result(**values, rows=rows)


def training_table(result: Result) -> str:
    """A line for each side: what a step takes, and how that compares with ours."""
    networks = list(dict.fromkeys(one.network for one in result.rows))
    heads = [f"{name}: ms a step | times ours" for name in networks]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + 2 * len(networks)) + "|"]
    times = {(one.network, one.name): one.seconds for one in result.rows}
    for name in dict.fromkeys(one.name for one in result.rows):
        cells = [f"{times[n, name] * 1e3:.0f} | {times[n, name] / times[n, 'ours']:.2f}" for n in networks]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([_where(result), "", *lines])


def prediction_table(result: Result) -> str:
    """A line for each input and batch: pictures a second of each side."""
    names = list(dict.fromkeys(one.name for one in result.rows))
    lines = [f"| network | pixels | batch | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    rates = {(one.network, one.size, one.batch, one.name): one.batch / one.seconds for one in result.rows}
    for network, size, batch in dict.fromkeys(key[:3] for key in rates):
        cells = [f"{rates[network, size, batch, name]:.1f}" for name in names]
        lines.append(f"| {network} | {size[0]}x{size[1]} | {batch} | {' | '.join(cells)} |")
    return "\n".join([_where(result), "", *lines])


def page(text: str) -> str:
    """The page with its tables made anew; a kind of result that is not kept leaves its table alone."""
    for name, table in (("training", training_table), ("prediction", prediction_table)):
        path = KEPT / f"{name}.json"
        if path.is_file():
            text = with_table(text, table(load(path)), name)
    return text


def _where(result: Result) -> str:
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    where = f"{result.device}, {threads}, torch {result.torch}, {result.date}"
    return f"{where}, `{result.command}`; medians, other programs were running."


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
