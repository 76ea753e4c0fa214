"""The default network and its loss."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tinyssd.errors import ConfigError
from tinyssd.model.aligned import aligned_loss
from tinyssd.model.build import anchors_of, build, config_type
from tinyssd.model.fold import folded
from tinyssd.model.loss import LossConfig
from tinyssd.model.network import TinySSDConfig
from tinyssd.model.pyramid import STRIDES, PyramidConfig, PyramidSSD

from tinyssd_ops import encode_boxes

SMALL = PyramidConfig(
    num_classes=3,
    image_size=(64, 96),
    anchors=(((16.0, 16.0), (10.0, 24.0)), ((40.0, 40.0),), ((64.0, 64.0), (80.0, 60.0))),
    widths=(8, 8, 8, 8),
    depths=(1, 1, 1, 1),
    neck=8,
)
COUNT = 8 * 12 * 2 + 4 * 6 + 2 * 3 * 2


@pytest.fixture
def network() -> PyramidSSD:
    torch.manual_seed(0)
    return PyramidSSD.from_config(SMALL).eval()


def test_default_network_has_less_than_a_million_weights():
    config = PyramidConfig(num_classes=21, anchors=(((24.0, 24.0),) * 3, ((64.0, 64.0),) * 3, ((160.0, 160.0),) * 3))
    assert sum(one.numel() for one in PyramidSSD.from_config(config).parameters()) < 1_000_000


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_shapes(network, batch):
    anchors, scores, offsets = network(torch.zeros(batch, 3, 64, 96))
    assert anchors.shape == (1, COUNT, 4)
    assert scores.shape == (batch, COUNT, 2)
    assert offsets.shape == (batch, 4 * COUNT)
    assert network.probabilities(scores).shape == (batch, 3, COUNT)
    assert SMALL.stage_sizes() == [8 * 12 * 2, 4 * 6, 2 * 3 * 2]


@pytest.mark.parametrize("config", [SMALL, TinySSDConfig(3, (64, 64))], ids=["default", "classic"])
def test_a_folded_network_has_no_normalisation_and_the_same_results(config):
    torch.manual_seed(0)
    model, images = build(config), torch.rand(4, 3, *config.image_size)
    for _ in range(20):  # Normalisations that do something.
        model(images)
    before = {name: value.clone() for name, value in model.eval().state_dict().items()}
    with torch.no_grad():
        for quick, plain in zip(folded(model)(images), model(images), strict=True):
            torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(one, torch.nn.BatchNorm2d) for one in folded(model).modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_anchors_are_centred_on_their_cells(network):
    boxes = network.anchors[0] * torch.tensor([96, 64, 96, 64])
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    first = 0
    for stride, (rows, columns), sizes in zip(STRIDES, SMALL.feature_sizes(), SMALL.anchors, strict=True):
        for k in (0, rows * columns * len(sizes) - 1):  # The first and the last of the stage.
            cell, anchor = divmod(k, len(sizes))
            row, column = divmod(cell, columns)
            wanted = torch.tensor([(column + 0.5) * stride, (row + 0.5) * stride])
            torch.testing.assert_close(center[first + k], wanted)
            torch.testing.assert_close(size[first + k], torch.tensor(sizes[anchor]))
        first += rows * columns * len(sizes)


def test_order_is_stage_row_column_anchor(network):
    with torch.no_grad():
        for head in (*network.class_heads, *network.offset_heads):
            head[-1].weight.zero_()
            head[-1].bias.copy_(torch.arange(len(head[-1].bias)))
        _, scores, offsets = network(torch.randn(2, 3, 64, 96))
    torch.testing.assert_close(scores[1, :4], torch.tensor([[0.0, 1], [2, 3], [0, 1], [2, 3]]))
    torch.testing.assert_close(offsets[1, :16], torch.arange(8.0).repeat(2))
    torch.testing.assert_close(scores[0, -2:], torch.tensor([[0.0, 1], [2, 3]]))


def test_probabilities_leave_the_rest_to_background(network):
    scores = torch.tensor([[[0.0, -2.0], [3.0, 1.0]]])
    probabilities = network.probabilities(scores)
    torch.testing.assert_close(probabilities[:, 1:], scores.sigmoid().transpose(1, 2))
    torch.testing.assert_close(probabilities[0, 0], 1 - scores[0, :, 0].sigmoid())


def test_compiles_to_one_graph(network):
    images = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), network(images), atol=1e-5, rtol=1e-4)


def test_made_on_meta(network):
    with torch.device("meta"):
        empty = PyramidSSD.from_config(SMALL)
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 64, 96)
    for one, two in zip(empty.eval()(images), network(images), strict=True):
        assert torch.equal(one, two)


def test_a_configuration_says_which_network_it_is_of():
    for config in (SMALL, TinySSDConfig(2)):
        settings = dataclasses.asdict(config)
        assert config_type(settings)(**settings) == config
        assert build(config).config == config
        assert torch.equal(build(config).anchors, anchors_of(config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected at least 2"),
        ({"image_size": (100, 64)}, "multiples of 32, got"),
        ({"anchors": (((8.0, 8.0),),)}, "some for each of 3 stages"),
        ({"anchors": (((8.0, -8.0),), ((8.0, 8.0),), ((8.0, 8.0),))}, "pairs of positive numbers"),
        ({"widths": (8, 8)}, "expected four, four and one positive number"),
    ],
)
def test_bad_architecture_is_an_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        PyramidConfig(**{"num_classes": 2, **settings})


PADDING = [-1.0, 0.0, 0.0, 0.0, 0.0]
LABELS = torch.tensor([[[1.0, 0.1, 0.1, 0.4, 0.5], [0.0, 0.5, 0.3, 0.9, 0.9]], [PADDING, PADDING]])


@pytest.mark.parametrize("assigner", ["task_aligned", "atss", "simota"])
def test_loss_falls_towards_boxes_and_classes(network, assigner):
    """Right answers cost next to nothing, those of the other class or place cost more."""
    config = dataclasses.replace(LossConfig.aligned(), assigner=assigner)
    anchors = network.anchors

    def loss(boxes, classes):
        offsets, scores = torch.zeros(2, COUNT, 4), torch.full((2, COUNT, 2), -12.0)
        for box, class_id in zip(boxes, classes, strict=True):
            near = (_centers(anchors[0]) - _centers(box)).abs().amax(-1) < 0.15
            offsets[0, near] = encode_boxes(anchors[0], box.expand(COUNT, 4))[near]
            scores[0, near, class_id] = 12.0
        return aligned_loss(anchors, scores, offsets.flatten(1), LABELS, SMALL, config)

    right = loss(LABELS[0, :, 1:], (1, 0))
    assert loss(LABELS[0, :, 1:], (0, 1)).classes > right.classes + 1
    assert loss(LABELS[0, :, 1:] + 0.05, (1, 0)).boxes > right.boxes + 0.1


def _centers(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def test_ignored_objects_are_neither_learnt_nor_denied(network):
    """An anchor that lies on an ignored object gets no gradient for its score."""
    anchors = network.anchors
    labels = torch.tensor([[[-2.0, 0.0, 0.0, 1.0, 1.0]]])
    scores = torch.zeros(1, COUNT, 2, requires_grad=True)
    parts = aligned_loss(anchors, scores, torch.zeros(1, 4 * COUNT), labels, SMALL, LossConfig.aligned())
    parts.classes.backward()
    assert (scores.grad == 0).all()
    assert parts.boxes == 0


def test_pictures_without_objects_teach_background(network):
    scores = torch.zeros(2, COUNT, 2, requires_grad=True)
    empty = torch.full((2, 1, 5), -1.0)
    parts = aligned_loss(network.anchors, scores, torch.zeros(2, 4 * COUNT), empty, SMALL, LossConfig.aligned())
    parts.classes.backward()
    assert (scores.grad > 0).all()
    assert parts.boxes == 0


def test_wild_offsets_have_finite_losses_and_gradients(network):
    scores = torch.zeros(2, COUNT, 2, requires_grad=True)
    offsets = (1e4 * torch.randn(2, 4 * COUNT)).requires_grad_()
    parts = aligned_loss(network.anchors, scores, offsets, LABELS, SMALL, LossConfig.aligned())
    gradients = torch.autograd.grad(parts.classes + parts.boxes, (scores, offsets))
    assert all(one.isfinite().all() for one in (*parts, *gradients))


def test_losses_of_two_networks_do_not_mix():
    with pytest.raises(ConfigError, match="are not of one network"):
        LossConfig(classes="varifocal")
