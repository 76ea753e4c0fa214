"""The committed counts of ``benchmarks.work``, which no change may exceed unnoticed, and its goals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.work_model import Work
from benchmarks.work_rows import Row

FILE = Path(__file__).resolve().parent / "work_budgets.json"
COUNTS = ("launches", "bytes", "transactions", "instructions", "atomics", "warp_operations", "pairs", "depth")
_GROWTH = 1.1

Counts = Mapping[str, float]


def counts_of(work: Work, scratch: float) -> dict[str, float]:
    """What is committed for a row, in three digits: what is below is no change."""
    values = {name: getattr(work, name) for name in COUNTS} | {"scratch": scratch}
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def load() -> dict[str, Counts]:
    """The budgets, by the names of rows."""
    budgets: dict[str, Counts] = json.loads(FILE.read_text())
    return budgets


def save(counts: Mapping[str, Counts]) -> None:
    """Replaces the budgets of these rows."""
    budgets = (load() if FILE.exists() else {}) | dict(counts)
    FILE.write_text(json.dumps(dict(sorted(budgets.items())), indent=1) + "\n")


def exceeded(name: str, counts: Counts, budgets: Mapping[str, Counts]) -> list[str]:
    """A sentence for each count of a row that has grown by more than a tenth; the fix is the code, or ``--update``."""
    if name not in budgets:
        return [f"{name}: it has no budget; python -m benchmarks.work --update gives it one"]
    return [
        f"{name}: {count} {value:,.0f}, the budget is {budgets[name][count]:,.0f}"
        for count, value in counts.items()
        if value > _GROWTH * budgets[name][count]
    ]


def missed(row: Row, work: Work, scratch: float, floor: float) -> list[str]:
    """A sentence for each goal that a row misses."""
    sentences = []
    goal = row.most_seconds if row.floor_ratio is None else row.floor_ratio * floor
    if goal is not None and work.seconds > goal:
        sentences.append(f"{row.name}: modelled {work.seconds * 1e6:,.0f} us, the goal is {goal * 1e6:,.0f} us")
    if row.most_scratch is not None and scratch > row.most_scratch:
        sentences.append(f"{row.name}: scratch {scratch / 1e6:,.0f} MB, the goal is {row.most_scratch / 1e6:,.0f} MB")
    return sentences
