"""The rules by which the application assigns anchors."""

from __future__ import annotations

import pytest
import torch
from tinyssd.data.source import IGNORED_FROM, PADDING
from tinyssd.model.loss import IGNORED, LossConfig, detection_loss
from tinyssd.model.network import TinySSD
from tinyssd.run.config import TrainConfig
from tinyssd.training.assigners import RULES, Stages, assign, targets_of
from tinyssd.training.targets import make_targets

from tinyssd_ops import assign_anchors, encode_boxes, multibox_target

CLASSES = 3
SETTINGS = TrainConfig()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return TinySSD(CLASSES, image_size=(64, 96)).eval()


@pytest.fixture(scope="module")
def batch(network):
    """Three pictures: two objects; an object, a crowd and padding; nothing but padding."""
    labels = torch.zeros(3, 3, 5)
    labels[..., 0] = PADDING
    labels[0, :2] = torch.tensor([[0, 0.1, 0.1, 0.5, 0.6], [1, 0.5, 0.5, 0.9, 0.9]])
    labels[1, :2] = torch.tensor([[1, 0.0, 0.0, 0.5, 0.5], [IGNORED_FROM, 0.5, 0.4, 1.0, 1.0]])
    with torch.no_grad():
        anchors, scores, offsets = network(torch.rand(3, 3, 64, 96))
    return anchors, labels, scores.softmax(-1)[..., 1:], offsets


def test_stages_are_those_of_the_network(network):
    stages = Stages.of(network.config)
    assert sum(stages.sizes) == len(stages.strides) == network.anchors.shape[1]
    # Cells of the first stage are 8 pixels wide, the last one is the picture.
    assert (float(stages.strides[0]), float(stages.strides[-1])) == (8, 96)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_teaches_every_object(network, batch, rule):
    anchors, labels, probabilities, offsets = batch
    assigned, quality = assign(rule, Stages.of(network.config), anchors, labels, probabilities, offsets, SETTINGS)
    assert assigned.shape == quality.shape == probabilities.shape[:2]
    # Each object has an anchor; the crowd and the padding have none; the empty picture has none.
    assert [set(row[row >= 0].tolist()) for row in assigned] == [{0, 1}, {0}, set()]
    assert ((quality > 0) == (assigned >= 0)).all()
    assert (quality <= 1).all()
    assert rule == "greedy" or (assigned[1] == -2).any()


@pytest.mark.parametrize("rule", RULES)
def test_the_loss_takes_any_rule(network, batch, rule):
    anchors, labels, probabilities, offsets = batch
    assigned, _ = assign(rule, Stages.of(network.config), anchors, labels, probabilities, offsets, SETTINGS)
    offset_targets, mask, classes = targets_of(assigned, anchors, labels)
    assert torch.equal(classes > 0, assigned >= 0)
    assert torch.equal(classes == IGNORED, assigned == -2)
    image, anchor = (assigned >= 0).nonzero()[0].tolist()
    row = labels[image, assigned[image, anchor]]
    assert classes[image, anchor] == row[0] + 1
    torch.testing.assert_close(
        offset_targets.unflatten(1, (-1, 4))[image, anchor], encode_boxes(anchors[0, anchor], row[1:])
    )
    scores = torch.randn(*classes.shape, CLASSES).requires_grad_()
    shifts = offsets.clone().requires_grad_()
    loss = detection_loss(scores, shifts, classes, offset_targets, mask, LossConfig())
    loss.sum().backward()
    assert loss.isfinite().all()
    assert not scores.grad[classes == IGNORED].any()


def test_greedy_is_multibox_target(network, batch):
    anchors, labels, probabilities, offsets = batch
    assigned, _ = assign("greedy", Stages.of(network.config), anchors, labels, probabilities, offsets, SETTINGS)
    found = targets_of(assigned, anchors, labels)
    for one, two in zip(found, multibox_target(anchors, labels, SETTINGS.match_iou), strict=True):
        assert torch.equal(one, two)
    for one, two in zip(found[:2], make_targets(anchors, labels, SETTINGS)[:2], strict=True):
        assert torch.equal(one, two)
    assert torch.equal(assigned, assign_anchors(anchors[0], labels[..., 1:], labels[..., 0] >= 0, SETTINGS.match_iou))


def test_predictions_decide_without_a_gradient(network, batch):
    anchors, labels, probabilities, offsets = batch
    stages, shifts = Stages.of(network.config), offsets.clone().requires_grad_()
    for rule in ("task_aligned", "simota"):
        _, quality = assign(rule, stages, anchors, labels, probabilities, shifts, SETTINGS)
        assert not quality.requires_grad
        # What was chosen and predicts its box exactly scores best.
        perfect = encode_boxes(anchors, labels[:, :1, 1:]).flatten(1)
        _, better = assign(rule, stages, anchors, labels, probabilities, perfect, SETTINGS)
        assert better[0].max() > quality[0].max()
        assert better[0].max() == pytest.approx(1, abs=1e-5)
