"""assign_atss."""

from __future__ import annotations

import cases
import oracle_assigners as oracle
import pytest
import torch
from cases import assert_same
from hypothesis import given
from hypothesis import strategies as st

import tinyssd_ops
from tinyssd_ops import reference


def flags(count: int, seed: int, share: float) -> torch.Tensor:
    return torch.rand(count, generator=cases.generator(seed)) < share


def split(count: int, parts: int) -> list[int]:
    """Sizes that add up to count, the first levels the largest, as in a pyramid."""
    sizes = []
    for _ in range(parts - 1):
        sizes.append(2 * (count - sum(sizes)) // 3)
    return [*sizes, count - sum(sizes)]


def pyramid() -> tuple[torch.Tensor, list[int]]:
    """Square anchors on three levels of a picture of 64 by 64, many of them equally far from anything."""
    levels = []
    for cells in (16, 8, 4):
        stride = 64 / cells
        y, x = torch.meshgrid(*[(torch.arange(cells) + 0.5) * stride] * 2, indexing="ij")
        center = torch.stack((x, y), dim=2).view(-1, 2)
        levels.append(torch.cat((center - 2 * stride, center + 2 * stride), dim=1))
    return torch.cat(levels), [len(level) for level in levels]


@pytest.mark.parametrize(("anchors", "gts"), cases.assign_cases())
def test_parity(other, simd_path, anchors, gts):
    valid, ignored = flags(len(gts), 7, 0.8), flags(len(gts), 9, 0.3)
    for parts, topk in ((1, 9), (3, 4), (16, 1), (2, 64)):
        sizes = split(len(anchors), parts)
        for v, i in ((None, None), (valid, ignored)):
            expected = reference.assign_atss(anchors, sizes, gts, v, i, topk)
            assert_same(other.assign_atss(anchors, sizes, gts, v, i, topk), expected, (sizes, topk))


@pytest.mark.parametrize("seed", range(6))
def test_parity_on_a_pyramid(other, simd_path, seed):
    anchors, sizes = pyramid()
    g = cases.generator(seed)
    corner = torch.randint(0, 48, (2, 30, 2), generator=g)
    gts = torch.cat((corner, corner + torch.randint(1, 40, (2, 30, 2), generator=g)), dim=2).float()
    args = (anchors, sizes, gts, None, flags(60, seed, 0.1).view(2, 30))
    assert_same(other.assign_atss(*args), reference.assign_atss(*args))
    assert_same(
        other.assign_atss(*args),
        torch.stack([oracle.assign_atss(anchors, sizes, gts[i], None, args[4][i], 9) for i in range(2)]),
    )


@pytest.mark.parametrize(("anchors", "gts"), cases.assign_cases())
def test_oracle(ops, anchors, gts):
    anchors, gts = anchors[:66], gts[:12]
    valid, ignored = flags(len(gts), 8, 0.8), flags(len(gts), 10, 0.3)
    for parts, topk in ((1, 9), (3, 4)):
        sizes = split(len(anchors), parts)
        for v, i in ((None, None), (valid, ignored)):
            expected = oracle.assign_atss(anchors, sizes, gts, v, i, topk)
            assert_same(ops.assign_atss(anchors, sizes, gts, v, i, topk), expected, (sizes, topk))


def test_by_hand(ops):
    # The three nearest centres are those of anchors 0, 1 and 2; their IoUs are 1, 1/2 and 1/4: mean 7/12, deviation
    # 0.38, so only the first counts. Anchor 3 would have an IoU of 0.9.
    box = torch.tensor([[0.0, 0, 8, 8]])
    anchors = torch.tensor([[0.0, 0, 8, 8], [0, 2, 8, 6], [2, 2, 6, 6], [0, 0, 8, 7.2]])
    assert ops.assign_atss(anchors, [4], box, None, None, 3).tolist() == [0, -1, -1, -1]
    # A level of its own makes it a candidate; of two different IoUs none reaches the mean plus the deviation.
    assert ops.assign_atss(anchors, [3, 1], box, None, None, 1).tolist() == [-1, -1, -1, -1]
    assert ops.assign_atss(anchors[[1, 2, 2, 0]], [3, 1], box, None, None, 3).tolist() == [-1, -1, -1, 0]
    # One candidate reaches its own mean; its centre must lie inside, not on the edge.
    assert ops.assign_atss(anchors[:1] + 3, [1], box).tolist() == [0]
    assert ops.assign_atss(anchors[:1] + 4, [1], box).tolist() == [-1]
    # Two boxes want the anchor: the larger IoU, then the lower box. An ignored one takes it from both.
    boxes = torch.tensor([[0.0, 0, 8, 7], [0, 0, 8, 8], [0, 0, 8, 8]])
    assert ops.assign_atss(anchors[:1], [1], boxes).tolist() == [1]
    assert ops.assign_atss(anchors[:1], [1], boxes, None, torch.tensor([False, True, False])).tolist() == [-2]
    assert ops.assign_atss(anchors[:1], [1], boxes, None, torch.tensor([False, False, True])).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    anchors, gts = cases.clustered(150, 1).to(dtype), cases.clustered(9, 1).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = reference.assign_atss(anchors.to(wide), [100, 50], gts.to(wide))
    assert_same(ops.assign_atss(anchors, [100, 50], gts), expected)
    assert_same(ops.assign_atss(anchors.to(wide), [100, 50], gts), expected)


def test_layouts(ops):
    anchors, gts = cases.clustered(80, 1), cases.clustered(12, 1).view(2, 6, 4)
    valid = torch.arange(12).view(6, 2).T > 3
    expected = ops.assign_atss(anchors, [50, 30], gts, valid.contiguous())
    assert_same(ops.assign_atss(anchors.T.contiguous().T, [50, 30], gts.mT.contiguous().mT, valid), expected)
    assert_same(ops.assign_atss(anchors, [50, 30], gts[1], valid[1]), expected[1])


@pytest.mark.parametrize(("images", "gts", "anchors"), [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0), (2, 0, 0)])
def test_empty(ops, images, gts, anchors):
    result = ops.assign_atss(torch.zeros(anchors, 4), [anchors, 0], torch.zeros(images, gts, 4))
    assert_same(result, torch.full((images, anchors), -1))


@given(st.integers(1, 140), st.integers(1, 12), st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 12))
def test_invariants(ops, num_anchors, num_gts, seed, parts, topk):
    anchors, gts, sizes = cases.clustered(num_anchors, seed), cases.clustered(num_gts, seed), split(num_anchors, parts)
    valid, ignored = flags(num_gts, seed, 0.7), flags(num_gts, seed + 1, 0.3)
    result = ops.assign_atss(anchors, sizes, gts, valid, ignored, topk)
    counted, matched = valid & ~ignored, result >= 0
    assert counted[result[matched]].all()
    own, boxes = tinyssd_ops.corner_to_center(anchors)[matched, :2], gts[result[matched]]
    assert ((own > boxes[:, :2]) & (own < boxes[:, 2:])).all()
    assert ((result[:, None] == torch.arange(num_gts)).sum(dim=0) <= topk * parts).all()
    # Padding rows, scaling by a power of two and the rest of a batch change nothing.
    none = torch.zeros_like(valid)
    padded = ops.assign_atss(anchors, sizes, torch.cat((gts, gts)), torch.cat((valid, none)), ignored.repeat(2), topk)
    assert_same(padded, result)
    assert_same(ops.assign_atss(anchors * 8, sizes, gts * 8, valid, ignored, topk), result)
    batch = [torch.stack((t.flip(0), t)) for t in (gts, valid, ignored)]
    assert_same(ops.assign_atss(anchors, sizes, *batch, topk)[1], result)


ANCHORS, GTS, FLAGS = cases.random_boxes(5), cases.random_boxes(6).view(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((ANCHORS[None], [5], GTS), r"anchors: expected shape \[A, 4\], got \[1, 5, 4\]"),
        ((ANCHORS, [5], GTS[..., :3]), r"gt_boxes: expected shape \[B, G, 4\], got \[2, 3, 3\]"),
        ((ANCHORS, [5], GTS, FLAGS[:1]), r"gt_valid: expected shape \[2, 3\], got \[1, 3\]"),
        ((ANCHORS, [5], GTS, None, FLAGS.long()), "gt_ignored: expected dtype torch.bool, got torch.int64"),
        ((ANCHORS.long(), [5], GTS), "anchors: expected a floating-point dtype, got torch.int64"),
        ((ANCHORS, [5], GTS.to("meta")), r"gt_boxes: expected device \S+, got meta"),
        ((ANCHORS, [], GTS), "level_sizes: expected 1 to 16 levels, got 0"),
        ((ANCHORS, [5] + [0] * 16, GTS), "level_sizes: expected 1 to 16 levels, got 17"),
        ((ANCHORS, [3, 3], GTS), r"level_sizes: expected sizes that add up to 5 anchors, got \[3, 3\]"),
        ((ANCHORS, [6, -1], GTS), r"level_sizes: expected sizes that add up to 5 anchors, got \[6, -1\]"),
        ((ANCHORS, [2**62, 2**62, 2**62, 2**62, 5], GTS), "level_sizes: expected sizes that add up to 5 anchors"),
        ((ANCHORS, [5], GTS, None, None, 0), "topk: expected a number from 1 to 64, got 0"),
    ],
)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.assign_atss(*args)
