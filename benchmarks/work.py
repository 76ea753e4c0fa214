"""``python -m benchmarks.work``: work, depth and a modelled H100 time of the CUDA kernels, by count, without a GPU.

The exit status is 0 when the rows were counted. With ``--check`` it is 1 where a count exceeds its budget by more than
a tenth or a row misses its goal, and a line on standard error says which, by how much. It is 1 as well, with a
sentence, where no row matches ``--filter`` or this machine cannot compile the kernels for the CPU.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import work_budgets, work_rows
from benchmarks.work_machine import Counted, Machine
from benchmarks.work_model import Work, bound, work_of


def main(argv: Sequence[str]) -> int:
    """Counts the rows; returns the exit status."""
    options = _parse(argv)
    chosen = [row for row in work_rows.rows() if re.search(options.filter, row.name)]
    if not chosen:
        raise SystemExit(f"--filter {options.filter}: no row of that name; a name is like 'nms random N=1,000'")
    machine = Machine()
    print(header())
    complaints, measured = [], {}
    budgets = work_budgets.load() if options.check else {}
    for row in chosen:
        started = time.monotonic()
        args = row.make()
        counted = machine.count(row.op, args, options.blocks, options.events)
        footprint = work_rows.tensor_bytes((*args, *counted.results)) + counted.scratch
        works = [work_of(record, footprint) for record in counted.records]
        total = sum(works, Work())
        floor = row.floor(args, counted.results)
        print(line(row, total, counted, floor, time.monotonic() - started), flush=True)
        if options.launches:
            print_launches(counted, works, footprint)
        measured[row.name] = work_budgets.counts_of(total, counted.scratch)
        if options.check:
            complaints += work_budgets.exceeded(row.name, measured[row.name], budgets)
            complaints += work_budgets.missed(row, total, counted.scratch, floor)
    if options.json is not None:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    if options.update:
        work_budgets.save(measured)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def header() -> str:
    """The names of the columns."""
    return (
        f"{'row':34} {'modelled':>10} {'goal':>8} {'floor':>8} {'launches':>8} {'bytes':>8} {'transact.':>9} "
        f"{'instr.':>8} {'atomics':>8} {'warp ops':>8} {'IoU tests':>9} {'depth':>8} {'scratch':>8} {'counted in':>10}"
    )


def line(row: work_rows.Row, work: Work, counted: Counted, floor: float, seconds: float) -> str:
    """A row, as printed."""
    goal = row.most_seconds if row.floor_ratio is None else row.floor_ratio * floor
    return (
        f"{row.name:34} {work.seconds * 1e6:>7,.0f} us {'' if goal is None else format(goal * 1e6, ',.0f'):>8} "
        f"{floor * 1e6:>8,.0f} {work.launches:>8,.0f} {short(work.bytes):>8} {short(work.transactions):>9} "
        f"{short(work.instructions):>8} {short(work.atomics):>8} {short(work.warp_operations):>8} "
        f"{short(work.pairs):>9} {short(work.depth):>8} {short(counted.scratch):>8} {seconds:>8.1f} s"
    )


def print_launches(counted: Counted, works: Sequence[Work], footprint: float) -> None:
    """What each launch of a row costs, and what bounds it."""
    for record, work in zip(counted.records, works, strict=True):
        print(
            f"    {str(record['what'])[:40]:40} {work.seconds * 1e6:9.1f} us by {bound(record, footprint):10} "
            f"blocks {record['blocks']:>8,.0f} ({record['counted']:,.0f} counted) x {record['threads']:,.0f} "
            f"bytes {short(work.bytes)} instr. {short(work.instructions)} IoU tests {short(work.pairs)} "
            f"depth {short(work.depth)}"
        )


def short(value: float) -> str:
    """Three digits and a unit: 1.23M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.work", description=(__doc__ or "").split("\n\n")[0].partition(": ")[2]
    )
    parser.add_argument("--filter", default="", metavar="REGEX", help="only the rows whose name matches")
    parser.add_argument("--check", action="store_true", help="exit 1 where a budget is exceeded or a goal is missed")
    parser.add_argument("--update", action="store_true", help=f"rewrite the budgets ({work_budgets.FILE.name})")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the counts to this file")
    parser.add_argument("--launches", action="store_true", help="show each launch, and what bounds it")
    parser.add_argument("--blocks", type=int, default=64, help="blocks of a launch to count (default: %(default)s)")
    parser.add_argument(
        "--events", type=int, default=20_000_000, help="accesses of a launch after which fewer blocks are counted"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
