"""The benchmark suite: its statistics, its tables, and that its rows agree on tiny sizes. No timing is asserted."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks folder is not part of this copy", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import agreement, report, results  # noqa: E402
from benchmarks.__main__ import _command, refuse_fallback  # noqa: E402
from benchmarks.measure import Timed, Timing, side_by_side, summarize  # noqa: E402
from benchmarks.results import PeerResult, Row, Run  # noqa: E402


def timing(median: float) -> Timing:
    return Timing(median, 0.9 * median, 1.1 * median, 5)


def example_run(ours: float = 1e-3) -> Run:
    peers = (
        PeerResult("reference", timing(0.5)),
        PeerResult("torchvision", timing(4e-2)),
        PeerResult("lsnms", timing(1e-2), "1 of 900 kept boxes differ (rounding)"),
        PeerResult("powerboxes", None, "not run: cut off at 5,000"),
    )
    rows = tuple(
        Row("nms", "random", size, f"N={size:,}", timing(ours * size / 20_000), peers, timing(5e-4), "torch.sort")
        for size in (1_000, 20_000)
    )
    skipped = Row("nms", "detector", 5_444, "N=5,444", note="not run: no pictures: give --data FOLDER")
    versions, build = {"torch": "2.13.0"}, {"simd": "avx2"}
    return Run("CPU", 2, "native", versions, build, "python -m benchmarks", "2026-01-01 00:00 UTC", (*rows, skipped))


def test_summary_is_the_median_and_the_quartiles():
    assert summarize([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert summarize([7.0]) == Timing(7.0, 7.0, 7.0, 1)


def test_sides_alternate_and_rotate_their_inputs():
    calls = []
    sides = [Timed(lambda x, name=name: calls.append((name, x)), [(0,), (1,)]) for name in "ab"]
    timings = side_by_side(sides, torch.device("cpu"), seconds=0.0)
    assert all(t.samples == 3 and t.q1 <= t.median <= t.q3 for t in timings)
    turns = [name for name, _ in itertools.groupby(calls, key=lambda call: call[0])]
    assert turns[-6:] == list("ababab")
    assert {x for _, x in calls} == {0, 1}


def test_a_run_survives_its_file(tmp_path):
    run = example_run()
    results.save(run, tmp_path / "sub" / "run.json")
    assert results.load(tmp_path / "sub" / "run.json") == run


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "old.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="format 1"):
        results.load(tmp_path / "old.json")


@pytest.mark.parametrize(("factor", "word"), [(2, "slower"), (0.5, "faster"), (1.05, "same within the spread")])
def test_compare_says_what_changed(factor, word):
    lines = results.compare(example_run(), example_run(factor * 1e-3))
    assert len(lines) == 2
    assert all(line.endswith(word) for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.234e-5, "12.3 µs"), (4.56e-3, "4.56 ms"), (0.9996, "1.00 s"), (123.4, "123 s")]
)
def test_times_have_three_digits(seconds, text):
    assert results.milliseconds(seconds) == text


def test_kept_boxes_may_differ_by_rounding_alone():
    ours = torch.arange(10_000)
    assert agreement.kept_boxes(ours, ours) == agreement.Agreement(True)
    assert agreement.kept_boxes(ours, ours[:-3]) == agreement.Agreement(True, "3 of 10000 kept boxes differ (rounding)")
    assert not agreement.kept_boxes(ours, ours[:9_000]).same
    assert not agreement.kept_boxes(ours, ours.flip(0)).same


def test_wrong_results_are_no_agreement():
    ours = torch.rand(4, 4)
    assert agreement.close(ours, ours + 1e-7).same
    assert not agreement.close(ours, ours + 1e-2).same
    assert not agreement.exact(torch.tensor([1, 2]), torch.tensor([1, 3])).same
    assert not agreement.exact(torch.tensor([1, 2]), torch.tensor([1])).same


def test_the_fallback_is_refused_unless_asked_for():
    info = {"backends": {"cpu": {"backend": "reference", "why": "it was installed without"}}}
    refuse_fallback(info, torch.device("cpu"), "reference")
    with pytest.raises(SystemExit, match="--backend reference"):
        refuse_fallback(info, torch.device("cpu"), "native")


def test_the_recorded_command_leaves_out_files():
    assert _command(["--quick", "--json", "out.json", "--compare=old.json"]) == "python -m benchmarks --quick"


def test_the_page_shows_every_row_and_every_reason():
    page = report.markdown(example_run(), "run")
    assert "| random | N=20,000 | 1.00 ms (900 µs to 1.10 ms) | 500 ms (500x) | 40.0 ms (40x) |" in page
    assert "not run: cut off at 5,000" in page
    assert "no pictures" in page
    assert "![nms: time over size](run-nms.png)" in page


def test_the_readme_keeps_what_is_around_the_table():
    readme = f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n"
    text = report.with_table(readme, report.readme_table([example_run()]))
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old" not in text
    assert "| `nms` | random, N=20,000 | 1.00 ms | 40.0 ms (40x) | 10.0 ms (10.0x) lsnms | 2.00 |" in text
    with pytest.raises(ValueError, match="README"):
        report.with_table("no markers", "table")


def test_a_peer_that_does_another_job_is_labelled_and_never_the_fastest():
    run = example_run()
    other = PeerResult("shortcut", timing(1e-9), "another matching rule", same_job=False)
    run = replace(run, rows=tuple(replace(row, peers=(*row.peers, other)) for row in run.rows))
    assert "similar job" in report.markdown(run, "run")
    assert "shortcut" not in report.readme_table([run])


def test_a_plot_is_made(tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(example_run(), "nms", tmp_path / "nms.png")
    assert (tmp_path / "nms.png").stat().st_size > 10_000


def test_committed_tables_are_what_the_committed_results_give():
    if not report.result_files(ROOT):
        pytest.skip("no benchmark results are committed")
    for path, text in report.texts(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m benchmarks.report"


def test_all_sides_agree_on_tiny_inputs(tmp_path):
    """One thread: the machine that runs the tests may be busy, and only the results matter here."""
    import tinyssd_ops

    backend = tinyssd_ops.info()["backends"]["cpu"]["backend"]
    command = [sys.executable, "-m", "benchmarks", "--quick", "--seconds", "0", "--threads", "1", "--backend", backend]
    names = r"box_iou random 100 |multibox_target random B=1 |nms .* N=100$|batched_nms .* N=100 |detect.* random B=1 "
    command += ["--filter", names, "--json", str(tmp_path / "run.json")]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    run = results.load(tmp_path / "run.json")
    timed = {row.op for row in run.rows if row.ours is not None}
    assert timed == {"box_iou", "multibox_target", "nms", "batched_nms", "multibox_detection", "detect"}
    assert not any(row.error for row in run.rows)
