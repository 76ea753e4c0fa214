"""The rules by which the application assigns anchors."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from tinyssd.cli import main
from tinyssd.commands import train
from tinyssd.data.source import IGNORED_FROM, PADDING
from tinyssd.model.aligned import aligned_loss
from tinyssd.model.assigners import assign, offset_targets, stages_of
from tinyssd.model.build import build
from tinyssd.model.loss import IGNORED, Assigner, LossConfig
from tinyssd.model.network import TinySSDConfig
from tinyssd.model.pyramid import PyramidConfig
from tinyssd.run.config import RunConfig
from tinyssd.training.criterion import batch_loss
from tinyssd.training.targets import ignored_boxes

from tinyssd_ops import assign_anchors, decode_boxes, encode_boxes, iou_pairs, multibox_target

CLASSES = 3
NETWORKS = {
    "classic": TinySSDConfig(CLASSES, image_size=(64, 96)),
    "pyramid": PyramidConfig(CLASSES, image_size=(64, 96), anchors=(((24.0, 24.0),), ((40.0, 40.0),), ((60.0, 60.0),))),
}
RULES = get_args(Assigner)
CPU = torch.device("cpu")


def labels() -> torch.Tensor:
    """Three pictures: two objects; an object, a crowd and padding; nothing but padding."""
    rows = torch.zeros(3, 3, 5)
    rows[..., 0] = PADDING
    rows[0, :2] = torch.tensor([[0, 0.1, 0.1, 0.5, 0.6], [1, 0.5, 0.5, 0.9, 0.9]])
    rows[1, :2] = torch.tensor([[1, 0.0, 0.0, 0.5, 0.5], [IGNORED_FROM, 0.5, 0.4, 1.0, 1.0]])
    return rows


@pytest.fixture(params=NETWORKS)
def outputs(request):
    """A network's configuration and what it returns for three pictures."""
    torch.manual_seed(0)
    network = build(NETWORKS[request.param]).eval()
    return network.config, network(torch.rand(3, 3, 64, 96))


def assigned_by(rule, config, outputs):
    """The arguments that need a network, made of its outputs."""
    anchors, scores, offsets = outputs
    boxes = decode_boxes(anchors, offsets.detach().unflatten(1, (-1, 4)))
    probabilities = scores.detach().sigmoid()[..., -(CLASSES - 1) :]
    loss = LossConfig(assigner=rule)
    return assign(stages_of(config, CPU), anchors[0], probabilities, boxes, labels(), loss), boxes


@pytest.mark.parametrize("network", NETWORKS)
def test_stages_are_those_of_the_network(network):
    config = NETWORKS[network]
    stages = stages_of(config, CPU)
    assert stages is stages_of(replace(config), CPU)
    assert sum(stages.sizes) == len(stages.strides) == build(config).anchors.shape[1]
    # Cells of the first stage are 8 pixels wide, those of the last one 32, or the whole picture.
    assert (float(stages.strides[0]), float(stages.strides[-1])) == (8, 96 if network == "classic" else 32)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_teaches_every_object(outputs, rule):
    (assigned, quality), boxes = assigned_by(rule, *outputs)
    assert assigned.shape == quality.shape == boxes.shape[:2]
    # Each object has an anchor; the crowd and the padding have none; the empty picture has none.
    assert [set(row[row >= 0].tolist()) for row in assigned] == [{0, 1}, {0}, set()]
    assert (assigned[1] == -2).any()
    assert not quality[assigned < 0].any()
    matched = labels()[..., 1:].gather(1, assigned.clamp(min=0)[..., None].expand(-1, -1, 4))
    overlap = iou_pairs(boxes, matched, aligned=True)
    if rule == "task_aligned":  # an object's best anchor scores its best IoU
        assert quality[0].max() == pytest.approx(float(overlap[0][assigned[0] >= 0].max()), abs=1e-5)
    else:
        torch.testing.assert_close(quality, torch.where(assigned >= 0, overlap, 0), atol=1e-5, rtol=1e-5)


def test_greedy_is_multibox_target(outputs):
    (assigned, _), _ = assigned_by("greedy", *outputs)
    anchors, plain = outputs[1][0], labels()
    expected = assign_anchors(anchors[0], plain[..., 1:], plain[..., 0] >= 0)
    assert torch.equal(assigned[0], expected[0])  # where there is no crowd
    found = offset_targets(assigned[:1], anchors[0], plain[:1])
    for one, two in zip(found, multibox_target(anchors, plain[:1]), strict=True):
        assert torch.equal(one, two)


def test_targets_are_those_of_the_assignment(outputs):
    (assigned, _), _ = assigned_by("atss", *outputs)
    anchors, rows = outputs[1][0], labels()
    targets, mask, classes = offset_targets(assigned, anchors[0], rows)
    assert torch.equal(classes > 0, assigned >= 0)
    assert torch.equal(classes == IGNORED, assigned == -2)
    assert torch.equal(mask, (assigned >= 0).repeat_interleave(4, dim=1).float())
    image, anchor = (assigned >= 0).nonzero()[0].tolist()
    row = rows[image, assigned[image, anchor]]
    assert classes[image, anchor] == row[0] + 1
    expected = encode_boxes(anchors[0, anchor], row[1:])
    torch.testing.assert_close(targets.unflatten(1, (-1, 4))[image, anchor], expected)


@pytest.mark.parametrize("rule", RULES)
def test_the_losses_take_any_rule(outputs, rule):
    config, (anchors, *predicted) = outputs
    scores, offsets = (t.detach().clone().requires_grad_() for t in predicted)
    is_classic = isinstance(config, TinySSDConfig)
    loss = replace(LossConfig() if is_classic else LossConfig.aligned(), assigner=rule)
    run = RunConfig(("a", "b"), config, loss=loss)
    value, _ = batch_loss((anchors, scores, offsets), labels(), ignored_boxes(labels()), run)
    value.backward()
    assert value.isfinite()
    # Boxes learn from matched anchors alone, and all three kinds of scores learn but the ignored ones.
    taught = offsets.grad.unflatten(1, (-1, 4)).abs().sum(-1) > 0
    assert taught[0].any()
    assert not taught[2].any()
    assert scores.grad[2].any()


def test_the_aligned_loss_falls_where_boxes_fit():
    """Whatever the rule, predictions of the very boxes cost less than those of the anchors."""
    config = NETWORKS["pyramid"]
    anchors, rows = build(config).anchors, labels()[:1]
    nearest = assign_anchors(anchors[0], rows[..., 1:], rows[..., 0] >= 0)
    fitting = offset_targets(nearest, anchors[0], rows)[0]
    scores = torch.full((1, anchors.shape[1], CLASSES - 1), -2.0)
    for rule in RULES:
        loss = replace(LossConfig.aligned(), assigner=rule)
        worse, better = (
            aligned_loss(anchors, scores, offsets, rows, config, loss).boxes / loss.box_weight
            for offsets in (torch.zeros_like(fitting), fitting)
        )
        assert better < worse, rule


class StopError(Exception):
    """Ends a command where the training would begin."""


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ([], "atss"),
        (["--model", "classic"], "greedy"),
        (["--assigner", "task_aligned"], "task_aligned"),
        (["--assigner", "simota", "--model", "classic"], "simota"),
    ],
)
def test_the_command_line_chooses_the_rule(tmp_path, monkeypatch, options, rule):
    found = []

    def stop(config, *_, **__):
        found.append(config)
        raise StopError

    monkeypatch.setattr("tinyssd.training.train.train", stop)
    (tmp_path / "few.json").write_text('{"data": {"train_size": 8, "val_size": 8}}')
    few = ["--data", "synthetic", "--config", str(tmp_path / "few.json"), "--run", str(tmp_path / "run")]
    with pytest.raises(StopError):
        main(["train", *few, *options])
    assert found[0].loss.assigner == rule
    assert RunConfig.from_dict(found[0].to_dict()) == found[0]


def test_another_rule_is_an_error(capsys):
    assert train._ASSIGNERS == RULES
    with pytest.raises(SystemExit):
        main(["train", "--assigner", "nearest"])
    assert "invalid choice: 'nearest'" in capsys.readouterr().err
