"""assign_anchors."""

from __future__ import annotations

from typing import Any

import cases
import oracle
import pytest
import torch
from cases import INF, NAN, assert_same
from hypothesis import given
from hypothesis import strategies as st

from tinyssd_ops import multibox_prior, reference

THRESHOLDS = [0.0, 0.1, 0.5, 0.7, 1.0]


@pytest.mark.parametrize(("anchors", "gts"), cases.assign_cases())
def test_parity(other, simd_path, anchors, gts):
    for threshold in THRESHOLDS:
        for valid in (None, torch.rand(len(gts), generator=cases.generator(7)) < 0.7):
            expected = reference.assign_anchors(anchors, gts, valid, threshold)
            assert_same(other.assign_anchors(anchors, gts, valid, threshold), expected, threshold)


def _many() -> list[Any]:
    """Inputs around the CUDA kernels' tiles of 128 anchors, blocks of 1,024 and chunks of 256 boxes."""
    anchors, far = cases.random_boxes(1_100, 1, side=0.1), cases.random_boxes(90, 2) + 100
    few = far.clone()
    few[::7] = cases.random_boxes(13, 3)
    # Most boxes have an IoU of 0 with all anchors, and those that do not hold anchors among the first.
    held = torch.cat((far[:40], anchors[:30], far[40:]))
    # Boxes that reach an anchor well or not at all, some of them the same, so that all but one must look elsewhere.
    cells = multibox_prior(24, 24, (0.1, 0.2, 0.4), (1.0, 2.0, 0.5))[0]
    one = torch.tensor([[0.31, 0.42, 0.52, 0.61]])
    objects = torch.cat((cases.random_boxes(20, 5, side=0.5), one.repeat(12, 1), cases.slivers(8), cases.broken(9)))
    found = {
        "cells": (cells, objects),
        "chunks": (anchors, cases.random_boxes(270, 4, side=0.2)),
        "one_box_over_and_over": (anchors, anchors[17:18].repeat(60, 1)),
        "all_miss": (anchors[:70], far),
        "most_miss": (anchors[:260], few),
        "most_miss_and_some_hold": (anchors[:130], held),
        "more_than_anchors": (anchors[:50], held),
    }
    return [pytest.param(*case, id=name) for name, case in found.items()]


@pytest.mark.parametrize(("anchors", "gts"), _many())
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_parity_of_many(other, anchors, gts, threshold):
    valid = torch.rand(len(gts), generator=cases.generator(7)) < 0.8
    for mask in (None, valid):
        expected = reference.assign_anchors(anchors, gts, mask, threshold)
        assert_same(other.assign_anchors(anchors, gts, mask, threshold), expected)


@pytest.mark.parametrize(("anchors", "gts"), cases.assign_cases())
def test_oracle(ops, anchors, gts):
    anchors, gts = anchors[:66], gts[:12]
    valid = torch.rand(len(gts), generator=cases.generator(8)) < 0.7
    for threshold in (0.0, 0.4):
        assert_same(ops.assign_anchors(anchors, gts, None, threshold), oracle.assign(anchors, gts, None, threshold))
    assert_same(ops.assign_anchors(anchors, gts, valid, 0.4), oracle.assign(anchors, gts, valid, 0.4))


def test_greedy_overrides_by_hand(ops):
    # IoUs: anchor 0 with the boxes 0.9 and 0.8, anchor 1 with both 0. Step 1 gives anchor 0 box 0; the rounds give
    # box 0 anchor 0, and box 1, whose own best anchor is gone, anchor 1 at IoU 0.
    anchors = torch.tensor([[0.0, 0, 10, 1], [20, 0, 30, 1]])
    gts = torch.tensor([[0.0, 0, 9, 1], [0, 0, 8, 1]])
    assert ops.assign_anchors(anchors, gts).tolist() == [0, 1]
    # Three anchors on one box: the threshold takes two, the round confirms the best.
    anchors = torch.tensor([[0.0, 0, 6, 1], [0, 0, 10, 1], [0, 0, 4, 1]])
    assert ops.assign_anchors(anchors, torch.tensor([[0.0, 0, 10, 1]])).tolist() == [0, 0, -1]
    # Equal IoUs: the lowest anchor, then the lowest box.
    squares = torch.tensor([[0.0, 0, 1, 1]]).repeat(3, 1)
    assert ops.assign_anchors(squares, squares[:2]).tolist() == [0, 1, 0]
    # More boxes than anchors: the last ones get none. Padding never does.
    assert ops.assign_anchors(squares[:2], squares).tolist() == [0, 1]
    assert ops.assign_anchors(squares[:2], squares, torch.tensor([False, True, True])).tolist() == [1, 2]


def test_threshold_is_reached_by_equality(ops):
    anchors, gts = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 1]]), torch.tensor([[0.0, 0, 1, 1]])
    assert ops.assign_anchors(anchors, gts, None, 0.5).tolist() == [0, 0]
    assert ops.assign_anchors(anchors, gts, None, 0.50001).tolist() == [0, -1]
    # 0.1 in float32 lies above 0.1 in float64: compared narrowed, an IoU of exactly that counts.
    anchors = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.1]])
    assert ops.assign_anchors(anchors, gts, None, 0.1).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    anchors, gts = cases.clustered(150, 1).to(dtype), cases.clustered(9, 1).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = reference.assign_anchors(anchors.to(wide), gts.to(wide))
    assert_same(ops.assign_anchors(anchors, gts), expected)
    assert_same(ops.assign_anchors(anchors.to(wide), gts), expected)


def test_layouts(ops):
    anchors, gts = cases.clustered(80, 1), cases.clustered(12, 1).view(2, 6, 4)
    valid = torch.arange(12).view(6, 2).T > 3
    expected = ops.assign_anchors(anchors, gts, valid.contiguous())
    assert_same(ops.assign_anchors(anchors.T.contiguous().T, gts.mT.contiguous().mT, valid), expected)
    assert_same(ops.assign_anchors(anchors, gts[:1].expand(3, -1, -1))[2], ops.assign_anchors(anchors, gts[0]))


@pytest.mark.parametrize(("images", "gts", "anchors"), [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0), (2, 0, 0)])
def test_empty(ops, images, gts, anchors):
    result = ops.assign_anchors(torch.zeros(anchors, 4), torch.zeros(images, gts, 4))
    assert_same(result, torch.full((images, anchors), -1))


@pytest.mark.parametrize("path", cases.golden("assign_*.npz"))
def test_golden(ops, path):
    case = cases.load_golden(path)
    result = ops.assign_anchors(case["anchors"], case["gt_boxes"], None, case["iou_threshold"])
    assert_same(result, case["assigned"].long())


@given(st.integers(0, 140), st.integers(0, 12), st.integers(0, 10**6), st.sampled_from(THRESHOLDS))
def test_invariants(ops, num_anchors, num_gts, seed, threshold):
    anchors, gts = cases.clustered(num_anchors, seed), cases.clustered(num_gts, seed)
    valid = torch.rand(num_gts, generator=cases.generator(seed)) < 0.7
    result = ops.assign_anchors(anchors, gts, valid, threshold)
    # Every valid box has an anchor while anchors last, and padding has none.
    owned = torch.zeros(num_gts, dtype=torch.bool).index_fill(0, result[result >= 0], True)
    assert int(owned.sum()) == min(num_anchors, int(valid.sum()))
    assert not (owned & ~valid).any()
    # Background reaches the threshold with no valid box; at most one anchor a box is matched below it.
    iou = torch.where(valid, reference.box_iou(anchors, gts), -1)
    reaches = iou >= torch.tensor(threshold)
    assert not reaches[result < 0].any()
    matched = (result >= 0).nonzero()[:, 0]
    below = matched[~reaches[matched, result[matched]]]
    assert len(result[below].unique()) == len(below)
    # Padding rows, and scaling by a power of two, change nothing.
    assert_same(
        ops.assign_anchors(anchors, torch.cat((gts, gts)), torch.cat((valid, torch.zeros_like(valid))), threshold),
        result,
    )
    assert_same(ops.assign_anchors(anchors * 8, gts * 8, valid, threshold), result)
    # A batch is its images.
    batch = ops.assign_anchors(anchors, torch.stack((gts.flip(0), gts)), torch.stack((valid.flip(0), valid)), threshold)
    assert_same(batch[1], result)


ANCHORS, GTS, VALID = cases.random_boxes(5), cases.random_boxes(6).view(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((ANCHORS[None], GTS), r"anchors: expected shape \[A, 4\], got \[1, 5, 4\]"),
        ((ANCHORS, GTS[..., :3]), r"gt_boxes: expected shape \[B, G, 4\], got \[2, 3, 3\]"),
        ((ANCHORS, GTS[0, 0]), r"gt_boxes: expected shape \[B, G, 4\], got \[4\]"),
        ((ANCHORS, GTS[0, :, :2]), r"gt_boxes: expected shape \[G, 4\], got \[3, 2\]"),
        ((ANCHORS, GTS, VALID[:1]), r"gt_valid: expected shape \[2, 3\], got \[1, 3\]"),
        ((ANCHORS, GTS[0], VALID), r"gt_valid: expected shape \[3\], got \[2, 3\]"),
        ((ANCHORS, GTS, VALID.long()), "gt_valid: expected dtype torch.bool, got torch.int64"),
        ((ANCHORS, GTS, VALID.to("meta")), r"gt_valid: expected device \S+, got meta"),
        ((ANCHORS.long(), GTS), "anchors: expected a floating-point dtype, got torch.int64"),
        ((ANCHORS, GTS.int()), "gt_boxes: expected a floating-point dtype, got torch.int32"),
        ((ANCHORS, GTS.to("meta")), r"gt_boxes: expected device \S+, got meta"),
        ((ANCHORS, GTS, None, -0.5), "iou_threshold: expected a number between 0 and 1, got -0.5"),
        ((ANCHORS, GTS, None, NAN), "iou_threshold: expected a number between 0 and 1, got nan"),
        ((ANCHORS, GTS, None, INF), "iou_threshold: expected a number between 0 and 1, got inf"),
    ],
)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.assign_anchors(*args)
