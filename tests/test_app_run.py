"""The run folder: who may write there, what a killed run leaves, and how a run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from tinyssd.cli import main
from tinyssd.commands.advice import out_of_resources
from tinyssd.errors import ConfigError
from tinyssd.run.folder import locked, refuse_used_folder
from tinyssd.training import interrupt

TINY = {
    "model": {
        "image_size": [32, 32],
        "widths": [[8], [8], []],
        "sizes": [[0.2, 0.3], [0.4, 0.5], [0.8]],
        "ratios": [[1, 2], [1], [1]],
    },
    "train": {"epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu"},
}


def data_set(folder, pictures=8):
    from PIL import Image

    for split in ("train", "val"):
        images = folder / f"toy_{split}" / "images"
        images.mkdir(parents=True)
        lines = ["img_name,label,xmin,ymin,xmax,ymax"]
        for k in range(pictures):
            Image.new("RGB", (32, 32), (20 * k, 0 if split == "train" else 99, 90)).save(images / f"{k}.png")
            lines.append(f"{k}.png,0,4,4,20,24")
        (images.parent / "label.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder with a data set `d` and a finished run `run`."""
    folder = tmp_path_factory.mktemp("work")
    data_set(folder / "d")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    command = ["train", str(folder / "d"), "--config", str(folder / "tiny.json"), "--run", str(folder / "run")]
    assert main(command) == 0
    return folder


def test_resume_makes_a_finished_run_longer_and_follows_moved_data(trained, tmp_path, capsys):
    (trained / "d").rename(tmp_path / "moved")
    try:
        assert main(["train", "--resume", str(trained / "run"), "--epochs", "3"]) == 2
        assert "not there any more; say where they are with --data DIR" in capsys.readouterr().err
        command = ["train", "--resume", str(trained / "run" / "checkpoint.pt"), "--data", str(tmp_path / "moved")]
        assert main([*command, "--epochs", "3"]) == 0
    finally:
        (tmp_path / "moved").rename(trained / "d")
    rows = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert main(["train", "--resume", str(trained / "run"), "--epochs", "2", "--data", str(trained / "d")]) == 2
    assert "the run has done 3 already, got 2" in capsys.readouterr().err


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_runs_of_few_steps_train(epochs, trained, tmp_path):
    # One step an epoch: the rate rises for a quarter of them.
    settings = {**TINY, "train": {**TINY["train"], "epochs": epochs, "batch_size": 8}}
    (tmp_path / "few.json").write_text(json.dumps(settings))
    command = ["train", str(trained / "d"), "--config", str(tmp_path / "few.json"), "--run", str(tmp_path / "run")]
    assert main(command) == 0


def test_only_one_process_trains_into_a_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tinyssd.run.folder import locked\n"
        "with locked(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(ConfigError, match="another process is training into this folder"), locked(tmp_path):
            pass
        other.kill()
        other.communicate()
    with locked(tmp_path):
        pass


def test_what_a_killed_run_left_half_written_goes(tmp_path):
    for name in (".checkpoint.pt.123.tmp", ".curves.png.9.tmp", ".mine.tmp", "notes.txt"):
        (tmp_path / name).write_text("x")
    with locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".mine.tmp", "notes.txt"]


def test_somebodys_files_are_not_overwritten(tmp_path):
    refuse_used_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"class_names": [], "model": {}, "train": {}}')
    refuse_used_folder(tmp_path)  # Of a run that ended before its first checkpoint.
    (tmp_path / "config.json").write_text('{"mine": true}')
    with pytest.raises(ConfigError, match=r"holds config\.json, which no run wrote"):
        refuse_used_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.json: not a folder"):
        refuse_used_folder(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_asks_to_stop_unless_it_was_ignored(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupt.stop_on_interrupt() as stop:
            signal.raise_signal(number)
            assert not stop.requested
        signal.signal(number, signal.default_int_handler)
        with interrupt.stop_on_interrupt() as stop:
            signal.raise_signal(number)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly"), "fewer --workers"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "fewer --workers"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "smaller --batch-size"),
        (MemoryError(), "smaller --batch-size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "on the GPU"),
        (RuntimeError("something else"), None),
    ],
)
def test_a_machine_too_small_is_one_sentence(error, sentence):
    found = out_of_resources(error)
    assert found is None if sentence is None else sentence in found


def test_a_closed_pipe_is_quiet(trained):
    for command in (["info"], ["train", "--help"], ["eval", str(trained / "run"), "--data", str(trained / "d")]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "tinyssd", *command], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(writer)
        assert "Traceback" not in done.stderr
        assert "roken pipe" not in done.stderr


def test_the_default_network_from_pictures_to_boxes(trained, tmp_path, capsys):
    """Input, anchors and length are found by looking; what is found in wider pictures lies in them."""
    from PIL import Image

    small = {"widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "neck": 8}
    settings = {"model": small, "train": {"epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu"}}
    (tmp_path / "small.json").write_text(json.dumps(settings))
    run = tmp_path / "run"
    assert main(["train", str(trained / "d"), "--config", str(tmp_path / "small.json"), "--run", str(run)]) == 0
    assert "input 160x160, anchors by the training boxes" in capsys.readouterr().out
    assert main(["anchors", str(trained / "d"), "--image-size", "64"]) == 0
    assert "8 objects; input 64x64" in capsys.readouterr().out
    assert main(["eval", str(run)]) == 0
    Image.new("RGB", (90, 30), (80, 0, 90)).save(tmp_path / "wide.png")
    out = tmp_path / "out"
    assert main(["predict", str(tmp_path / "wide.png"), "--run", str(run), "--out", str(out), "--score", "0.001"]) == 0
    (found,) = json.loads((out / "predictions.json").read_text())
    boxes = [one["box"] for one in found["detections"]]
    assert boxes
    assert all(0 <= x1 <= x2 <= 90 and 0 <= y1 <= y2 <= 30 for x1, y1, x2, y2 in boxes)
    # The configuration that it kept makes the same network.
    command = ["train", str(trained / "d"), "--config", str(run / "config.json"), "--run", str(tmp_path / "again")]
    assert main(command) == 0
    kept, again = (json.loads((path / "config.json").read_text()) for path in (run, tmp_path / "again"))
    assert again == kept
