"""Runs of a few steps, and what they leave, for the tests of training."""

from __future__ import annotations

import json
import signal

from tinyssd.data.config import DataConfig
from tinyssd.model.network import TinySSDConfig
from tinyssd.run.config import RunConfig, TrainConfig
from tinyssd.training import train as training

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
    original = training.batch_loss

    def loss(*arguments):
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(training, "batch_loss", loss)
