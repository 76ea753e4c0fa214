"""Work and depth of the CUDA kernels: what is counted is right, and no more than the budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from simt import run
from with_benchmarks import ROOT

from benchmarks import inputs, work, work_budgets, work_model, work_rows
from benchmarks.work_machine import Counted, Machine
from benchmarks.work_model import Work, work_of

# Those that take seconds; assign_atss takes a minute and a half.
QUICK = (
    r"nms random N=(1,000|4,096)|nms chain|multibox_\w+ B=32|detect B=32 A=5444|box_iou 5|soft_nms linear"
    r"|assign_(threshold|task_aligned|simota) B=16|assignment_target"
)
# What a record of the machine holds.
NAMES = (
    "blocks",
    "counted",
    "threads",
    "shared_bytes",
    "instructions",
    "global_wavefronts",
    "shared_wavefronts",
    "l1_sectors",
    "read_sectors",
    "write_sectors",
    "atomic_sectors",
    "atomics",
    "warp_operations",
    "barriers",
    "pairs",
    "warp_pairs",
    "depth",
    "deepest",
    "most_instructions",
    "hottest",
    "device_launches",
    "device_bytes",
    "device_cycles",
)
machine = pytest.mark.skipif(run.missing() is not None, reason=str(run.missing()))


def _work(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.work", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ})


def _counts(**values: float) -> dict[str, float | str]:
    assert set(values) <= set(NAMES)
    return {"what": "a kernel", **dict.fromkeys(NAMES, 0.0), "blocks": 1, "counted": 1, "threads": 128, **values}


@machine
def test_counts_stay_within_the_budgets(tmp_path):
    done = _work("--filter", QUICK, "--json", str(tmp_path / "counts.json"))
    assert done.returncode == 0, done.stderr
    counted = json.loads((tmp_path / "counts.json").read_text())
    assert len(counted) == 13
    budgets = work_budgets.load()
    assert [s for name, counts in counted.items() for s in work_budgets.exceeded(name, counts, budgets)] == []


@machine
def test_counts_of_a_kernel_that_is_known():
    counted = Machine().count("box_iou", (inputs.random_boxes(256, 0), inputs.random_boxes(128, 1)), 1_000, 10**9)
    assert [record["what"] for record in counted.records] == ["box_iou_kernel"]
    assert counted.records[0]["counted"] == counted.records[0]["blocks"]
    assert counted.results[0].shape == (256, 128)
    assert counted.scratch == 0
    work = work_of(counted.records[0], 1e6)
    assert work.pairs == 256 * 128
    written, read = 4 * 256 * 128, 16 * (256 + 128)
    assert written + read <= work.bytes <= written + 8 * read
    assert work.atomics == work.warp_operations == 0
    assert 263 <= work.depth <= 10_000


@machine
def test_a_sample_stands_for_all_blocks():
    machine = Machine()
    args = inputs.ssd_anchors(), inputs.labels(8, 16, 20, 0), 0.5
    exact, sample = (
        [work_of(r, 1e6) for r in machine.count("multibox_target", args, n, 10**9).records] for n in (10**6, 16)
    )
    assert len(exact) == len(sample)
    for a, b in zip(exact, sample, strict=True):
        assert b.bytes == pytest.approx(a.bytes, rel=0.1)
        assert b.instructions == pytest.approx(a.instructions, rel=0.1)
        assert b.seconds == pytest.approx(a.seconds, rel=0.1)


def test_every_row_has_a_budget():
    assert {row.name for row in work_rows.rows()} == set(work_budgets.load())


def test_the_notes_tell_of_these_rows():
    lines = (ROOT / "benchmarks" / "notes" / "cuda_work.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    told = {row[0]: row for row in table[1:]}
    budgets = work_budgets.load()
    rows = {row.name: row for row in work_rows.rows()}
    assert {row.name for row in rows.values() if row.most_seconds or row.floor_ratio} <= set(told) <= set(rows)
    for row in (rows[name] for name in told):
        assert int(told[row.name][5]) == budgets[row.name]["launches"], row.name
        if row.most_seconds is not None:
            assert told[row.name][3] == f"{row.most_seconds * 1e6:,.0f} us", row.name


def test_a_filter_that_finds_nothing_is_an_error():
    done = _work("--filter", "no such row")
    assert done.returncode == 1
    assert "no row of that name" in done.stderr


def test_a_budget_is_exceeded_by_more_than_a_tenth():
    budget = {"a": {"bytes": 100.0}}
    assert work_budgets.exceeded("a", {"bytes": 110.0}, budget) == []
    assert work_budgets.exceeded("a", {"bytes": 111.0}, budget) == ["a: bytes 111, the budget is 100"]
    assert "has no budget" in work_budgets.exceeded("b", {"bytes": 1.0}, budget)[0]


def test_a_goal_is_missed():
    row = next(r for r in work_rows.rows() if r.name == "detect B=32 A=8732 C=81")
    assert work_budgets.missed(row, Work(seconds=399e-6), 99e6, 1e-6) == []
    assert work_budgets.missed(row, Work(seconds=500e-6), 2e8, 1e-6) == [
        "detect B=32 A=8732 C=81: modelled 500 us, the goal is 400 us",
        "detect B=32 A=8732 C=81: scratch 200 MB, the goal is 100 MB",
    ]
    row = next(r for r in work_rows.rows() if r.op == "box_iou")
    assert work_budgets.missed(row, Work(seconds=50e-6), 0, 40e-6) != []
    assert work_budgets.missed(row, Work(seconds=45e-6), 0, 40e-6) == []


@pytest.fixture
def counted_row(monkeypatch, tmp_path):
    """What `check` sees of one row: instructions that are within the budget or not, and a time."""

    def check(instructions: float, seconds: float, *options: str) -> int:
        name, cycles = "box_iou 5,444 x 5,444", (seconds - work_model.LAUNCH_SECONDS) * work_model.CLOCK
        record = _counts(instructions=instructions, deepest=cycles, depth=cycles)
        counted = Counted((record,), (torch.zeros(5_444, 5_444),), 0.0)
        monkeypatch.setattr(work, "Machine", lambda: SimpleNamespace(count=lambda *_: counted))
        monkeypatch.setattr(work_budgets, "FILE", tmp_path / "budgets.json")
        if not work_budgets.FILE.exists():
            budget = {**dict.fromkeys(work_budgets.COUNTS, 1e9), "scratch": 0.0, "instructions": 1000.0}
            work_budgets.FILE.write_text(json.dumps({name: budget}))
        return work.main(["--filter", name, *options])

    return check


def test_check_says_what_it_found_and_exits_with_1(counted_row, capsys):
    assert counted_row(1000, 40e-6, "--check") == 0
    assert capsys.readouterr().err == ""
    assert counted_row(1200, 40e-6, "--check") == 1
    assert capsys.readouterr().err == "box_iou 5,444 x 5,444: instructions 1,200, the budget is 1,000\n"
    assert counted_row(1000, 60e-6, "--check") == 1
    assert capsys.readouterr().err == "box_iou 5,444 x 5,444: modelled 60 us, the goal is 48 us\n"
    assert counted_row(1200, 60e-6) == 0  # without --check it only prints
    assert counted_row(1200, 40e-6, "--update") == 0
    assert counted_row(1200, 40e-6, "--check") == 0


def test_a_launch_that_does_nothing_costs_the_launch():
    assert work_of(_counts(), 1e6).seconds == work_model.LAUNCH_SECONDS


@pytest.mark.parametrize(
    ("counts", "seconds"),
    [
        ({"deepest": 1.755e6, "depth": 1.755e6}, 1e-3),
        # Eight blocks of 128 threads fit a multiprocessor: ten waves, each as deep.
        ({"blocks": 10560, "deepest": 1.755e5, "depth": 10560 * 1.755e5}, 1e-3),
        # One multiprocessor issues three instructions a cycle.
        ({"instructions": 3 * 1.755e6, "most_instructions": 3 * 1.755e6}, 1e-3),
        ({"blocks": 1320, "global_wavefronts": 132 * 1.755e6}, 1e-3),
        ({"blocks": 1320, "read_sectors": 5.5e9 / 32}, 1e-3),
        ({"hottest": 1.755e6 / 2}, 1e-3),
        ({"device_launches": 1, "device_cycles": 1.755e6}, 1e-3),
    ],
)
def test_the_longest_part_decides(counts, seconds):
    work = work_of(_counts(**counts), 1e6)
    assert work.seconds - work_model.LAUNCH_SECONDS == pytest.approx(seconds)
    assert work.launches == 1


def test_what_does_not_fit_the_cache_comes_from_memory():
    counts = _counts(blocks=1320, write_sectors=3.35e9 * 0.9 / 32)
    assert work_of(counts, 4e9).seconds - work_model.LAUNCH_SECONDS == pytest.approx(1e-3)
    assert work_of(counts, 1e6).seconds < 1e-3
