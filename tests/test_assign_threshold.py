"""assign_threshold."""

from __future__ import annotations

import itertools

import cases
import oracle_assigners as oracle
import pytest
import torch
from cases import INF, NAN, assert_same
from hypothesis import given
from hypothesis import strategies as st

from tinyssd_ops import reference

# High and low threshold, low quality allowed, every box matched.
RULES = [(0.5, 0.4, False, False), (0.7, 0.3, True, False), (0.5, 0.5, False, True), (0.0, 0.0, True, True)]
RULES += [(1.0, 0.0, True, False)]


def flags(count: int, seed: int, share: float) -> torch.Tensor:
    return torch.rand(count, generator=cases.generator(seed)) < share


@pytest.mark.parametrize(("anchors", "gts"), cases.assign_cases())
def test_parity(other, simd_path, anchors, gts):
    valid, ignored = flags(len(gts), 7, 0.8), flags(len(gts), 9, 0.3)
    for rule, (v, i) in itertools.product(RULES, [(None, None), (valid, ignored)]):
        expected = reference.assign_threshold(anchors, gts, v, i, *rule)
        assert_same(other.assign_threshold(anchors, gts, v, i, *rule), expected, rule)


@pytest.mark.parametrize(("anchors", "gts"), cases.assign_cases())
def test_oracle(ops, anchors, gts):
    anchors, gts = anchors[:66], gts[:12]
    valid, ignored = flags(len(gts), 8, 0.8), flags(len(gts), 10, 0.3)
    for rule in RULES:
        for v, i in ((None, None), (valid, ignored)):
            expected = oracle.assign_threshold(anchors, gts, v, i, *rule)
            assert_same(ops.assign_threshold(anchors, gts, v, i, *rule), expected, rule)


def test_by_hand(ops):
    # IoUs with the one box: 0.6, 0.45, 0.3, 0.
    anchors = torch.tensor([[0.0, 0, 6, 1], [0, 0, 4.5, 1], [0, 0, 3, 1], [20, 0, 21, 1]])
    box = torch.tensor([[0.0, 0, 10, 1]])
    assert ops.assign_threshold(anchors, box).tolist() == [0, -2, -1, -1]
    assert ops.assign_threshold(anchors[1:], box, None, None, 0.5, 0.4, True).tolist() == [0, -1, -1]
    assert ops.assign_threshold(anchors[2:], box, None, None, 0.5, 0.4, False, True).tolist() == [0, -1]
    # A second box that overlaps nothing ties with every anchor, and its first anchor is the first.
    far = torch.cat((box, box + 100))
    assert ops.assign_threshold(anchors, far, None, None, 0.5, 0.4, True).tolist() == [0, 0, 0, 0]
    assert ops.assign_threshold(anchors, far, None, None, 0.5, 0.4, False, True).tolist() == [1, -2, -1, -1]
    # A crowd takes what overlaps it best, from an object too; padding takes nothing.
    crowd = torch.tensor([[0.0, 0, 4.5, 1], [0, 0, 10, 1]])
    ignored = torch.tensor([True, False])
    assert ops.assign_threshold(anchors, crowd, None, ignored).tolist() == [-2, -2, -2, -1]
    assert ops.assign_threshold(anchors, crowd, ~ignored, ignored).tolist() == [1, -2, -1, -1]
    assert ops.assign_threshold(anchors, crowd, None, torch.tensor([True, True])).tolist() == [-2, -2, -2, -1]
    # At equal IoUs the lower index decides.
    twice = box.repeat(2, 1)
    assert ops.assign_threshold(anchors, twice, None, ignored).tolist() == [-2, -2, -2, -1]
    assert ops.assign_threshold(anchors, twice, None, ~ignored).tolist() == [0, -2, -1, -1]


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Anchors and boxes on a grid of eighths, where IoUs tie, and every union is positive."""
    g = cases.generator(seed)
    num_anchors, num_gt = (int(torch.randint(1, most, (), generator=g)) for most in (90, 9))
    corner = torch.randint(0, 9, (num_anchors + num_gt, 2), generator=g)
    size = torch.randint(1, 9, (num_anchors + num_gt, 2), generator=g)
    boxes = torch.cat((corner, corner + size), dim=1) / 8
    return boxes[:num_anchors], boxes[num_anchors:]


def test_torchvision(ops):
    utils, boxes = cases.torchvision().models.detection._utils, cases.torchvision().ops
    for seed in range(500):
        anchors, gts = drawn(seed)
        quality = boxes.box_iou(gts, anchors)
        for high, low, low_quality in ((0.5, 0.4, True), (0.7, 0.3, True), (0.5, 0.4, False)):
            expected = utils.Matcher(high, low, low_quality)(quality)
            assert_same(ops.assign_threshold(anchors, gts, None, None, high, low, low_quality), expected, seed)
        expected = utils.SSDMatcher(0.5)(quality)
        assert_same(ops.assign_threshold(anchors, gts, None, None, 0.5, 0.5, False, True), expected, seed)


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    anchors, gts = cases.clustered(150, 1).to(dtype), cases.clustered(9, 1).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for rule in RULES:
        args = (None, flags(9, 1, 0.3), *rule)
        expected = reference.assign_threshold(anchors.to(wide), gts.to(wide), *args)
        assert_same(ops.assign_threshold(anchors, gts, *args), expected)
        assert_same(ops.assign_threshold(anchors.to(wide), gts, *args), expected)


def test_layouts(ops):
    anchors, gts = cases.clustered(80, 1), cases.clustered(12, 1).view(2, 6, 4)
    valid, ignored = torch.arange(12).view(6, 2).T > 3, torch.arange(12).view(6, 2).T % 3 == 0
    expected = ops.assign_threshold(anchors, gts, valid.contiguous(), ignored.contiguous())
    assert_same(ops.assign_threshold(anchors.T.contiguous().T, gts.mT.contiguous().mT, valid, ignored), expected)
    assert_same(ops.assign_threshold(anchors, gts[1], valid[1], ignored[1]), expected[1])


@pytest.mark.parametrize(("images", "gts", "anchors"), [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0), (2, 0, 0)])
def test_empty(ops, images, gts, anchors):
    for rule in RULES:
        result = ops.assign_threshold(torch.zeros(anchors, 4), torch.zeros(images, gts, 4), None, None, *rule)
        # A box without area overlaps nothing: at thresholds of 0, it is every anchor's best box.
        expected = -1 if gts == 0 else 0 if rule[0] == 0 or rule[2] else -2 if rule[1] == 0 else -1
        assert_same(result[:, 1:], torch.full((images, anchors), expected)[:, 1:])
        assert result.shape == (images, anchors)


@given(st.integers(1, 140), st.integers(0, 12), st.integers(0, 10**6), st.sampled_from(RULES))
def test_invariants(ops, num_anchors, num_gts, seed, rule):
    anchors, gts = cases.clustered(num_anchors, seed), cases.clustered(num_gts, seed)
    valid, ignored = flags(num_gts, seed, 0.7), flags(num_gts, seed + 1, 0.3)
    result = ops.assign_threshold(anchors, gts, valid, ignored, *rule)
    plain = ops.assign_threshold(anchors, gts, valid & ~ignored, None, *rule)
    # Ignored boxes only ever turn results into -2, and padding is nobody's.
    assert ((result == plain) | (result == -2)).all()
    assert (valid & ~ignored)[result[result >= 0]].all()
    # What reaches the high threshold is its anchor's best box; each box that may keeps its best anchor.
    iou = torch.where(valid & ~ignored, reference.box_iou(anchors, gts), -1)
    if num_gts:
        best, box = iou.max(dim=1)
        sure = (best >= torch.tensor(rule[0])) & ~torch.tensor(rule[3])
        assert_same(plain[sure], box[sure])
        if rule[2]:
            kept = (iou == iou.amax(dim=0)) & (valid & ~ignored)
            assert (plain[kept.any(dim=1)] >= 0).all()
    # Padding rows, scaling by a power of two and the rest of a batch change nothing.
    none = torch.zeros_like(valid)
    padded = ops.assign_threshold(anchors, torch.cat((gts, gts)), torch.cat((valid, none)), ignored.repeat(2), *rule)
    assert_same(padded, result)
    assert_same(ops.assign_threshold(anchors * 8, gts * 8, valid, ignored, *rule), result)
    batch = [torch.stack((t.flip(0), t)) for t in (gts, valid, ignored)]
    assert_same(ops.assign_threshold(anchors, *batch, *rule)[1], result)


ANCHORS, GTS, FLAGS = cases.random_boxes(5), cases.random_boxes(6).view(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((ANCHORS[None], GTS), r"anchors: expected shape \[A, 4\], got \[1, 5, 4\]"),
        ((ANCHORS, GTS[..., :3]), r"gt_boxes: expected shape \[B, G, 4\], got \[2, 3, 3\]"),
        ((ANCHORS, GTS[0, :, :2]), r"gt_boxes: expected shape \[G, 4\], got \[3, 2\]"),
        ((ANCHORS, GTS, FLAGS[:1]), r"gt_valid: expected shape \[2, 3\], got \[1, 3\]"),
        ((ANCHORS, GTS[0], None, FLAGS), r"gt_ignored: expected shape \[3\], got \[2, 3\]"),
        ((ANCHORS, GTS, None, FLAGS.long()), "gt_ignored: expected dtype torch.bool, got torch.int64"),
        ((ANCHORS, GTS, FLAGS.to("meta")), r"gt_valid: expected device \S+, got meta"),
        ((ANCHORS.long(), GTS), "anchors: expected a floating-point dtype, got torch.int64"),
        ((ANCHORS, GTS.to("meta")), r"gt_boxes: expected device \S+, got meta"),
        ((ANCHORS, GTS, None, None, 1.5), "high_threshold: expected a number between 0 and 1, got 1.5"),
        ((ANCHORS, GTS, None, None, 0.5, -INF), "low_threshold: expected a number between 0 and 1, got -inf"),
        ((ANCHORS, GTS, None, None, 0.5, NAN), "low_threshold: expected a number between 0 and 1, got nan"),
        ((ANCHORS, GTS, None, None, 0.5, 0.6), "low_threshold: expected at most high_threshold, 0.5, got 0.6"),
    ],
)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.assign_threshold(*args)
