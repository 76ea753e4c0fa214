"""The machine that runs CUDA kernels on the CPU (tests/simt) catches planted faults, and lets good kernels pass."""

from __future__ import annotations

import re
import subprocess
from functools import cache

import pytest
from simt import run

pytestmark = pytest.mark.skipif(run.missing() is not None, reason=str(run.missing()))


@cache
def _program(name: str) -> str:
    return str(run.build_program(run.HERE / name, "checked" if name == "faults.cu" else "watched"))


def _run(case: str, kind: str, seeds: int, program: str = "faults.cu") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_program(program), case, kind, str(seeds)],
        env=run.environment(LD_PRELOAD=""),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _lines(case: str, kind: str, seeds: int = 20, program: str = "faults.cu") -> list[str]:
    """What each seed led to; the same if done again."""
    first, second = _run(case, kind, seeds, program), _run(case, kind, seeds, program)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    return [line.strip() for line in first.stdout.splitlines()]


GOOD = {
    "argmax": "49",
    "barrier": "32 -1",
    "device_wide": "0",
    "gap": "-512",
    "global_neighbour": "-512",
    "halves": "15 31",
    "misaligned": "-1",
    "missing_lane": "5 4",
    "missing_lane_at_barrier": "1",
    "outsider": "1 -1",
    "rounds": "3",
    "scan_and_sort": "0",
    "shared_neighbour": "8255",
    "spin": "1",
    "stride": "1029",
    "sum": "8128 8128 8128 8128",
    "two_barriers": "1",
}


@pytest.mark.parametrize("case", GOOD)
def test_good_kernels_pass(case):
    assert _lines(case, "good") == [GOOD[case]] * 20


@pytest.mark.parametrize("case", ["sum", "argmax", "scan_and_sort"])
def test_races_change_with_the_seed(case):
    lines = _lines(case, "bad")
    assert sum(line != GOOD[case] for line in lines) >= 15
    assert len(set(lines)) >= 5


@pytest.mark.parametrize(
    ("case", "report"),
    [
        ("shared_neighbour", "heap-buffer-overflow"),
        ("global_neighbour", "heap-buffer-overflow"),
        ("gap", "use-after-poison"),
        ("misaligned", "misaligned address"),
    ],
)
def test_bad_addresses_are_reported(case, report):
    result = _run(case, "bad", 1)
    assert result.returncode != 0
    assert report in result.stderr
    assert "faults.cu" in result.stderr


def test_report_says_where():
    assert "simt: in kernel shared_neighbour_kernel, seed 0, block (0, 0, 0), thread (127, 0, 0)" in (
        _run("shared_neighbour", "bad", 1).stderr
    )


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("barrier", "the threads of the block are at different barriers"),
        ("two_barriers", "the threads of the block are at different barriers"),
        ("missing_lane", "returned"),
        ("missing_lane_at_barrier", "deadlock: no thread can go on"),
        ("halves", "waits for it at __reduce_"),
        ("outsider", "the mask does not name the lane that calls"),
    ],
)
def test_bad_waits_are_errors(case, message):
    errors = _run(case, "bad", 20).stdout.split("simt: ")[1:]
    assert len(errors) == 20
    for error in errors:
        assert message in error
        assert f"{case}_kernel" in error
        assert "faults.cu:" in error


def test_a_block_that_spins_is_an_error():
    assert re.search("the block spins|the launch does not end", _run("spin", "bad", 1).stdout)


@pytest.mark.parametrize("case", ["rounds", "stride"])
def test_a_launch_without_an_end_is_an_error(case):
    error = _run(case, "bad", 1).stdout
    assert error.startswith(f"simt: kernel {case}_kernel, seed 0, block (0, 0, 0), thread (")
    assert "the launch does not end" in error


def test_launches_are_refused_as_by_cuda():
    assert _lines("refusals", "good", 1) == ["1 0 0 1 1 9 9 9 0"]


GOOD_RACES = {
    "fence": "20",
    "increment": "64",
    "late_store": "5",
    "other_block": "7 7",
    "scope": "2",
    "shuffle": "5 20",
    "stale_read": "4",
    "syncwarp": "7 126",
}


@pytest.mark.parametrize("case", GOOD_RACES)
def test_good_kernels_have_no_race(case):
    assert _lines(case, "good", program="races.cu") == [GOOD_RACES[case]] * 20


@pytest.mark.parametrize("case", ["fence", "increment", "other_block", "scope", "stale_read", "syncwarp"])
def test_races_are_reported(case):
    lines = _lines(case, "bad", program="races.cu")
    assert len(lines) == 20
    for line in lines:
        assert "race: thread" in line
        assert line.count("races.cu:") == 2
        assert "nothing orders one before the other" in line


def test_weak_memory_shows_a_store_that_is_late():
    lines = _lines("late_store", "bad", program="races.cu")
    assert set(lines) == {"5", "2"}


def test_a_shuffle_with_a_wrong_mask_is_an_error():
    errors = _run("shuffle", "bad", 20, "races.cu").stdout.split("simt: ")[1:]
    assert len(errors) == 20
    assert all("deadlock: no thread can go on" in error and "__shfl_xor_sync (races.cu:" in error for error in errors)
