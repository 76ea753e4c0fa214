"""Training: what it leaves behind, and that an interrupted run ends like one that was not."""

from __future__ import annotations

import dataclasses
import json
import math
import signal

import numpy as np
import pytest
import torch
from app_training import CONFIG, TINY, interrupt_at, results
from tinyssd.cli import main
from tinyssd.data.loader import Pictures, make_loader, to_input
from tinyssd.data.synthetic import SyntheticSource
from tinyssd.errors import CheckpointError, ConfigError, DataError, TrainingError
from tinyssd.evaluation.evaluate import average_precision, evaluate
from tinyssd.model.device import pick_device
from tinyssd.model.loss import IGNORED
from tinyssd.model.network import TinySSD, TinySSDConfig
from tinyssd.run.checkpoint import load_checkpoint, load_model, save_checkpoint
from tinyssd.run.config import RunConfig, TrainConfig, read_config_file
from tinyssd.run.folder import latest_run
from tinyssd.training import train as training
from tinyssd.training.targets import make_targets
from tinyssd.training.train import train

from tinyssd_ops import multibox_target


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(CONFIG, run)
    return run


def test_run_folder(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert names - {".lock", "tensorboard"} == {
        "config.json",
        "metrics.jsonl",
        "curves.png",
        "checkpoint.pt",
        "best.pt",
    }
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
    for part in ("model", "trained", "optimizer"):
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


@pytest.mark.parametrize("part", ["config", "model", "progress", "setting"])
def test_checkpoint_of_another_version_is_an_error(uninterrupted, tmp_path, part):
    contents = load_checkpoint(uninterrupted / "checkpoint.pt")
    if part == "setting":
        contents["config"]["train"]["optimizer"] = "sgd"
    elif part == "model":
        contents["model"].popitem()
    else:
        del contents[part]
    save_checkpoint(tmp_path / "checkpoint.pt", contents)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: does not fit this version"):
        load_model(str(tmp_path))
    assert main(["train", "--resume", str(tmp_path)]) == 2


def test_checkpoint_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": 1})

    def full(contents, file):
        file.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 534")  # As torch says it.

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint(path, {"value": 2})
    assert load_checkpoint(path)["value"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_resume_with_other_data_is_an_error(uninterrupted, monkeypatch):
    more = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, train_size=24))
    with pytest.raises(CheckpointError, match="had 12 training pictures, the data set has 24 now"):
        train(more, uninterrupted, resume=True)
    with pytest.raises(DataError, match="has the classes fish, star, heart, the run has a, b, c"):
        train(dataclasses.replace(CONFIG, class_names=("a", "b", "c")), uninterrupted, resume=True)


def test_training_that_diverges_is_an_error(tmp_path, monkeypatch):
    original = training.batch_loss

    def diverged(*arguments):
        loss, parts = original(*arguments)
        return loss * math.nan, parts

    monkeypatch.setattr(training, "batch_loss", diverged)
    with pytest.raises(TrainingError, match="infinite or NaN in epoch 1"):
        train(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("values", [{"warmup": 7}, {"weight_decay": -1}, {"match_iou": math.nan}, {"ignore_iou": -0.1}])
def test_wrong_training_setting_is_an_error(values):
    with pytest.raises(ConfigError, match="expected"):
        TrainConfig(**values)


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        ("train", "epochs", 2.5),
        ("train", "channels_last", 1),
        ("train", "seed", True),
        ("train", "learning_rate", "0.1"),
        ("train", "workers", "two"),
        ("data", "name", 3),
        ("model", "image_size", 64),
        ("model", "widths", [[16.5], [8]]),
    ],
)
def test_config_file_with_a_value_of_the_wrong_kind_is_an_error(tmp_path, section, setting, value):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({section: {setting: value}}))
    with pytest.raises(ConfigError, match=f"{section}.{setting} has a value of the wrong kind"):
        read_config_file(path)


def test_config_file_with_an_unknown_setting_is_an_error(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"train": {"epocs": 3}}')
    with pytest.raises(ConfigError, match="train has no setting epocs"):
        read_config_file(path)


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:99"])
def test_unknown_device_is_an_error(name):
    with pytest.raises(ConfigError, match=name):
        pick_device(name)


def test_class_error_and_offset_error_are_those_of_the_anchors():
    torch.manual_seed(0)
    model = TinySSD.from_config(TINY)
    pictures = Pictures(SyntheticSource(5, 32), TINY.image_size)
    loader, _ = make_loader(pictures, batch_size=2)
    metrics = evaluate(model, loader, torch.device("cpu"))
    assert not model.training
    wrong, errors = [], []
    for index in range(len(pictures)):
        image, labels = pictures[0, index]
        with torch.no_grad():
            anchors, scores, offsets = model(to_input(image[None]))
        targets, _, classes = multibox_target(anchors, labels[None], 0.5)
        wrong += (scores[0].argmax(-1) != classes[0]).tolist()
        matched = classes[0] > 0
        errors += (offsets - targets).view(-1, 4)[matched].abs().flatten().tolist()
    assert metrics.class_error == pytest.approx(np.mean(wrong))
    assert metrics.offset_mae == pytest.approx(np.mean(errors), rel=1e-5)


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
    assert math.isnan(result.best_threshold)


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
    _, mask, classes = make_targets(anchors, labels, settings)
    assert classes.tolist() == [[3, 3, IGNORED, 0]]
    assert mask.view(4, 4)[:, 0].tolist() == [1, 1, 0, 0]
    _, _, classes = make_targets(anchors, labels, dataclasses.replace(settings, ignore_iou=0.5))
    assert classes.tolist() == [[3, 3, 0, 0]]


def test_a_checkpoint_of_the_version_before_is_still_used(uninterrupted, tmp_path):
    contents = load_checkpoint(uninterrupted / "checkpoint.pt")
    for name in ("trained", "averaged"):
        del contents[name]
    old = {"train": ("passes", "clip", "ema", "closing", "patience", "init", "backbone_weights")}
    old |= {"loss": ("assigner", "topk", "alpha", "beta"), "augment": ("hue", "shrink", "stretch", "mosaic")}
    for section, names in old.items():
        for name in names:
            del contents["config"][section][name]
    for row in contents["progress"]["history"]:
        del row["ap50_per_class"], row["best_threshold_per_class"]
    save_checkpoint(tmp_path / "checkpoint.pt", contents)
    used = load_model(tmp_path)
    assert used.config == CONFIG
    assert used.score_thresholds == (used.score_threshold,) * 3
