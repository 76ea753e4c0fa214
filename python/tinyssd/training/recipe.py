"""The default recipe: what of a run follows from its training pictures.

The input has the pictures' shape and is large enough for their small objects, the anchors are those of the objects, and
the training is measured in pictures seen, not in passes: a few hundred pictures are seen often, many at least a few
times.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tinyssd.data.augment import AugmentConfig
from tinyssd.data.source import PictureFiles, Source
from tinyssd.model.fit import Objects, fit_anchors, fit_image_size, overlap
from tinyssd.model.loss import LossConfig
from tinyssd.model.pyramid import STRIDES, StageAnchors

# Pictures are seen so often, within the bounds; more than the last of them only where a set has more.
_PASSES, _LEAST_SEEN, _MOST_SEEN, _LEAST_PASSES = 100, 20_000, 36_000, 5
# The average of the weights reaches back over this share of the steps, within the bounds. Longer ones were measured to
# lag: over 500 of 1000 steps AP still rose by 0.01 in the last epoch, in which the learning rate is next to nothing.
_AVERAGED, _LEAST_AVERAGED, _MOST_AVERAGED = 0.05, 20, 1000
# A validation after about so many pictures seen.
_SEEN_IN_EPOCH = 1000
# Of generated pictures so many are looked at.
_LOOKED_AT = 200

# Settings of TrainConfig.
RECIPE: dict[str, Any] = {
    "batch_size": 16,
    "learning_rate": 5e-3,
    "weight_decay": 0.05,
    "warmup": 0.1,
    "clip": 10.0,
    "closing": 0.25,
    "patience": 12,
}


def recipe_defaults() -> dict[str, dict[str, Any]]:
    """The sections of a configuration that differ from the textbook's."""
    return {"train": RECIPE, "loss": asdict(LossConfig.aligned()), "augment": asdict(AugmentConfig.strong())}


@dataclass(frozen=True)
class Fitted:
    """What fits the training pictures.

    Attributes:
        image_size: Height and width of the input.
        anchors: As :class:`tinyssd.model.pyramid.PyramidConfig` has them.
        mean_iou: Of the objects with their best anchors, were those at the same place; each class counts alike.
    """

    image_size: tuple[int, int]
    anchors: tuple[StageAnchors, ...]
    mean_iou: float

    def __str__(self) -> str:
        height, width = self.image_size
        stages = "; ".join(
            f"cells of {stride}: " + ", ".join(f"{w:.0f}x{h:.0f}" for w, h in sizes)
            for stride, sizes in zip(STRIDES, self.anchors, strict=True)
        )
        return f"input {width}x{height}, anchors by the training boxes ({stages}), mean IoU {self.mean_iou:.2f}"


def fit(objects: Objects, image_size: tuple[int, int] | None = None, longer_side: int | None = None) -> Fitted:
    """An input and anchors for the objects to train on.

    Args:
        objects: What :func:`training_objects` finds.
        image_size: Height and width of the input; None: what suits the objects.
        longer_side: Of the input, where its size is not given.
    """
    image_size = image_size or fit_image_size(objects, longer_side)
    sizes = objects.on_input(image_size)
    anchors = fit_anchors(sizes, objects.weights)
    best = overlap(sizes, np.array([size for stage in anchors for size in stage])).max(axis=1)
    return Fitted(image_size, anchors, float(np.average(best, weights=objects.weights)))


def training_objects(source: Source) -> Objects:
    """The objects of the training pictures that are not to be ignored."""
    if isinstance(source, PictureFiles):
        pictures, labels = source.sizes, source.labels
    else:
        examples = [source.example(index, 0) for index in range(min(len(source), _LOOKED_AT))]
        pictures, labels = [one.image.size for one in examples], [one.labels for one in examples]
    rows = np.concatenate([rows.reshape(-1, 5) for rows in labels])
    of = np.repeat(np.array(pictures, dtype=np.float64), [len(rows) for rows in labels], axis=0)
    counted = rows[:, 0] >= 0
    rows, of = rows[counted].astype(np.float64), of[counted]
    return Objects(rows[:, 3:] - rows[:, 1:3], rows[:, 0].astype(np.int64), of)


def length(pictures: int, batch_size: int) -> dict[str, Any]:
    """``epochs`` and ``passes`` for a training set of so many pictures."""
    seen = min(max(_PASSES * pictures, _LEAST_SEEN), max(_MOST_SEEN, _LEAST_PASSES * pictures))
    passes = max(1, round(max(_SEEN_IN_EPOCH, batch_size) / pictures))
    return {"epochs": max(1, math.ceil(seen / (pictures * passes))), "passes": passes}


def average_kept(steps: int) -> float:
    """``ema`` for a training of so many steps."""
    return 1 - 1 / min(max(_AVERAGED * steps, _LEAST_AVERAGED), _MOST_AVERAGED)
