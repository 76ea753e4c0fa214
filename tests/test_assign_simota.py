"""assign_simota."""

from __future__ import annotations

import math

import cases
import oracle_assigners as oracle
import pytest
import torch
from cases import NAN, assert_same
from cases_assigners import detection_head, head_cases, strides_of
from hypothesis import given
from hypothesis import strategies as st

from tinyssd_ops import _reference_simota, reference

# The radius of the centre in strides, and the most points of a box.
RULES = [(2.5, 10), (0.5, 3), (0.0, 64), (20.0, 1)]


def with_strides(head):
    """The arguments of a head, with the strides in their place."""
    return (*head[:3], strides_of(len(head[2])), *head[3:])


@pytest.mark.parametrize("head", head_cases())
def test_parity(other, simd_path, head):
    head = with_strides(head)
    for rule in RULES:
        assert_same(other.assign_simota(*head, *rule), reference.assign_simota(*head, *rule), rule)
        expected = reference.assign_simota(*head[:6], None, None, *rule)
        assert_same(other.assign_simota(*head[:6], None, None, *rule), expected, rule)


@pytest.mark.parametrize("kind", ["random_boxes", "clustered", "mixed_sizes", "nested"])
@pytest.mark.parametrize("num_anchors", [1, 64, 130])
def test_oracle(ops, kind, num_anchors):
    """On drawn scores, where no two costs are so close that their rounding could decide."""
    for seed in range(3):
        head = with_strides(detection_head(num_anchors, 14, kind, seed))
        for rule in RULES:
            results = ops.assign_simota(*head, *rule)
            for i in range(2):
                one = [t if k in (2, 3) else t[i] for k, t in enumerate(head)]
                assert_same([part[i] for part in results], oracle.assign_simota(*one, *rule), (seed, rule))


def test_logarithm():
    for dtype, tolerance in ((torch.float32, 2e-7), (torch.float64, 5e-16)):
        x = torch.rand(10000, generator=cases.generator(1), dtype=torch.float64).to(dtype)
        x = torch.cat((x, x * 1e-20, 1 - x * 1e-5, 1 + x))
        expected = x.double().log().to(dtype)
        torch.testing.assert_close(_reference_simota._log(x), expected, rtol=tolerance, atol=tolerance)
    odd = torch.tensor([0.0, -0.0, -1.0, 1e-40, 1.0])
    assert _reference_simota._log(odd).tolist() == [-100, -100, -100, -100, 0]
    assert _reference_simota._log(torch.tensor([NAN])).isnan().all()


def test_by_hand(ops):
    # One class, one box of 8 by 8, strides of 2 and a radius of 1: points 0 and 1 lie near the centre, 2 in the box.
    points = torch.tensor([[4.0, 4], [5, 5], [7, 7], [20, 20]])
    boxes = torch.tensor([[[0.0, 0, 8, 4], [0, 0, 8, 8], [0, 0, 8, 8], [0, 0, 8, 8]]])
    scores = torch.tensor([[[0.9], [0.5], [0.9], [0.9]]])
    gts, labels, strides = torch.tensor([[[0.0, 0, 8, 8]]]), torch.tensor([[0]]), torch.full((4,), 2.0)
    # IoUs of the candidates: 0.5, 1, 1, which add up to 2 points. The farther point would cost least.
    assigned, ious = ops.assign_simota(scores, boxes, points, strides, labels, gts, None, None, 1.0)
    assert assigned.tolist() == [[0, 0, -1, -1]]
    assert ious.tolist() == [[0.5, 1, 0, 0]]
    # Of one point: -log 0.5 = 0.69 beats -log 0.9 - 3 log 0.5 = 2.18.
    assigned, _ = ops.assign_simota(scores, boxes, points, strides, labels, gts, None, None, 1.0, 1)
    assert assigned.tolist() == [[-1, 0, -1, -1]]
    # Where too few points are near the centre, the others of the box follow.
    assigned, _ = ops.assign_simota(scores, boxes, points, strides, labels, gts, None, None, 0.1)
    assert assigned.tolist() == [[0, -1, 0, -1]]
    # Two equal boxes: the lower one has both; an ignored one marks what predicts it.
    twice, both = gts.repeat(1, 2, 1), labels.repeat(1, 2)
    assigned, _ = ops.assign_simota(scores, boxes, points, strides, both, twice, None, None, 1.0)
    assert assigned.tolist() == [[0, 0, -1, -1]]
    ignored = torch.tensor([[True, False]])
    assigned, ious = ops.assign_simota(scores, boxes, points, strides, both, twice, None, ignored, 1.0)
    assert assigned.tolist() == [[-2, -2, -2, -2]]
    assert not ious.any()
    assert math.isclose(float(_reference_simota._log(torch.tensor(0.5))), -math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    head = with_strides(detection_head(150, 16))
    narrow = [t.to(dtype) if t.is_floating_point() else t for t in head]
    wide = [t.to(torch.promote_types(dtype, torch.float32)) if t.is_floating_point() else t for t in narrow]
    expected = reference.assign_simota(*wide)
    assert expected[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same(ops.assign_simota(*narrow), expected)
    assert_same(ops.assign_simota(*narrow[:3], wide[3], *narrow[4:]), expected)


def test_layouts(ops):
    head = with_strides(detection_head(80, 12))
    turned = [t.mT.contiguous().mT if t.dim() > 1 else t.repeat_interleave(2)[::2] for t in head]
    assert_same(ops.assign_simota(*turned), ops.assign_simota(*head))


@pytest.mark.parametrize(("images", "gts", "anchors"), [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0), (2, 0, 0)])
def test_empty(ops, images, gts, anchors):
    head = torch.zeros(images, anchors, 3), torch.zeros(images, anchors, 4), torch.zeros(anchors, 2)
    truth = torch.zeros(images, gts, dtype=torch.int64), torch.zeros(images, gts, 4)
    expected = torch.full((images, anchors), -1), torch.zeros(images, anchors)
    assert_same(ops.assign_simota(*head, torch.zeros(anchors), *truth), expected)


@given(st.integers(1, 140), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from(RULES))
def test_invariants(ops, num_anchors, num_gts, seed, rule):
    head = scores, boxes, points, strides, labels, gts, valid, ignored = with_strides(
        detection_head(num_anchors, 2 * num_gts, seed=seed)
    )
    assigned, ious = ops.assign_simota(*head, *rule)
    learned = valid & ~ignored & (labels >= 0) & (labels < scores.shape[2])
    for image, anchor in (assigned >= 0).nonzero().tolist():
        box = assigned[image, anchor]
        assert learned[image, box]
        assert_same(ious[image, anchor], reference.box_iou(boxes[image, anchor][None], gts[image, box][None])[0, 0])
    assert not ious[assigned < 0].any()
    assert ((assigned[..., None] == torch.arange(num_gts)).sum(dim=1) <= rule[1]).all()
    # Padding rows and scaling by a power of two change nothing.
    none = torch.zeros_like(valid)
    twice = [torch.cat((t, t), dim=1) for t in (labels, gts)]
    flags = [torch.cat((t, none), dim=1) for t in (valid, ignored)]
    assert_same(ops.assign_simota(scores, boxes, points, strides, *twice, *flags, *rule), (assigned, ious))
    scaled = ops.assign_simota(scores, boxes * 8, points * 8, strides * 8, labels, gts * 8, valid, ignored, *rule)
    assert_same(scaled, (assigned, ious))


HEAD = with_strides(detection_head(5, 6))


def changed(**changes):
    """The good arguments of this file with some replaced, by name."""
    names = ("scores", "boxes", "points", "strides", "gt_labels", "gt_boxes", "gt_valid", "gt_ignored")
    return {**dict(zip(names, HEAD, strict=True)), **changes}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (changed(scores=HEAD[0][0]), r"scores: expected shape \[B, A, C\], got \[5, 4\]"),
        (changed(boxes=HEAD[1][:, :4]), r"boxes: expected shape \[2, 5, 4\], got \[2, 4, 4\]"),
        (changed(strides=HEAD[3][:4]), r"strides: expected shape \[5\], got \[4\]"),
        (changed(strides=HEAD[3].long()), "strides: expected a floating-point dtype, got torch.int64"),
        (changed(strides=HEAD[3].to("meta")), r"strides: expected device \S+, got meta"),
        (changed(gt_labels=HEAD[4].float()), "gt_labels: expected an integer dtype, got torch.float32"),
        (changed(gt_valid=HEAD[6][0]), r"gt_valid: expected shape \[2, 3\], got \[3\]"),
        (changed(radius=-1.0), "radius: expected a number from 0 to 1e6, got -1"),
        (changed(radius=NAN), "radius: expected a number from 0 to 1e6, got nan"),
        (changed(topk=65), "topk: expected a number from 1 to 64, got 65"),
    ],
)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.assign_simota(**args)
