"""Whole steps inside torch.compile, for batches of many sizes, and the ops in TorchScript."""

from __future__ import annotations

import cases
import pytest
import torch
import torch._dynamo
from cases import assert_same
from torch.nn import functional

import tinyssd_ops as ops
from tinyssd_ops import reference

pytestmark = pytest.mark.skipif(
    ops.info()["backends"]["cpu"]["backend"] != "native", reason="graphs of all ops need the kernels"
)
ANCHORS = ops.multibox_prior(4, 4, sizes=[0.2, 0.4], ratios=[1, 2, 0.5])
SIZES = [(2, 3), (3, 5), (4, 17)]  # pictures, boxes


def training_step(logits, offsets, labels):
    target, mask, classes = ops.multibox_target(ANCHORS, labels)
    near = ops.assign_threshold(ANCHORS[0], labels[..., 1:], labels[..., 0] >= 0)
    boxes = ANCHORS[0] + offsets
    overlap = ops.iou_pairs(boxes, boxes.detach() + 0.1, "giou", aligned=True)
    class_loss = functional.cross_entropy(logits.flatten(0, 1), classes.flatten())
    return (
        class_loss
        + (functional.smooth_l1_loss(offsets.flatten(1), target, reduction="none") * mask).sum()
        - overlap.where(near >= 0, 0).sum()
    )


def predict_step(logits, offsets):
    return ops.detect(logits.softmax(-1).transpose(1, 2), offsets.flatten(1), ANCHORS, max_detections=20)


def batch(num_images, num_boxes):
    g = cases.generator(num_boxes)
    num_anchors = ANCHORS.shape[1]
    logits = torch.randn(num_images, num_anchors, 12, generator=g).requires_grad_()
    offsets = torch.randn(num_images, num_anchors, 4, generator=g).requires_grad_()
    return logits, offsets, cases.labels(num_images, num_boxes)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()


def test_training_step():
    compiled = torch.compile(training_step, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in SIZES:
        inputs = batch(*size)
        with torch._dynamo.config.patch(error_on_recompile=True):
            loss = compiled(*inputs)
        expected = training_step(*inputs)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, inputs[:2]), torch.autograd.grad(expected, inputs[:2]))


def test_no_recompilation_between_numbers_of_boxes():
    """Nothing marked: the second size makes the graph general, and no other compiles again."""
    compiled = torch.compile(training_step, fullgraph=True, backend="aot_eager")
    for k, num_boxes in enumerate((3, 5, 4, 9, 17, 2)):
        with torch._dynamo.config.patch(error_on_recompile=k > 1):
            compiled(*batch(2, num_boxes))


def test_predict_step():
    compiled = torch.compile(predict_step, fullgraph=True, dynamic=True, backend="aot_eager")
    for num_images, num_boxes in SIZES:
        logits, offsets, _ = batch(num_images, num_boxes)
        with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
            assert_same(compiled(logits, offsets), predict_step(logits, offsets))


@pytest.mark.parametrize("classes", [False, True])
def test_unbacked_size(classes):
    def best(boxes, scores, ids):
        keep = ops.batched_nms(boxes, scores, ids, 0.5) if classes else ops.nms(boxes, scores, 0.5)
        return boxes[keep] * scores[keep][:, None], keep.numel()

    compiled = torch.compile(best, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (40, 41, 90):
        args = cases.clustered(n), cases.random_scores(n), cases.class_ids(n, 3)
        with torch._dynamo.config.patch(error_on_recompile=True):
            found = compiled(*args)
        assert found[1] == best(*args)[1]
        assert_same(found[0], best(*args)[0])


def scripted_ops(anchors: torch.Tensor, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor):
    keep = torch.ops.tinyssd_ops.nms(boxes, scores, 0.5)
    by_class = torch.ops.tinyssd_ops.batched_nms(boxes, scores, keep.new_zeros(scores.shape), 0.5)
    padded, counts = torch.ops.tinyssd_ops.nms_padded(boxes[None], scores[None], 0.5)
    iou = torch.ops.tinyssd_ops.box_iou(boxes, anchors)
    target, mask, classes = torch.ops.tinyssd_ops.multibox_target(anchors, labels)
    assigned = torch.ops.tinyssd_ops.assign_anchors(anchors, labels[..., 1:])
    return keep, by_class, padded, counts, iou, target, mask, classes, assigned


def test_scripted():
    args = cases.random_boxes(20, 1), cases.clustered(50), cases.random_scores(50), cases.labels(2, 4)
    assert_same(torch.jit.script(scripted_ops)(*args), scripted_ops(*args))


def formats(boxes: torch.Tensor) -> torch.Tensor:
    return ops.clip_boxes(ops.center_to_corner(ops.corner_to_center(boxes)), 0.5, 0.7)


def test_scripted_formats():
    boxes = cases.random_boxes(20)
    assert_same(torch.jit.script(formats)(boxes), formats(boxes))


@pytest.mark.parametrize("op", sorted(cases.sample_calls()))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_opcheck_of_every_dtype(op, dtype):
    """float32 is what tests/test_contract.py checks."""
    args, kwargs = cases.sample_calls()[op][0]
    args = [a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    results = torch.library.opcheck(getattr(torch.ops.tinyssd_ops, op).default, tuple(args), kwargs)
    assert set(results.values()) == {"SUCCESS"}
    assert hasattr(reference, op)
