"""multibox_target."""

from __future__ import annotations

import math

import cases
import oracle
import pytest
import torch
from cases import INF, NAN, assert_same
from hypothesis import given
from hypothesis import strategies as st

import tinyssd_ops
from tinyssd_ops import reference


@pytest.mark.parametrize(("anchors", "gts"), cases.assign_cases())
def test_parity(other, simd_path, anchors, gts):
    classes = cases.class_ids(len(gts), 4) - 1
    labels = torch.cat((classes[:, None].float(), gts), dim=1).repeat(3, 1, 1)
    labels[1] = labels[1].flip(0)
    labels[2, :, 0] = -1
    for threshold in (0.0, 0.3, 0.5):
        expected = reference.multibox_target(anchors, labels, threshold)
        assert_same(other.multibox_target(anchors, labels, threshold), expected, threshold)


@pytest.mark.parametrize(
    ("images", "gts", "anchors"), [(1, 3, 20), (3, 8, 70), (2, 5, 3), (0, 3, 5), (2, 0, 5), (2, 3, 0)]
)
def test_oracle(ops, images, gts, anchors):
    labels, priors = cases.labels(images, gts), cases.random_boxes(anchors, 1)
    offsets, mask, classes = ops.multibox_target(priors[None], labels, 0.3)
    assert (offsets.shape, mask.shape, classes.shape) == (
        (images, 4 * anchors),
        (images, 4 * anchors),
        (images, anchors),
    )
    assert (offsets.dtype, mask.dtype, classes.dtype) == (torch.float32, torch.float32, torch.int64)
    for i in range(images):
        assigned = oracle.assign(priors, labels[i, :, 1:], labels[i, :, 0] >= 0, 0.3)
        for a, g in enumerate(assigned.tolist()):
            there = slice(4 * a, 4 * a + 4)
            assert mask[i, there].tolist() == [float(g >= 0)] * 4
            assert classes[i, a] == (0 if g < 0 else int(labels[i, g, 0]) + 1)
            expected = torch.zeros(4) if g < 0 else tinyssd_ops.encode_boxes(priors[a], labels[i, g, 1:])
            assert_same(offsets[i, there], expected)


def test_by_hand(ops):
    anchors = torch.tensor([[[0.0, 0, 2, 2], [4, 4, 6, 6], [0, 0, 2, 1]]])
    labels = torch.tensor([[[3.0, 0, 0, 2, 2], [-1, 4, 4, 6, 6]], [[0, 5, 4, 7, 8], [-1, NAN, NAN, NAN, NAN]]])
    offsets, mask, classes = ops.multibox_target(anchors, labels)
    assert classes.tolist() == [[4, 0, 4], [0, 1, 0]]
    assert mask.view(2, 3, 4)[..., 0].tolist() == [[1, 0, 1], [0, 1, 0]]
    # Second image: the centre is one half of the width and of the height away, and the box twice as high.
    expected = torch.tensor([5.0, 5.0, 5 * math.log(1e-6 + 1), 5 * math.log(1e-6 + 2)])
    torch.testing.assert_close(offsets[1, 4:8], expected, atol=1e-6, rtol=1e-6)
    assert not offsets[1, :4].any()
    assert not offsets[0, 4:8].any()


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    anchors, labels = cases.clustered(150, 1).to(dtype), cases.labels(2, 5).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = reference.multibox_target(anchors.to(wide), labels.to(wide))
    # The logarithm of float64 is not rounded once more: it may differ in the last place.
    offsets, mask, classes = ops.multibox_target(anchors, labels)
    torch.testing.assert_close(
        offsets,
        expected[0],
        rtol=1e-14 if dtype == torch.float64 else 0,
        atol=1e-14 if dtype == torch.float64 else 0,
        equal_nan=True,
    )
    assert_same((mask, classes), expected[1:])


def test_layouts(ops):
    anchors, labels = cases.clustered(80, 1), cases.labels(2, 6)
    expected = ops.multibox_target(anchors[None], labels)
    assert_same(ops.multibox_target(anchors, labels), expected)
    assert_same(ops.multibox_target(anchors.T.contiguous().T[None], labels.mT.contiguous().mT), expected)
    assert_same(ops.multibox_target(anchors, labels.transpose(0, 1).contiguous().transpose(0, 1)), expected)


@pytest.mark.parametrize("path", cases.golden("target_*.npz"))
def test_golden(ops, path):
    case = cases.load_golden(path)
    offsets, mask, classes = ops.multibox_target(case["anchors"], case["labels"])
    torch.testing.assert_close(offsets, case["offsets"], rtol=1e-5, atol=1e-6)
    assert_same((mask, classes), (case["mask"].float(), case["classes"].long()))


@given(st.integers(1, 100), st.integers(1, 8), st.integers(0, 10**6))
def test_invariants(ops, num_anchors, num_gts, seed):
    """What is learned decodes to the box that was assigned."""
    anchors, labels = (
        cases.random_boxes(num_anchors, seed) + torch.tensor([0, 0, 0.05, 0.05]),
        cases.labels(2, num_gts, seed),
    )
    offsets, mask, classes = ops.multibox_target(anchors, labels)
    assigned = ops.assign_anchors(anchors, labels[..., 1:], labels[..., 0] >= 0)
    assert_same(mask.view(2, -1, 4), (assigned >= 0)[..., None].expand(-1, -1, 4).float())
    assert_same(classes > 0, assigned >= 0)
    boxes = tinyssd_ops.decode_boxes(anchors, offsets.view(2, -1, 4))
    for image, anchor in (assigned >= 0).nonzero().tolist():
        gt = labels[image, assigned[image, anchor]]
        torch.testing.assert_close(boxes[image, anchor], gt[1:], atol=1e-4, rtol=1e-4)
        assert classes[image, anchor] == gt[0] + 1


ANCHORS, LABELS = cases.random_boxes(5)[None], cases.labels(2, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((ANCHORS[..., :3], LABELS), r"anchors: expected shape \[1, A, 4\], got \[1, 5, 3\]"),
        ((ANCHORS.expand(2, 5, 4), LABELS), r"anchors: expected shape \[1, A, 4\], got \[2, 5, 4\]"),
        ((ANCHORS[0, 0], LABELS), r"anchors: expected shape \[1, A, 4\], got \[4\]"),
        ((ANCHORS[0, :, :2], LABELS), r"anchors: expected shape \[A, 4\], got \[5, 2\]"),
        ((ANCHORS, LABELS[..., 1:]), r"labels: expected shape \[B, G, 5\], got \[2, 3, 4\]"),
        ((ANCHORS, LABELS[0]), r"labels: expected shape \[B, G, 5\], got \[3, 5\]"),
        ((ANCHORS.int(), LABELS), "anchors: expected a floating-point dtype, got torch.int32"),
        ((ANCHORS, torch.ones(2, 3, 5).long()), "labels: expected a floating-point dtype, got torch.int64"),
        ((ANCHORS, LABELS.to("meta")), r"labels: expected device \S+, got meta"),
        ((ANCHORS, LABELS, 1.01), "iou_threshold: expected a number between 0 and 1, got 1.01"),
        ((ANCHORS, LABELS, NAN), "iou_threshold: expected a number between 0 and 1, got nan"),
        ((ANCHORS, LABELS, -INF), "iou_threshold: expected a number between 0 and 1, got -inf"),
    ],
)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.multibox_target(*args)
