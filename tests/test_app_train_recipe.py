"""Training as the default recipe has it: average, passes, milder end, best checkpoint, early end, other weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from app_training import CONFIG, interrupt_at, results
from tinyssd.data.augment import AugmentConfig
from tinyssd.evaluation.evaluate import average_precision
from tinyssd.model.loss import LossConfig
from tinyssd.model.pyramid import PyramidConfig
from tinyssd.run.checkpoint import load_checkpoint, load_model
from tinyssd.run.config import TrainConfig
from tinyssd.training.state import Progress, State
from tinyssd.training.train import train

ANCHORS = (((8.0, 8.0), (12.0, 6.0)), ((16.0, 16.0),), ((24.0, 24.0),))
PYRAMID = dataclasses.replace(
    CONFIG,
    model=PyramidConfig(
        num_classes=4, image_size=(32, 32), anchors=ANCHORS, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), neck=8
    ),
    train=dataclasses.replace(CONFIG.train, passes=2, ema=0.9, clip=1.0, closing=0.5),
    loss=LossConfig.aligned(),
    augment=AugmentConfig.strong(),
)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "pyramid"
    train(PYRAMID, run)
    return run


@pytest.mark.parametrize("step", [2, 8])
def test_the_recipe_goes_on_as_if_nothing_had_happened(pyramid, tmp_path, monkeypatch, step):
    """Average of the weights, several passes and the milder end included."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert not train(PYRAMID, run).is_over(PYRAMID.train)
    train(PYRAMID, run, resume=True)
    assert results(run) == results(pyramid)
    expected, actual = (load_checkpoint(path / "checkpoint.pt") for path in (pyramid, run))
    for part in ("model", "trained", "optimizer"):
        torch.testing.assert_close(actual[part], expected[part], rtol=0, atol=0)
    assert (actual["scheduler"], actual["averaged"]) == (expected["scheduler"], expected["averaged"])


def test_the_average_is_used_and_is_not_the_last_weights(pyramid):
    contents = load_checkpoint(pyramid / "checkpoint.pt")
    name = "backbone.0.0.0.weight"
    assert not torch.equal(contents["model"][name], contents["trained"][name])
    assert set(results(pyramid)[0]) >= {"class_loss", "box_loss", "learning_rate", "ap50_per_class"}


def test_the_best_checkpoint_is_that_of_the_best_epoch(pyramid):
    rows = results(pyramid)
    best = load_checkpoint(pyramid / "best.pt")
    assert best["progress"]["epoch"] == max(rows, key=lambda row: (row["ap"], row["epoch"]))["epoch"]
    used = load_model(pyramid)
    torch.testing.assert_close(used.model.state_dict(), best["model"], rtol=0, atol=0)
    assert len(used.score_thresholds) == 3


def test_training_ends_when_precision_has_stopped_rising():
    settings = TrainConfig(epochs=9, patience=2)
    rows = [{"ap": ap, "epoch": k + 1} for k, ap in enumerate((0.1, 0.3, 0.2, 0.2))]
    assert not Progress(epoch=3, history=rows[:3]).is_over(settings)
    assert Progress(epoch=4, history=rows).is_over(settings)
    assert not Progress(epoch=4, history=rows).is_over(dataclasses.replace(settings, patience=0))
    assert Progress(epoch=9, history=rows).is_over(dataclasses.replace(settings, patience=0))


@pytest.mark.parametrize("names", [("heart", "cup", "fish"), ("heart", "cup", "fish", "moon"), ("heart", "cup")])
def test_other_classes_begin_with_the_weights_of_a_run(pyramid, names):
    """However many: those that both know keep their scores."""
    config = dataclasses.replace(
        PYRAMID, class_names=names, model=dataclasses.replace(PYRAMID.model, num_classes=len(names) + 1)
    )
    state = State.start(config, torch.device("cpu"), 1)
    fresh = {name: value.clone() for name, value in state.model.state_dict().items()}
    taken, total = state.begin_with(pyramid, config.class_names)
    assert 0.8 * total < taken < total
    theirs, ours = load_model(pyramid).model.state_dict(), state.model.state_dict()
    assert torch.equal(ours["backbone.0.0.0.weight"], theirs["backbone.0.0.0.weight"])
    anchors = len(PYRAMID.model.anchors[0])
    mine, others, before = (one["class_heads.0.1.bias"].view(anchors, -1) for one in (ours, theirs, fresh))
    for k, name in enumerate(names):
        expected = others[:, PYRAMID.class_names.index(name)] if name in PYRAMID.class_names else before[:, k]
        assert torch.equal(mine[:, k], expected)


def test_a_run_begins_with_the_weights_of_another_one(pyramid, tmp_path, capsys):
    init = dataclasses.replace(PYRAMID, train=dataclasses.replace(PYRAMID.train, epochs=1, init=str(pyramid)))
    train(init, tmp_path / "run")
    assert f"100.0% of the weights are those of {pyramid}" in capsys.readouterr().out


def test_each_class_has_a_threshold_of_its_own():
    truth = [np.array([[0, 0.1, 0.1, 0.4, 0.4], [1, 0.5, 0.5, 0.9, 0.8]], dtype=np.float32)]
    rows = [[1, 0.9, 0.1, 0.1, 0.4, 0.4], [1, 0.6, 0.6, 0.1, 0.9, 0.3], [2, 0.2, 0.5, 0.5, 0.9, 0.8]]
    result = average_precision([np.array(rows, dtype=np.float32)], truth, num_classes=3)
    assert result.best_threshold_per_class[:2] == pytest.approx((0.9, 0.2))
    assert math.isnan(result.best_threshold_per_class[2])
    assert result.best_threshold == pytest.approx(0.55)
    # One of which nothing was found has none, or it would show whatever lies anywhere.
    unseen = average_precision([np.array(rows[:2], dtype=np.float32)], truth, num_classes=3)
    assert unseen.best_threshold_per_class == pytest.approx((0.9, math.nan, math.nan), nan_ok=True)
    assert unseen.best_threshold == pytest.approx(0.9)
    assert result.ap50_per_class[:2] == pytest.approx((1, 1))
