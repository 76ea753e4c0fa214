"""Training pictures vary, and their boxes with them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from tinyssd.data.augment import AugmentConfig, augmented
from tinyssd.data.cache import Cached
from tinyssd.data.loader import EpochSampler, Pictures
from tinyssd.data.place import fitted, on_input
from tinyssd.data.source import Example

RED = (250, 10, 10)


def example(size=(200, 120), box=(60, 30, 120, 90)):
    """A red rectangle on blue, with its label."""
    image = Image.new("RGB", size, (10, 10, 90))
    image.paste(RED, box)
    labels = np.array([[0, *np.divide(box, size * 2)]], dtype=np.float32)
    return Example(image, labels)


class Source:
    class_names = ("red",)
    max_boxes = 1

    def __len__(self):
        return 5

    def example(self, index, epoch):
        return example(box=(20 + 10 * index, 30, 80 + 10 * index, 90))


def red_box(image):
    """Where red is, as shares."""
    pixels = np.asarray(image).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 120) & (pixels[..., 2] < 80))
    height, width = pixels.shape[:2]
    return np.array(
        [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("keep_shape", [True, False])
def test_labels_lie_where_their_objects_are_drawn(seed, keep_shape):
    config = dataclasses.replace(AugmentConfig.strong(), color=0.0, hue=0.0, mosaic=0.0)
    varied = augmented([example()], (160, 160), keep_shape, config, np.random.default_rng(seed))
    assert varied.image.size == (160, 160)
    np.testing.assert_allclose(varied.labels[0, 1:], red_box(varied.image), atol=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_a_mosaic_shows_four_pictures_with_their_labels(seed):
    config = dataclasses.replace(AugmentConfig.strong(), color=0.0, hue=0.0)
    varied = augmented([example()] * 4, (320, 320), True, config, np.random.default_rng(seed))
    assert 1 <= len(varied.labels) <= 4
    pixels = np.asarray(varied.image).astype(int)
    for class_id, x1, y1, x2, y2 in varied.labels:
        inside = pixels[round(y1 * 320) + 2 : round(y2 * 320) - 2, round(x1 * 320) + 2 : round(x2 * 320) - 2]
        assert (inside[..., 0] > 120).all()
        assert class_id in (0, -2)


def test_little_of_an_object_is_ignored_and_less_is_gone():
    config = AugmentConfig(flip=0.0, color=0.0, zoom=4.0)
    kinds = set()
    for seed in range(200):
        rows = augmented([example()], (160, 96), True, config, np.random.default_rng(seed)).labels
        kinds.add(rows[0, 0] if len(rows) else None)
    assert 0 in kinds
    assert kinds <= {0, -2, None}


def test_colours_change_and_boxes_do_not():
    config = AugmentConfig(flip=0.0, color=0.4, hue=30.0)
    varied = augmented([example()], (200, 120), True, config, np.random.default_rng(3))
    assert np.abs(np.asarray(varied.image).astype(int) - np.asarray(example().image)).max() > 5
    np.testing.assert_allclose(varied.labels, example().labels, atol=1e-6)
    # Nothing changes where nothing is to.
    plain = augmented([example()], (200, 120), True, AugmentConfig(flip=0.0, color=0.0), np.random.default_rng(3))
    assert np.array_equal(np.asarray(plain.image), np.asarray(example().image))


def test_a_picture_of_another_shape_keeps_its_own_with_bars_beside():
    image, place = on_input(example().image, (160, 160), keep_shape=True)
    assert (place.width, place.height) == (160, 96)
    boxes = place.onto(example().labels[:, 1:], image.size)
    np.testing.assert_allclose(boxes[0], red_box(image), atol=0.01)
    np.testing.assert_allclose(place.back(boxes, image.size), example().labels[:, 1:], atol=1e-6)
    assert fitted((640, 480), (416, 320), True).height == 320  # Nearly the same shape: no bars.


def test_an_epoch_of_several_passes_sees_each_picture_as_often():
    sampler = EpochSampler(5, seed=0, passes=3)
    sampler.epoch = 2
    keys = list(sampler)
    assert sorted(keys) == [(number, index) for number in (6, 7, 8) for index in range(5)]
    sampler.skip = 7
    assert list(sampler) == keys[7:]
    assert len(sampler) == 8


def test_pictures_vary_less_at_the_end():
    pictures = Pictures(Source(), (96, 160), AugmentConfig.strong(), keep_shape=True, closing_from=4)
    assert pictures.max_boxes == 4
    late = [pictures[4, index][1] for index in range(5)]
    assert all(len(labels) == 1 for labels in late)  # No mosaic.
    assert any(len(pictures[1, index][1]) > 1 for index in range(5))


def test_kept_pictures_are_read_once(tmp_path, monkeypatch):
    from tinyssd.data.labels import Object, Picture
    from tinyssd.data.source import PictureFiles

    example((400, 240), (120, 60, 240, 180)).image.save(tmp_path / "a.png")
    thing = Object(0, (120.0, 60.0, 240.0, 180.0), False, tmp_path / "a.xml", 1)
    files = PictureFiles([Picture(tmp_path / "a.png", (400, 240), (thing,), 1, tmp_path / "a.xml", 1)] * 2, ["red"])
    kept = Cached(files, most_pixels=200 * 120, budget=200 * 120 * 3)
    first = [kept.example(index, 0) for index in (0, 1)]
    assert first[0].image.size == (200, 120)
    (tmp_path / "a.png").unlink()
    again = kept.example(0, 1)
    assert np.array_equal(np.asarray(again.image), np.asarray(first[0].image))
    np.testing.assert_allclose(again.labels[0, 1:], red_box(again.image), atol=0.01)
    with pytest.raises(Exception, match="cannot read"):
        kept.example(1, 1)  # The budget was spent on the first.
