"""What the default recipe finds by looking: input, anchors, length."""

from __future__ import annotations

import numpy as np
import pytest
from tinyssd.data.synthetic import SyntheticSource
from tinyssd.model.fit import Objects, fit_anchors, fit_image_size, overlap, weighted_quantile
from tinyssd.training.recipe import average_kept, fit, length, training_objects


def objects(sizes, pictures=(640, 480), class_ids=None):
    sizes = np.array(sizes, dtype=np.float64)
    shapes = np.broadcast_to(np.array(pictures, dtype=np.float64), (len(sizes), 2))
    return Objects(sizes, np.zeros(len(sizes), np.int64) if class_ids is None else np.array(class_ids), shapes)


def test_anchors_are_the_sizes_of_the_objects():
    random = np.random.default_rng(0)
    centers = np.array([[20, 20], [24, 60], [150, 120]])
    sizes = (centers[random.integers(3, size=300)] * random.uniform(0.95, 1.05, size=(300, 2))).clip(1)
    anchors = fit_anchors(sizes, np.full(300, 1 / 300))
    np.testing.assert_allclose(anchors[0], [(20, 20), (24, 60)], rtol=0.05)
    assert anchors[1] == ((64.0, 64.0),)  # No object: one anchor for those that are enlarged or reduced.
    np.testing.assert_allclose(anchors[2], [(150, 120)], rtol=0.05)


def test_an_anchor_covers_a_pixel():
    assert fit_anchors(np.array([[32.0, 0.01], [0.0, 0.0]]), np.full(2, 0.5))[0] == ((1.0, 1.0), (32.0, 1.0))


def test_a_rare_class_has_anchors_of_its_own():
    sizes = np.array([[30.0, 30.0]] * 500 + [[12.0, 12.0]] * 5)
    found = objects(sizes / (640, 480), class_ids=[0] * 500 + [1] * 5)
    anchors = np.array(fit_anchors(sizes, found.weights)[0])
    assert overlap(np.array([[12.0, 12.0]]), anchors).max() > 0.9


@pytest.mark.parametrize(
    ("shares", "picture", "expected"),
    [
        (0.5, (640, 480), (288, 384)),
        (0.06, (640, 480), (352, 448)),  # Small objects: a larger input,
        (0.01, (640, 480), (384, 512)),  # but not without bound,
        (0.1, (256, 256), (256, 256)),  # nor larger than the pictures.
        (0.5, (480, 640), (384, 288)),
        (0.5, (4000, 1000), (224, 448)),
    ],
)
def test_input_has_the_pictures_shape_and_shows_small_objects(shares, picture, expected):
    assert fit_image_size(objects([(shares, shares)] * 10, picture)) == expected


def test_pictures_of_different_shapes_get_a_square():
    mixed = objects([(0.5, 0.5)] * 10, [(640, 480)] * 5 + [(480, 640)] * 5)
    height, width = fit_image_size(mixed)
    assert height == width
    assert fit_image_size(mixed, longer_side=256) == (256, 256)


def test_weighted_quantile():
    assert weighted_quantile(np.array([3.0, 1.0, 2.0]), np.ones(3) / 3, 0.5) == 2.0


@pytest.mark.parametrize("pictures", [10, 160, 292, 900, 5000, 100_000])
def test_length(pictures):
    settings = length(pictures, 16)
    seen = settings["epochs"] * settings["passes"] * pictures
    assert 20_000 <= seen <= max(40_000, 5.5 * pictures)
    assert settings["epochs"] >= 5


def test_generated_pictures_are_looked_at():
    fitted = fit(training_objects(SyntheticSource(20, 128, 0)), (128, 128))
    assert fitted.mean_iou > 0.7
    assert "input 128x128" in str(fitted)


@pytest.mark.parametrize(("steps", "over"), [(10, 20), (1000, 50), (1840, 92), (10**6, 1000)])
def test_average_reaches_back_over_a_twentieth_of_the_steps(steps, over):
    assert 1 / (1 - average_kept(steps)) == pytest.approx(over)
