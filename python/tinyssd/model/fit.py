"""An input and anchors that fit the objects of a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinyssd.data.place import fitted
from tinyssd.model.pyramid import STRIDES, StageAnchors

# A stage sees objects of up to so many of its cells best; larger ones are left to the next.
_CELLS = 6
# What the small objects of a data set (a tenth is smaller) should measure on the input.
_SMALL_PIXELS = 24
_LEAST_SIDE, _MOST_SIDE = 320, 448
# Pictures of one set whose shapes differ by more get a square input.
_SAME_SHAPE = 1.25
_MOST_RATIO = 2.0
_MOST_ANCHORS = 3
# A further anchor of a stage must raise the mean IoU of its objects with their best anchor by this.
_WORTH = 0.03
_ROUNDS = 50


@dataclass(frozen=True)
class Objects:
    """The objects to train on.

    Attributes:
        sizes: Width and height of each as shares of its picture, [N, 2].
        class_ids: [N].
        pictures: Width and height of each object's picture in pixels, [N, 2].
    """

    sizes: np.ndarray
    class_ids: np.ndarray
    pictures: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """A class counts as much as another, however many objects it has: [N], their sum is 1."""
        counts = np.bincount(self.class_ids)[self.class_ids]
        return 1 / counts / len(np.unique(self.class_ids))

    def on_input(self, image_size: tuple[int, int]) -> np.ndarray:
        """Width and height of each in pixels of an input of that height and width, [N, 2]."""
        canvas = (image_size[1], image_size[0])
        shapes, which = np.unique(self.pictures, axis=0, return_inverse=True)
        places = [fitted((width, height), canvas, keep_shape=True) for width, height in shapes.tolist()]
        whole = np.array([(place.width, place.height) for place in places])
        return self.sizes * whole[which.reshape(-1)]


def fit_image_size(objects: Objects, longer_side: int | None = None) -> tuple[int, int]:
    """Height and width of an input of the pictures' shape, multiples of 32.

    Args:
        objects: The objects to train on.
        longer_side: In pixels; None: so that small objects are large enough.
    """
    ratios = objects.pictures[:, 0] / objects.pictures[:, 1]
    low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    ratio = float(middle) if high < _SAME_SHAPE * low else 1.0
    ratio = min(max(ratio, 1 / _MOST_RATIO), _MOST_RATIO)
    small = weighted_quantile(np.sqrt(objects.sizes.prod(axis=1)), objects.weights, 0.1)
    native = float(np.median(np.sqrt(objects.pictures.prod(axis=1))))
    most = min(_MOST_SIDE, max(native, _LEAST_SIDE / 2))
    side = min(max(_SMALL_PIXELS / max(small, 1e-6), _LEAST_SIDE), most)
    if longer_side is not None:
        side = longer_side / math.sqrt(max(ratio, 1 / ratio))
    height, width = side / math.sqrt(ratio), side * math.sqrt(ratio)
    coarsest = STRIDES[-1]
    return max(1, round(height / coarsest)) * coarsest, max(1, round(width / coarsest)) * coarsest


def fit_anchors(sizes: np.ndarray, weights: np.ndarray) -> tuple[StageAnchors, ...]:
    """For each stage the anchors of its objects, found by k-means under the IoU of boxes with one centre.

    Args:
        sizes: Width and height of the objects in pixels of the input, [N, 2].
        weights: [N].

    Source: Redmon and Farhadi, "YOLO9000", 2017, section 2.
    """
    sizes = sizes.clip(min=1)  # An anchor covers a pixel.
    sides = np.sqrt(sizes.prod(axis=1))
    edges = [0.0, *(stride * _CELLS for stride in STRIDES[:-1]), math.inf]
    stages = []
    for stride, low, high in zip(STRIDES, edges[:-1], edges[1:], strict=True):
        inside = (sides >= low) & (sides < high)
        # A stage without objects keeps one anchor: enlarged and reduced pictures have some for it.
        stages.append(_clusters(sizes[inside], weights[inside]) if inside.any() else ((4.0 * stride, 4.0 * stride),))
    return tuple(stages)


def overlap(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of boxes with one centre: [N, 2], [K, 2] to [N, K]."""
    shared = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)
    return shared / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - shared)


def _clusters(sizes: np.ndarray, weights: np.ndarray) -> StageAnchors:
    best, fit = _k_means(sizes, weights, 1)
    for count in range(2, _MOST_ANCHORS + 1):
        more, better = _k_means(sizes, weights, count)
        if better < fit + _WORTH:
            break
        best, fit = more, better
    return tuple((round(float(width), 1), round(float(height), 1)) for width, height in best)


def _k_means(sizes: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """``count`` anchors, the smallest first, and the mean IoU of the objects with their best."""
    shares = (np.arange(count) + 0.5) / count
    anchors = np.array([[weighted_quantile(side, weights, share) for side in sizes.T] for share in shares])
    for _ in range(_ROUNDS):
        nearest = overlap(sizes, anchors).argmax(axis=1)
        moved = anchors.copy()
        for k in range(count):
            own = nearest == k
            if own.any():
                moved[k] = np.average(sizes[own], axis=0, weights=weights[own])
        if np.allclose(moved, anchors, rtol=1e-4):
            break
        anchors = moved
    anchors = anchors[anchors.prod(axis=1).argsort()]
    return anchors, float(np.average(overlap(sizes, anchors).max(axis=1), weights=weights))


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The value below which ``share`` of the weight lies."""
    order = np.argsort(values)
    below = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    return float(np.interp(share, below, values[order]))
