"""Training: what it leaves behind, and that an interrupted run ends like one that was not."""

from __future__ import annotations

import dataclasses
import json
import math
import signal

import numpy as np
import pytest
import torch
from tinyssd import train as training
from tinyssd.checkpoint import latest_run, load_checkpoint, load_model, save_checkpoint
from tinyssd.config import DataConfig, RunConfig, TrainConfig, read_config_file
from tinyssd.errors import CheckpointError, ConfigError
from tinyssd.evaluate import average_precision
from tinyssd.loss import IGNORED
from tinyssd.model import TinySSDConfig
from tinyssd.train import pick_device, train

TINY = TinySSDConfig(
    num_classes=4,
    image_size=(32, 32),
    widths=((8,), (8,), ()),
    sizes=((0.2, 0.3), (0.4, 0.5), (0.8, 0.9)),
    ratios=((1.0, 2.0, 0.5),) * 3,
)
CONFIG = RunConfig(
    class_names=("fish", "star", "heart"),
    model=TINY,
    data=DataConfig("synthetic", train_size=12, val_size=4),
    train=TrainConfig(epochs=2, batch_size=4, workers=0, device="cpu"),
)
TIMES = ("seconds", "images_per_second")


def results(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def interrupt_at(monkeypatch, step):
    """Lets Ctrl-C arrive during the given step, counted from 1."""
    steps = iter(range(1, 1000))
    original = training.detection_loss

    def loss(*arguments):
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(training, "detection_loss", loss)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(CONFIG, run)
    return run


def test_run_folder(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "curves.png", "checkpoint.pt"}
    rows = results(uninterrupted)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) >= {"loss", "class_error", "offset_mae", "ap", "ap50"}
    contents = torch.load(uninterrupted / "checkpoint.pt", weights_only=True)
    assert RunConfig.from_dict(contents["config"]) == CONFIG
    sections = read_config_file(uninterrupted / "config.json")
    assert TinySSDConfig(**sections["model"]) == TINY


@pytest.mark.parametrize("step", [2, 3, 5])
def test_resumed_run_ends_like_an_uninterrupted_one(uninterrupted, tmp_path, monkeypatch, step):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        stopped = train(CONFIG, run)
    assert stopped.epoch < CONFIG.train.epochs
    load_model(run)  # Usable as it is.
    train(CONFIG, run, resume=True)
    assert results(run) == results(uninterrupted)
    expected, actual = (load_checkpoint(path / "checkpoint.pt") for path in (uninterrupted, run))
    for part in ("model", "optimizer"):
        torch.testing.assert_close(actual[part], expected[part], rtol=0, atol=0)
    assert actual["scheduler"] == expected["scheduler"]


def test_second_interrupt_is_immediate():
    with training.stop_on_interrupt() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_training_learns(tmp_path):
    settings = dataclasses.replace(CONFIG.train, epochs=4)
    progress = train(dataclasses.replace(CONFIG, train=settings), tmp_path / "run")
    losses = [row["loss"] for row in progress.history]
    assert losses[-1] < 0.9 * losses[0]


def test_failed_write_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": 1})
    with pytest.raises(Exception, match=r"(?i)pickle|lambda"):
        save_checkpoint(path, {"value": lambda: None})
    assert load_checkpoint(path)["value"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("length", [0, 100, 5000, -100])
def test_truncated_checkpoint_is_an_error(uninterrupted, tmp_path, length):
    whole = (uninterrupted / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(whole[:length])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: damaged or not a checkpoint"):
        load_model(path)


def test_other_files_are_no_checkpoints(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        load_model(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(CONFIG, tmp_path / "empty", resume=True)
    with pytest.raises(CheckpointError, match="no trained run in"):
        latest_run(tmp_path / "runs")


def test_config_file_with_an_unknown_setting_is_an_error(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"train": {"epocs": 3}}')
    with pytest.raises(ConfigError, match="train has no setting epocs"):
        read_config_file(path)


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:99"])
def test_unknown_device_is_an_error(name):
    with pytest.raises(ConfigError, match=name):
        pick_device(name)


TRUTH = [
    np.array([[0, 0.1, 0.1, 0.4, 0.4], [1, 0.5, 0.5, 0.9, 0.8]], dtype=np.float32),
    np.array([[1, 0.2, 0.3, 0.6, 0.9]], dtype=np.float32),
]


def found(truth, shift=0.0):
    return [np.array([(row[0] + 1, 0.9, *(row[1:] + shift)) for row in rows], dtype=np.float32) for rows in truth]


def test_perfect_predictions_have_average_precision_one(capsys):
    result = average_precision(found(TRUTH), TRUTH, num_classes=2)
    assert (result.ap, result.ap50, *result.per_class) == pytest.approx((1, 1, 1, 1))
    assert result.best_threshold == pytest.approx(0.9)
    assert capsys.readouterr().out == ""


def test_no_predictions_have_average_precision_zero():
    result = average_precision([np.zeros((0, 6), np.float32)] * 2, TRUTH, num_classes=2)
    assert (result.ap, result.ap50, result.per_class) == (0, 0, (0, 0))


def test_shifted_predictions_count_at_low_thresholds_only():
    result = average_precision(found(TRUTH, shift=0.03), TRUTH, num_classes=2)
    assert result.ap50 == pytest.approx(1)
    assert 0.2 < result.ap < 0.8


def test_no_objects_have_no_average_precision():
    empty = [np.zeros((0, 5), np.float32)] * 2
    assert math.isnan(average_precision(found(TRUTH), empty, num_classes=2).ap)


def test_anchors_that_half_fit_an_object_are_ignored():
    anchors = torch.tensor(
        [[[0.0, 0, 1, 1], [0.0, 0, 0.5, 1], [0.0, 0, 0.3, 1], [0.0, 0, 0.1, 1]]]
    )  # IoU 1, .5, .3, .1
    labels = torch.tensor([[[2.0, 0, 0, 1, 1], [-1.0, 0, 0, 0.3, 1]]])
    settings = TrainConfig(match_iou=0.5, ignore_iou=0.2)
    _, mask, classes = training.make_targets(anchors, labels, settings)
    assert classes.tolist() == [[3, 3, IGNORED, 0]]
    assert mask.view(4, 4)[:, 0].tolist() == [1, 1, 0, 0]
    _, _, classes = training.make_targets(anchors, labels, dataclasses.replace(settings, ignore_iou=0.5))
    assert classes.tolist() == [[3, 3, 0, 0]]
