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
from with_benchmarks import ROOT

from benchmarks import agreement, gpu_gate, parity, report, results, runner, speed, suite, targets
from benchmarks.__main__ import _command, refuse_fallback
from benchmarks.gate import page
from benchmarks.gate.programs import Result
from benchmarks.measure import Timed, Timing, side_by_side, summarize
from benchmarks.results import PeerResult, Row, Run


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
    readme = "above\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\nbelow\n"
    text = report.with_table(readme, report.readme_table([example_run()]))
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old" not in text
    assert "| `nms` | random, N=20,000 | 1.00 ms | 40.0 ms (40x) | 10.0 ms (10.0x) lsnms | 2.00 |" in text
    with pytest.raises(ValueError, match="benchmarks:begin"):
        report.with_table("no markers", "table")


def test_the_readme_leaves_out_runs_without_its_rows():
    run = replace(example_run(), rows=(replace(example_run().rows[1], op="assign_atss"),))
    assert report.readme_table([run]) == ""
    assert report.readme_table([run, example_run()]) == report.readme_table([example_run()])


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


def test_promises_are_of_rows_that_exist():
    names = {(case.op, case.inputs, case.label) for case in suite.cases(suite.Trained(None, Path()), quick=False)}
    keys = {key for target in targets.TARGETS for key in target.rows} | set(targets._CUDA_EXTRA)
    assert {(op, kind.removesuffix(targets.CAPTURED), label) for op, kind, label in keys} <= names


def test_a_promise_says_whether_it_is_met():
    target = targets.faster_than("torchvision", "nms", ("nms", "random", "N=20,000"), 2, 10)
    rows = {row.key: row for row in example_run().rows}
    met = targets.verdict(target, rows)
    assert str(met) == "2 threads nms: times as fast as torchvision >= 10: 40.00, met (ours 1.00 ms)"
    assert targets.verdict(replace(target, bound=50), rows).met is False
    (cuda,) = targets.on_cuda(replace(target, value=lambda rows: None))
    assert targets.verdict(cuda, rows).met is None
    assert cuda.name.startswith("cuda nms")


def test_a_row_that_breaks_is_an_error_of_its_own(capsys):
    def breaks(*args):
        raise RuntimeError("no\nmemory")

    cpu = torch.device("cpu")
    case = replace(next(suite.box_iou_cases()), run=breaks)
    assert runner.run_case(case, cpu, 0, "native").error == "RuntimeError: no memory"
    assert runner.run_captured(case, cpu, 0).key == ("box_iou", "random, captured", "100 x 100")
    assert "Traceback" in capsys.readouterr().err


def test_torchvision_lists_are_compared_with_padded_ones():
    ours = torch.tensor([[2, 0, -1], [1, -1, -1]]), torch.tensor([2, 1])
    lists = [torch.tensor([2, 0]), torch.tensor([1])]
    assert agreement.torchvision_kept_lists(ours, lists).same
    assert not agreement.torchvision_kept_lists(ours, lists[::-1]).same


def test_parity_finds_what_differs(tmp_path, monkeypatch):
    """On the CPU, where the reference takes the place of the CUDA kernels."""
    import tinyssd_ops

    if tinyssd_ops.info()["backends"]["cpu"]["backend"] != "native":
        pytest.skip("parity compares kernels")
    assert parity.main(["--device", "cpu", "--batches", "2"]) == 0
    monkeypatch.setattr(parity, "_other", lambda op, device: lambda *args, **options: torch.zeros(3))
    assert parity.main(["--device", "cpu", "--batches", "1", "--out", str(tmp_path)]) == 1
    assert torch.load(tmp_path / "mismatch.pt")["op"] == "nms_padded"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gate_says_that_there_is_no_gpu(tmp_path, capsys):
    assert gpu_gate.main(["--out", str(tmp_path / "gate")]) == 2
    assert capsys.readouterr().err.startswith("No GPU, so the gate cannot run: ")
    assert not (tmp_path / "gate").exists()


def test_the_gate_writes_a_page():
    parts = [
        Result("build", "failed", "exit status 1", tail="error: no such file", seconds=3.0),
        Result("parity", "passed", "no calls differ", {"calls": 9}),
    ]
    text = page.page("python -m benchmarks.gpu_gate", "2026-01-01 00:00 UTC", {"device": "GPU"}, parts)
    assert "| build | **failed** | 3 | exit status 1 |" in text
    assert "error: no such file" in text


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


@pytest.mark.parametrize("network", ["default", "classic"])
def test_the_plain_loop_trains_the_same_network(network, monkeypatch):
    training = pytest.importorskip("benchmarks.training", reason="the application is not installed")
    monkeypatch.setattr(training, "_keep_freed_memory", lambda: None)
    losses = []
    for side in ("ours", "plain loop", "contiguous"):
        torch.manual_seed(0)
        losses.append(training.SIDES[side](training.NETWORKS[network](64, 2))())
    torch.testing.assert_close(losses, losses[:1] * 3, rtol=1e-3, atol=0)


@pytest.mark.skipif(not speed.PAGE.exists(), reason="an installed package is tested, not a source tree")
def test_the_speed_tables_are_those_of_what_is_kept():
    text = speed.PAGE.read_text(encoding="utf-8")
    assert speed.page(text) == text, "run python -m benchmarks.speed"
    assert "| convolutions alone |" in text
