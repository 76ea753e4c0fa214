"""Faults of the machine, injected: a full disk at each file, pictures that vanish, a killed worker, SIGTERM, NaN."""

from __future__ import annotations

import errno
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import time

import pytest
from PIL import Image
from tinyssd.cli import main
from tinyssd.run.checkpoint import load_checkpoint
from tinyssd.training import train as training

SETTINGS = {
    "model": {
        "image_size": [32, 32],
        "widths": [[8], [8], []],
        "sizes": [[0.2, 0.3], [0.4, 0.5], [0.8]],
        "ratios": [[1, 2], [1], [1]],
    },
    "data": {"train_size": 8, "val_size": 4},
    "train": {"epochs": 2, "batch_size": 4, "workers": 0, "device": "cpu"},
}


@pytest.fixture
def train(tmp_path):
    """Runs ``tinyssd train`` into tmp_path/run; its exit status."""

    def command(*options, **settings):
        values = {**SETTINGS, "train": {**SETTINGS["train"], **settings}}
        (tmp_path / "tiny.json").write_text(json.dumps(values))
        return main(["train", *options, "--config", str(tmp_path / "tiny.json"), "--run", str(tmp_path / "run")])

    return command


def during_step(monkeypatch, number, fault):
    """Lets a fault happen during the given step, counted from 1."""
    steps = itertools.count(1)
    loss = training.batch_loss

    def with_fault(*arguments):
        result = loss(*arguments)
        return fault(result) if next(steps) == number else result

    monkeypatch.setattr(training, "batch_loss", with_fault)


def full_disk_from(monkeypatch, number):
    """Lets every write fail from the given one on, and counts them."""
    written = []
    sync = os.fsync

    def fsync(handle):
        written.append(handle)
        if len(written) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return written


def test_full_disk_at_each_file_of_a_run(train, tmp_path, capsys, monkeypatch):
    # The configuration, the checkpoint, the metrics, two pictures.
    run = tmp_path / "run"
    run.mkdir()
    for number in range(1, 20):
        shutil.rmtree(run)
        run.mkdir()
        with monkeypatch.context() as patch:
            written = full_disk_from(patch, number)
            status = train(epochs=1)
        if len(written) < number:
            assert status == 0
            break
        assert status == 2
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("tinyssd: error: ")
        assert "No space left on device" in error
        assert "Traceback" not in error
        assert not list(run.glob(".*.tmp"))
        if (run / "checkpoint.pt").exists():
            load_checkpoint(run / "checkpoint.pt")
    assert number > 5


def test_full_disk_while_predicting(train, tmp_path, capsys, monkeypatch):
    assert train(epochs=1) == 0
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 30)).save(picture)
    for number in itertools.count(1):
        with monkeypatch.context() as patch:
            written = full_disk_from(patch, number)
            status = main(["predict", str(picture), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "found")])
        if len(written) < number:
            assert status == 0
            break
        assert status == 2
        assert "No space left on device" in capsys.readouterr().err
    assert number > 2


def test_pictures_that_vanish(train, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "d"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for k in range(8):
        Image.new("RGB", (40, 30), (k * 20, 0, 0)).save(folder / "images" / f"{k}.png")
        (folder / "labels" / f"{k}.txt").write_text("0 0.5 0.5 0.4 0.4\n")

    def vanish(result):
        for file in (folder / "images").iterdir():
            file.unlink()
        return result

    during_step(monkeypatch, 1, vanish)
    assert train("--data", str(folder), batch_size=8) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("tinyssd: error: ")
    assert "images" in error.splitlines()[-1]
    assert "Traceback" not in error


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_worker_is_one_sentence(train, capsys, monkeypatch):
    def kill(result):
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)
        return result

    during_step(monkeypatch, 1, kill)
    assert train(workers=1) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("tinyssd: error: ")
    assert "process that reads pictures" in error or "worker" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_leaves_a_checkpoint_that_goes_on(train, tmp_path, monkeypatch, workers):
    number = signal.SIGTERM

    def end_all(result):  # as service managers do
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, number)
        signal.raise_signal(number)
        time.sleep(0.2)  # so that a worker's end would be noticed
        return result

    before = signal.signal(number, signal.SIG_DFL)  # as most programs are started
    try:
        with monkeypatch.context() as patch:
            during_step(patch, 3, end_all)
            assert train(workers=workers) == 128 + number
    finally:
        signal.signal(number, before)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["progress"]["epoch"] < 3
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_nan_keeps_the_last_good_checkpoint(train, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        during_step(patch, 3, lambda result: (result[0] * math.nan, result[1]))
        assert train() == 2
    assert "infinite or NaN in epoch 2" in capsys.readouterr().err
    contents = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert all(bool(tensor.isfinite().all()) for tensor in contents["model"].values() if tensor.is_floating_point())
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
