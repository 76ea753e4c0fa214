"""TinySSD: a small single-shot detector, from labelled pictures to drawn boxes.

Read in this order: :mod:`tinyssd.model.network` and :mod:`tinyssd.model.loss`, the textbook's network and loss,
:mod:`tinyssd.model.pyramid` and :mod:`tinyssd.model.aligned`, the default ones, :mod:`tinyssd.data.loader`,
:mod:`tinyssd.training.train`. The geometry underneath (anchors, matching, suppression) is :mod:`tinyssd_ops`.

What a program of your own needs is here. Three lines train, use and export a detector, as the command line does::

    from tinyssd import Run, train

    run = train("DIR")  # or, of one that is trained: Run("runs/demo")
    found = run.predict("photo.jpg")
    files = run.export("onnx")

Use a trained network::

    from PIL import Image
    from tinyssd import load_model, predict_picture

    run = load_model("runs/demo")
    picture = Image.open("photo.jpg")
    for found in predict_picture(run.model, picture, run.config.class_names, run.score_thresholds):
        print(found.label, found.score, found.box)  # the box as shares of the picture

Train one in a loop of your own::

    import torch
    from tinyssd import AugmentConfig, LossConfig, Pictures, TinySSD, detection_loss, make_loader, open_folder, to_input
    from tinyssd_ops import multibox_target

    train, val = open_folder("DIR")
    model = TinySSD(num_classes=len(train.class_names) + 1)
    loader, sampler = make_loader(Pictures(train, (256, 256), AugmentConfig()), batch_size=32, shuffle_seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for sampler.epoch in range(9):
        for images, labels in loader:
            anchors, scores, offsets = model(to_input(images))
            targets, mask, classes = multibox_target(anchors, labels)
            loss = detection_loss(scores, offsets, classes, targets, mask, LossConfig()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyssd.api import Run, train
    from tinyssd.data.augment import AugmentConfig
    from tinyssd.data.images import read_picture
    from tinyssd.data.loader import Pictures, make_loader, to_input
    from tinyssd.data.open import open_folder
    from tinyssd.data.source import Example, Source
    from tinyssd.data.synthetic import SyntheticSource
    from tinyssd.errors import BackboneError, CheckpointError, ConfigError, DataError, TinySSDError, TrainingError
    from tinyssd.model.loss import LossConfig, detection_loss
    from tinyssd.model.network import TinySSD, TinySSDConfig
    from tinyssd.model.pyramid import PyramidConfig, PyramidSSD
    from tinyssd.prediction.predict import Detection, drawn_detections, predict_picture
    from tinyssd.run.checkpoint import Trained, load_model

__all__ = [
    "AugmentConfig",
    "BackboneError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Detection",
    "Example",
    "LossConfig",
    "Pictures",
    "PyramidConfig",
    "PyramidSSD",
    "Run",
    "Source",
    "SyntheticSource",
    "TinySSD",
    "TinySSDConfig",
    "TinySSDError",
    "Trained",
    "TrainingError",
    "detection_loss",
    "drawn_detections",
    "load_model",
    "make_loader",
    "open_folder",
    "predict_picture",
    "read_picture",
    "to_input",
    "train",
]

_MODULES = (
    "errors",
    "model.network",
    "model.pyramid",
    "model.loss",
    "data.source",
    "data.augment",
    "data.images",
    "data.loader",
    "data.open",
    "data.synthetic",
    "run.checkpoint",
    "prediction.predict",
    "api",
)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that the command line's help need not wait for Torch."""
    if name in __all__:
        for module in _MODULES:
            namespace = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in namespace:
                return namespace[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
