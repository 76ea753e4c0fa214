"""The losses against slow, literal ones."""

from __future__ import annotations

import pytest
import torch
from tinyssd.errors import ConfigError
from tinyssd.model.loss import IGNORED, LossConfig, class_loss, detection_loss
from torch.nn import functional

B, A, C = 4, 60, 3


@pytest.fixture
def batch():
    """Scores, offsets, classes, targets and mask; the last picture has no object."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(B, A, C, generator=generator)
    offsets, targets = torch.randn(2, B, 4 * A, generator=generator)
    classes = torch.randint(1, C, (B, A), generator=generator) * (torch.rand(B, A, generator=generator) < 0.1)
    classes[-1] = 0
    mask = (classes > 0).repeat_interleave(4, dim=1).float()
    return scores, offsets, classes, targets, mask


def literal_mined(scores, classes, ratio):
    """For each picture: all matched anchors, and the ``ratio`` worst background ones for each of them."""
    sums = []
    for score, target in zip(scores, classes, strict=True):
        losses = functional.cross_entropy(score, target, reduction="none")
        matched = [i for i in range(A) if target[i] > 0]
        background = sorted((losses[i].item() for i in range(A) if target[i] == 0), reverse=True)
        kept = background[: int(ratio * max(len(matched), 1))]
        sums.append(sum(losses[i].item() for i in matched) + sum(kept))
    return torch.tensor(sums)


def test_classic_is_two_means(batch):
    scores, offsets, classes, targets, mask = batch
    expected = functional.cross_entropy(scores.transpose(1, 2), classes, reduction="none").mean(1)
    expected = expected + ((offsets - targets) * mask).abs().mean(1)
    torch.testing.assert_close(detection_loss(*batch, LossConfig.classic()), expected)


@pytest.mark.parametrize("ratio", [1, 3, 1000])
def test_mined_keeps_the_worst_background(batch, ratio):
    scores, _, classes, _, _ = batch
    actual = class_loss(scores, classes, LossConfig(negative_ratio=ratio))
    torch.testing.assert_close(actual, literal_mined(scores, classes, ratio))


def test_mined_teaches_only_what_it_keeps(batch):
    scores, _, classes, _, _ = batch
    scores.requires_grad_()
    class_loss(scores, classes, LossConfig(negative_ratio=3)).sum().backward()
    taught = (scores.grad.abs().sum(-1) > 0).sum(1)
    matches = (classes > 0).sum(1)
    assert torch.equal(taught, matches + 3 * matches.clamp(min=1))


def test_default_divides_by_matches(batch):
    scores, offsets, classes, targets, mask = batch
    boxes = functional.smooth_l1_loss(offsets * mask, targets * mask, reduction="none").sum(1)
    expected = (literal_mined(scores, classes, 3) + boxes) / (classes > 0).sum(1).clamp(min=1)
    torch.testing.assert_close(detection_loss(*batch, LossConfig()), expected)


def test_focal(batch):
    scores, _, classes, _, _ = batch
    right = scores.softmax(-1).gather(-1, classes[..., None])[..., 0]
    weight = torch.where(classes > 0, 0.25, 0.75)
    expected = -(weight * (1 - right) ** 2 * right.log()).sum(1)
    torch.testing.assert_close(class_loss(scores, classes, LossConfig(classes="focal")), expected)


@pytest.mark.parametrize("kind", ["mined", "focal", "mean"])
def test_compiles_to_one_graph_and_keeps_float32(batch, kind):
    config = LossConfig(classes=kind)
    compiled = torch.compile(lambda *inputs: detection_loss(*inputs, config), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*batch), detection_loss(*batch, config))
    scores, offsets, *rest = batch
    assert detection_loss(scores.bfloat16(), offsets.bfloat16(), *rest, config).dtype == torch.float32


def test_hopeless_scores_stay_finite(batch):
    scores, *rest = batch
    scores = (1e4 * scores).requires_grad_()
    for kind in ("mined", "focal", "mean"):
        loss = detection_loss(scores, *rest, LossConfig(classes=kind)).sum()
        (gradient,) = torch.autograd.grad(loss, scores)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_empty_batch_gives_no_loss():
    empty = torch.zeros(0, 4 * A)
    loss = detection_loss(torch.zeros(0, A, C), empty, torch.zeros(0, A, dtype=torch.int64), empty, empty, LossConfig())
    assert loss.shape == (0,)


def test_unknown_loss_is_an_error():
    with pytest.raises(ConfigError, match="classes must be one of mined, focal, mean, varifocal, got 'hinge'"):
        LossConfig(classes="hinge")


@pytest.mark.parametrize("kind", ["mined", "focal", "mean"])
def test_ignored_anchors_take_no_part(batch, kind):
    scores, _, classes, _, _ = batch
    background = classes == 0
    ignored = background & (torch.arange(A) % 3 == 0)
    targets = torch.where(ignored, IGNORED, classes)
    config = LossConfig(classes=kind)
    leaf = scores.clone().requires_grad_()
    class_loss(leaf, targets, config).sum().backward()
    assert (leaf.grad[ignored] == 0).all()
    # As if those anchors were not there: their own loss set to 0 by certainty.
    certain = torch.where(ignored[..., None], torch.eye(C)[0] * 1e4, scores)
    torch.testing.assert_close(class_loss(certain, classes, config), class_loss(scores, targets, config))
