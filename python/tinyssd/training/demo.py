"""A whole run in a few minutes: train on generated pictures, evaluate on others, and draw what the detector sees."""

from __future__ import annotations

from pathlib import Path

from tinyssd.data.augment import AugmentConfig
from tinyssd.data.config import SEED_LIMIT, DataConfig
from tinyssd.data.loader import Pictures, make_loader
from tinyssd.data.synthetic import SyntheticSource
from tinyssd.evaluation.evaluate import Metrics, evaluate
from tinyssd.files import write_json
from tinyssd.model.device import pick_device
from tinyssd.model.loss import LossConfig
from tinyssd.model.pyramid import PyramidConfig
from tinyssd.prediction.gallery import save_anchors, save_predictions
from tinyssd.run.checkpoint import load_model
from tinyssd.run.config import RunConfig, TrainConfig
from tinyssd.training.recipe import RECIPE, average_kept, fit, training_objects

# Of held-out pictures, neither trained on nor looked at during the training.
_TEST_SEED = SEED_LIMIT + 1

_SIDE = 128
# The peak. A thousand steps are few and want larger ones than a long training (docs/detector.md has the measurement).
_LEARNING_RATE = 7e-3
# Anchors are fitted to the objects of so many pictures.
_LOOKED_AT = 50

# The same pictures drawn larger, for the eye; the detector sees them at its own size.
_DRAWN_SIDE = 512


def demo_config(
    epochs: int = 8, train_size: int = 2000, device: str = "auto", workers: int | None = None, seed: int = 0
) -> RunConfig:
    """The run of the demo: 128-pixel pictures, each seen once, so that two CPU cores need a few minutes."""
    names = SyntheticSource.class_names
    fitted = fit(training_objects(SyntheticSource(_LOOKED_AT, _SIDE, seed)), (_SIDE, _SIDE))
    steps = epochs * train_size // RECIPE["batch_size"]
    settings = {**RECIPE, "closing": 0.0, "learning_rate": _LEARNING_RATE, "ema": average_kept(steps)}
    return RunConfig(
        class_names=names,
        model=PyramidConfig(len(names) + 1, fitted.image_size, fitted.anchors),
        data=DataConfig("synthetic", train_size=train_size, val_size=100),
        train=TrainConfig(**settings, epochs=epochs, device=device, workers=workers, seed=seed),
        loss=LossConfig.aligned(),
        augment=AugmentConfig(color=0.0),
    )


def report(run: Path, device: str = "auto", pictures: int = 300) -> Metrics:
    """Evaluates a run of :func:`demo_config` on pictures it never saw, and draws.

    Writes ``test.json``, ``predictions.png`` and ``anchors.png`` into the run folder.

    Args:
        run: The run folder.
        device: As in :class:`tinyssd.run.config.TrainConfig`.
        pictures: How many to evaluate on.

    Raises:
        CheckpointError: If there is no usable checkpoint in ``run``.
    """
    trained = load_model(run, pick_device(device))
    model, config = trained.model, trained.config
    side = max(config.model.image_size)
    test = SyntheticSource(pictures, side, _TEST_SEED)
    loader, _ = make_loader(Pictures(test, config.model.image_size), config.train.batch_size)
    metrics = evaluate(model, loader, model.anchors.device, config.train.channels_last, config.train.match_iou)
    write_json(run / "test.json", metrics.to_dict())
    drawn = SyntheticSource(pictures, _DRAWN_SIDE, _TEST_SEED)
    save_predictions(model, drawn, run / "predictions.png", trained.score_thresholds)
    save_anchors(model, drawn, run / "anchors.png", match_iou=config.train.match_iou)
    return metrics
