"""assignment_target."""

from __future__ import annotations

import re
from pathlib import Path

import cases
import pytest
import torch
from cases import NAN, assert_same
from hypothesis import given
from hypothesis import strategies as st

import tinyssd_ops
from tinyssd_ops import reference


def drawn(num_images: int, num_anchors: int, num_gt: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """An assignment with indices, -1, -2 and numbers that are no index; labels, boxes and anchors."""
    g = cases.generator(seed)
    assigned = torch.randint(-3, num_gt + 2, (num_images, num_anchors), generator=g)
    labels = torch.randint(0, 80, (num_images, num_gt), generator=g)
    return (
        assigned,
        labels,
        cases.random_boxes(num_images * num_gt, seed).view(num_images, num_gt, 4),
        (cases.random_boxes(num_anchors, seed + 1)),
    )


@pytest.mark.parametrize("kind", cases.BOXES)
def test_parity(other, kind):
    assigned, labels, *_ = drawn(2, 130, 9)
    gts, anchors = cases.BOXES[kind](18, 1).view(2, 9, 4), cases.BOXES[kind](130, 2)
    for a in (None, anchors):
        assert_same(
            other.assignment_target(assigned, labels, gts, a), reference.assignment_target(assigned, labels, gts, a)
        )


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 129, 5), (2, 64, 40), (2, 7, 0), (0, 5, 3), (2, 0, 3), (0, 0, 0)])
def test_anchor_by_anchor(ops, shape):
    assigned, labels, gts, anchors = drawn(*shape)
    for given_anchors in (None, anchors):
        targets, mask, classes = ops.assignment_target(assigned, labels, gts, given_anchors)
        assert targets.shape == mask.shape == (shape[0], 4 * shape[1])
        assert (targets.dtype, mask.dtype, classes.dtype) == (torch.float32, torch.float32, torch.int64)
        for i, a in torch.cartesian_prod(torch.arange(shape[0]), torch.arange(shape[1])).tolist():
            g, there = int(assigned[i, a]), slice(4 * a, 4 * a + 4)
            matched = 0 <= g < shape[2]
            expected = torch.zeros(4)
            if matched:
                expected = gts[i, g] if given_anchors is None else tinyssd_ops.encode_boxes(given_anchors[a], gts[i, g])
            assert_same(targets[i, there], expected)
            assert mask[i, there].tolist() == [float(matched)] * 4
            assert classes[i, a] == (labels[i, g] + 1 if matched else -1 if g == -2 else 0)


def test_by_hand(ops):
    gts, labels = torch.tensor([[[0.0, 0, 2, 4], [1, 1, 3, 3]]]), torch.tensor([[7, 0]])
    assigned, anchors = torch.tensor([[1, -1, 0, -2, 2]]), torch.tensor([[1.0, 1, 3, 3]]).repeat(5, 1)
    targets, mask, classes = ops.assignment_target(assigned, labels, gts)
    assert classes.tolist() == [[1, 0, 8, -1, 0]]
    assert targets.view(5, 4).tolist() == [[1, 1, 3, 3], [0] * 4, [0, 0, 2, 4], [0] * 4, [0] * 4]
    assert mask.view(5, 4)[:, 0].tolist() == [1, 0, 1, 0, 0]
    targets, _, _ = ops.assignment_target(assigned, labels, gts, anchors)
    # The centre is half a width to the left; the box is as wide, and twice as high.
    expected = torch.tensor([-5.0, 0, 0, 5 * torch.log(torch.tensor(2.0))])
    torch.testing.assert_close(targets[0, 8:12], expected, atol=1e-5, rtol=1e-5)


@given(st.integers(1, 140), st.integers(0, 12), st.integers(0, 10**6))
def test_it_is_the_other_half_of_multibox_target(ops, num_anchors, num_gts, seed):
    labels, anchors = cases.labels(2, num_gts, seed), cases.random_boxes(num_anchors, seed + 1)
    gts, valid, ids = labels[..., 1:].contiguous(), labels[..., 0] >= 0, labels[..., 0].long()
    assigned = ops.assign_anchors(anchors, gts, valid, 0.3)
    assert_same(ops.assignment_target(assigned, ids, gts, anchors), ops.multibox_target(anchors, labels, 0.3))


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    assigned, labels, gts, anchors = drawn(2, 150, 9)
    wide = torch.promote_types(dtype, torch.float32)
    gts, anchors = gts.to(dtype), anchors.to(dtype)
    expected = reference.assignment_target(assigned, labels, gts.to(wide), anchors.to(wide))
    assert expected[0].dtype == wide
    tolerance = 1e-14 if dtype == torch.float64 else 0  # the last bit of the logarithm
    for result in (
        ops.assignment_target(assigned, labels.int(), gts, anchors),
        ops.assignment_target(assigned, labels.byte(), gts, anchors.to(wide)),
    ):
        torch.testing.assert_close(list(result), list(expected), rtol=tolerance, atol=tolerance)


def test_layouts(ops):
    args = drawn(2, 80, 12)
    turned = [t.mT.contiguous().mT for t in args]
    assert_same(ops.assignment_target(*turned), ops.assignment_target(*args))


def test_what_is_not_assigned_does_not_matter(ops):
    assigned, labels, gts, anchors = drawn(2, 80, 12)
    assigned = torch.where(assigned == 3, -1, assigned)
    expected = ops.assignment_target(assigned, labels, gts, anchors)
    labels[:, 3], gts[:, 3] = -1, NAN
    assert_same(ops.assignment_target(assigned, labels, gts, anchors), expected)


PAGE = Path(__file__).resolve().parents[1] / "docs" / "assignment.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="an installed package is tested, not a source tree")
def test_the_page_shows_what_works():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    torch.manual_seed(0)
    found: dict[str, torch.Tensor] = {}
    exec(code, found)
    assert (found["classes"] == 3).sum() == found["mask"].sum() / 4
    assert found["quality"].any()
    assert torch.equal(found["score_targets"], found["quality"][..., None] * torch.tensor([0, 0, 1]))


GOOD = drawn(2, 5, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((GOOD[0][0], *GOOD[1:]), r"assigned: expected shape \[B, A\], got \[5\]"),
        ((GOOD[0].int(), *GOOD[1:]), "assigned: expected dtype torch.int64, got torch.int32"),
        ((GOOD[0], GOOD[1], GOOD[2][0]), r"gt_boxes: expected shape \[2, G, 4\], got \[3, 4\]"),
        ((GOOD[0], GOOD[1][:1], GOOD[2]), r"gt_labels: expected shape \[2, 3\], got \[1, 3\]"),
        ((GOOD[0], GOOD[1].float(), GOOD[2]), "gt_labels: expected an integer dtype, got torch.float32"),
        ((*GOOD[:2], GOOD[2].long()), "gt_boxes: expected a floating-point dtype, got torch.int64"),
        ((*GOOD[:3], GOOD[3][:4]), r"anchors: expected shape \[5, 4\], got \[4, 4\]"),
        ((*GOOD[:3], GOOD[3].long()), "anchors: expected a floating-point dtype, got torch.int64"),
        ((*GOOD[:3], GOOD[3].to("meta")), r"anchors: expected device \S+, got meta"),
        ((GOOD[0], GOOD[1].to("meta"), GOOD[2]), r"gt_labels: expected device \S+, got meta"),
        ((GOOD[0].to("meta"), *GOOD[1:3]), r"assigned: expected device \S+, got meta"),
    ],
)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.assignment_target(*args)
