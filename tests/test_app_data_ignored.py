"""Objects that the labels say to ignore: no anchor learns from them, and finding them counts neither way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from labelled import write_voc
from tinyssd.data.loader import Pictures, make_loader
from tinyssd.data.open import open_folder
from tinyssd.evaluation.evaluate import average_precision
from tinyssd.model.loss import IGNORED
from tinyssd.run.config import TrainConfig
from tinyssd.training.targets import ignored_boxes, make_targets

from tinyssd_ops import box_iou, multibox_prior

ANCHORS = multibox_prior(8, 8, [0.2, 0.4], [1.0, 2.0])
PAD = [-1.0] * 5
OBJECT, CROWD = [0, 0.0, 0.0, 0.3, 0.3], [-2, 0.5, 0.5, 1.0, 1.0]


def test_a_data_set_passes_ignored_objects_on(tmp_path):
    write_voc(tmp_path)
    source, _ = open_folder(tmp_path)
    loader, _ = make_loader(Pictures(source, (32, 32)), batch_size=3)
    _, labels = next(iter(loader))
    assert source.class_names == ("9", "cat", "猫 dog")
    assert labels[..., 0].tolist() == [[1, 0, -3], [2, -1, -1], [-1, -1, -1]]
    assert ignored_boxes(labels).shape == (3, 1, 4)
    torch.testing.assert_close(ignored_boxes(labels)[0, 0], torch.tensor([1 / 64, 2 / 32, 3 / 64, 4 / 32]))
    assert (ignored_boxes(labels)[1:] == 0).all()


def test_ignored_boxes_of_batches_without_any():
    assert ignored_boxes(torch.tensor([[OBJECT, PAD]])).shape == (1, 0, 4)
    assert ignored_boxes(torch.zeros(2, 0, 5)).shape == (2, 0, 4)


@pytest.mark.parametrize("ignore_iou", [0.2, 1.0])
def test_anchors_on_ignored_objects_are_left_out_of_the_loss(ignore_iou):
    settings = TrainConfig(ignore_iou=ignore_iou)
    labels = torch.tensor([[CROWD, OBJECT], [OBJECT, PAD]])
    without = torch.tensor([[OBJECT, PAD], [OBJECT, PAD]])
    targets, mask, classes = make_targets(ANCHORS, labels, settings, ignored_boxes(labels))
    plain_targets, plain_mask, plain_classes = make_targets(ANCHORS, without, settings)
    assert torch.equal(targets, plain_targets)
    assert torch.equal(mask, plain_mask)
    assert torch.equal(classes[1], plain_classes[1])
    x1, y1, x2, y2 = ANCHORS[0].unbind(dim=1)
    inside = (x2.clamp(max=1) - x1.clamp(min=0.5)).clamp(min=0) * (y2.clamp(max=1) - y1.clamp(min=0.5)).clamp(min=0)
    on_crowd = inside / ((x2 - x1) * (y2 - y1)) >= settings.match_iou
    assert on_crowd.sum() > 20
    assert torch.equal(classes[0], torch.where(on_crowd & (plain_classes[0] == 0), IGNORED, plain_classes[0]))
    # An anchor that fits an ignored object as one fits an object lies in it as much.
    assert on_crowd[box_iou(ANCHORS[0], labels[0, :1, 1:])[:, 0] >= settings.match_iou].all()


def test_an_object_before_an_ignored_one_keeps_its_anchors():
    settings = dataclasses.replace(TrainConfig(), ignore_iou=1.0)
    labels = torch.tensor([[[1, 0.5, 0.5, 0.75, 0.75], [-2, 0.4, 0.4, 1.0, 1.0]]])
    _, _, classes = make_targets(ANCHORS, labels, settings, ignored_boxes(labels))
    _, _, alone = make_targets(ANCHORS, labels[:, :1], settings)
    assert torch.equal(classes == 2, alone == 2)


def found(*rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def truth(*rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


def test_what_is_found_on_ignored_objects_counts_neither_way():
    hit, on_crowd, also = (1, 0.9, 0, 0, 0.3, 0.3), (1, 0.95, 0.5, 0.5, 0.7, 0.7), (1, 0.93, 0.7, 0.7, 0.9, 0.9)
    objects = truth(OBJECT)
    with_crowd = truth(OBJECT, CROWD)
    best = average_precision([found(hit)], [objects], 2)
    assert average_precision([found(hit, on_crowd, also)], [with_crowd], 2).ap == best.ap == pytest.approx(1)
    assert average_precision([found(hit)], [with_crowd], 2).ap == best.ap
    assert average_precision([found(hit, on_crowd, also)], [objects], 2).ap < 1
    # A crowd of one class excuses no find of another.
    other = truth(OBJECT, [-3, 0.5, 0.5, 1.0, 1.0])
    assert average_precision([found(hit, on_crowd)], [other], 2).ap < 1
