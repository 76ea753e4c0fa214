"""assign_task_aligned."""

from __future__ import annotations

import cases
import oracle_assigners as oracle
import pytest
import torch
from cases import NAN, assert_same
from cases_assigners import detection_head, head_cases
from hypothesis import given
from hypothesis import strategies as st

from tinyssd_ops import reference

# The most points of a box, and the powers of score and IoU.
RULES = [(13, 1.0, 6.0), (3, 0.5, 2.5), (1, 0.0, 1.0), (64, 2.0, 0.0)]


@pytest.mark.parametrize("head", head_cases())
def test_parity(other, simd_path, head):
    for rule in RULES:
        assert_same(other.assign_task_aligned(*head, *rule), reference.assign_task_aligned(*head, *rule), rule)
        expected = reference.assign_task_aligned(*head[:5], None, None, *rule)
        assert_same(other.assign_task_aligned(*head[:5], None, None, *rule), expected, rule)


@pytest.mark.parametrize("head", head_cases())
def test_oracle(ops, head):
    for rule in RULES[:3]:
        results = ops.assign_task_aligned(*head, *rule)
        for i in range(len(head[0])):
            one = [t if k == 2 else t[i] for k, t in enumerate(head)]
            assert_same([part[i] for part in results], oracle.assign_task_aligned(*one, *rule), rule)


def test_by_hand(ops):
    # Two boxes side by side; three points in the first, one of them in the second too, one on an edge.
    gts = torch.tensor([[[0.0, 0, 4, 4], [2, 0, 6, 4]]])
    points = torch.tensor([[1.0, 1], [3, 1], [0.5, 3], [4, 4]])
    boxes = torch.tensor([[[0.0, 0, 4, 2], [2, 0, 6, 4], [0, 0, 4, 4], [0, 0, 4, 4]]])
    scores = torch.tensor([[[0.8, 0], [0.5, 0.5], [0.2, 0], [1, 1]]])
    labels = torch.tensor([[0, 1]])
    # Alignments of power 1 with box 0: 0.8 * 1/2, 0.5 * 1/3, 0.2 * 1; with box 1: only point 1, 0.5 * 1.
    assigned, targets = ops.assign_task_aligned(scores, boxes, points, labels, gts, None, None, 3, 1.0, 1.0)
    assert assigned.tolist() == [[0, 1, 0, -1]]
    # The best alignment, 0.4, becomes the box's largest IoU, 1.
    torch.testing.assert_close(targets, torch.tensor([[1.0, 1.0, 0.5, 0]]))
    assigned, targets = ops.assign_task_aligned(scores, boxes, points, labels, gts, None, None, 1, 1.0, 1.0)
    assert assigned.tolist() == [[0, 1, -1, -1]]
    torch.testing.assert_close(targets, torch.tensor([[0.5, 1.0, 0, 0]]))
    # A box of a class that does not exist is chosen by none; an ignored one marks the point that predicts it.
    assigned, _ = ops.assign_task_aligned(scores, boxes, points, labels + 1, gts, None, None, 3, 1.0, 1.0)
    assert assigned.tolist() == [[-1, 0, -1, -1]]
    ignored = torch.tensor([[False, True]])
    assigned, targets = ops.assign_task_aligned(scores, boxes, points, labels, gts, None, ignored, 3, 1.0, 1.0)
    assert assigned.tolist() == [[0, -2, 0, -1]]
    assert targets[0, 1] == 0
    assigned, _ = ops.assign_task_aligned(scores, boxes, points, labels, gts, ~ignored, ignored, 3, 1.0, 1.0)
    assert assigned.tolist() == [[0, 0, 0, -1]]


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    head = detection_head(150, 16)
    narrow = [t.to(dtype) if t.is_floating_point() else t for t in head]
    wide = [t.to(torch.promote_types(dtype, torch.float32)) if t.is_floating_point() else t for t in narrow]
    expected = reference.assign_task_aligned(*wide)
    assert expected[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same(ops.assign_task_aligned(*narrow), expected)
    assert_same(ops.assign_task_aligned(narrow[0], *wide[1:]), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_label_dtypes(ops, dtype):
    head = list(detection_head(150, 16))
    head[3] = head[3].clamp(min=0)
    expected = ops.assign_task_aligned(*head)
    head[3] = head[3].to(dtype)
    assert_same(ops.assign_task_aligned(*head), expected)


def test_layouts(ops):
    head = detection_head(80, 12)
    turned = [t.mT.contiguous().mT for t in head]
    assert_same(ops.assign_task_aligned(*turned), ops.assign_task_aligned(*head))


@pytest.mark.parametrize(("images", "gts", "anchors"), [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0), (2, 0, 0)])
def test_empty(ops, images, gts, anchors):
    head = torch.zeros(images, anchors, 3), torch.zeros(images, anchors, 4), torch.zeros(anchors, 2)
    truth = torch.zeros(images, gts, dtype=torch.int64), torch.zeros(images, gts, 4)
    expected = torch.full((images, anchors), -1), torch.zeros(images, anchors)
    assert_same(ops.assign_task_aligned(*head, *truth), expected)


@given(st.integers(1, 140), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from(RULES))
def test_invariants(ops, num_anchors, num_gts, seed, rule):
    head = scores, boxes, points, labels, gts, valid, ignored = detection_head(num_anchors, 2 * num_gts, seed=seed)
    assigned, targets = ops.assign_task_aligned(*head, *rule)
    counted = valid & ~ignored
    for image, anchor in (assigned >= 0).nonzero().tolist():
        box = assigned[image, anchor]
        corners = gts[image, box]
        assert counted[image, box]
        assert 0 <= labels[image, box] < scores.shape[2]
        assert (points[anchor] > corners[:2]).all()
        assert (points[anchor] < corners[2:]).all()
    # At most k points a box; targets are IoUs at the most, and nothing where there is no box.
    per_box = (assigned[..., None] == torch.arange(num_gts)).sum(dim=1)
    assert (per_box <= rule[0]).all()
    assert (
        (targets >= 0) & (targets <= reference.box_iou(boxes, gts).amax(dim=2).amax(dim=1)[:, None] * (1 + 1e-6))
    ).all()
    assert not targets[assigned < 0].any()
    # Padding rows and scaling by a power of two change nothing.
    none = torch.zeros_like(valid)
    twice = (
        [torch.cat((t, t), dim=1) for t in (labels, gts)],
        torch.cat((valid, none), 1),
        torch.cat((ignored, none), 1),
    )
    padded = ops.assign_task_aligned(scores, boxes, points, *twice[0], *twice[1:], *rule)
    assert_same(padded, (assigned, targets))
    scaled = ops.assign_task_aligned(scores, boxes * 8, points * 8, labels, gts * 8, valid, ignored, *rule)
    assert_same(scaled, (assigned, targets))


HEAD = detection_head(5, 6)


def changed(**changes):
    """The good arguments of this file with some replaced, by name."""
    names = ("scores", "boxes", "points", "gt_labels", "gt_boxes", "gt_valid", "gt_ignored")
    return {**dict(zip(names, HEAD, strict=True)), **changes}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (changed(scores=HEAD[0][0]), r"scores: expected shape \[B, A, C\], got \[5, 4\]"),
        (changed(scores=HEAD[0][..., :0]), "scores: expected at least 1 class, got 0"),
        (changed(boxes=HEAD[1][:, :4]), r"boxes: expected shape \[2, 5, 4\], got \[2, 4, 4\]"),
        (changed(points=HEAD[2][:, :1]), r"points: expected shape \[5, 2\], got \[5, 1\]"),
        (changed(gt_boxes=HEAD[4][0]), r"gt_boxes: expected shape \[2, G, 4\], got \[3, 4\]"),
        (changed(gt_labels=HEAD[3][:, :2]), r"gt_labels: expected shape \[2, 3\], got \[2, 2\]"),
        (changed(gt_labels=HEAD[3].float()), "gt_labels: expected an integer dtype, got torch.float32"),
        (changed(gt_labels=HEAD[3].to("meta")), r"gt_labels: expected device \S+, got meta"),
        (changed(points=HEAD[2].long()), "points: expected a floating-point dtype, got torch.int64"),
        (changed(boxes=HEAD[1].to("meta")), r"boxes: expected device \S+, got meta"),
        (changed(gt_valid=HEAD[5][0]), r"gt_valid: expected shape \[2, 3\], got \[3\]"),
        (changed(gt_ignored=HEAD[5].int()), "gt_ignored: expected dtype torch.bool, got torch.int32"),
        (changed(topk=0), "topk: expected a number from 1 to 64, got 0"),
        (changed(topk=65), "topk: expected a number from 1 to 64, got 65"),
        (changed(alpha=0.7), "alpha: expected a multiple of 0.5 from 0 to 10, got 0.7"),
        (changed(beta=11.0), "beta: expected a multiple of 0.5 from 0 to 10, got 11"),
        (changed(beta=NAN), "beta: expected a multiple of 0.5 from 0 to 10, got nan"),
    ],
)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.assign_task_aligned(**args)
