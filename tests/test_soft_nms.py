"""soft_nms: linear and Gaussian."""

from __future__ import annotations

import math

import cases
import oracle
import pytest
import torch
from cases import INF, NAN, assert_same
from hypothesis import given
from hypothesis import strategies as st

from tinyssd_ops import reference


def bodla(boxes, scores, gaussian, iou_threshold=0.3, sigma=0.5, ids=None, least=None, most=None):
    """Figure 2 of Bodla et al., 2017, for one image, in Python's float64: pairs of an index and a score.

    B and S are the lists of the paper; M is the box of the highest score.
    """
    corners = oracle._rows(boxes.double())
    left = {i: float(s) for i, s in enumerate(scores) if least is None or s >= least}
    found = []
    while left and (most is None or len(found) < most):
        m = max(left, key=lambda i: (left[i], -i))
        found.append((m, left.pop(m)))
        for i in list(left):
            if ids is not None and ids[i] != ids[m]:
                continue
            overlap = float(oracle.iou(corners[m], corners[i]))
            if gaussian:
                left[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= iou_threshold:
                left[i] *= 1 - overlap
            if least is not None and left[i] < least:
                del left[i]
    return found


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("kind", ["clustered", "random_boxes", "nested", "identical", "disjoint"])
def test_published_definition(ops, kind, gaussian):
    boxes, scores, ids = cases.BOXES[kind](40).double(), cases.random_scores(40).double(), cases.class_ids(40, 3)
    for options in ({}, {"ids": ids}, {"least": 0.05}, {"iou_threshold": 0.6, "sigma": 0.1, "least": 0.01, "most": 9}):
        expected = bodla(boxes, scores, gaussian, **options)
        keep, kept_scores, counts = ops.soft_nms(
            boxes[None],
            scores[None],
            gaussian,
            options.get("iou_threshold", 0.3),
            options.get("sigma", 0.5),
            None if "ids" not in options else ids[None],
            options.get("least"),
            options.get("most"),
        )
        assert counts.item() == len(expected)
        assert keep[0, : len(expected)].tolist() == [i for i, _ in expected]
        torch.testing.assert_close(
            kept_scores[0, : len(expected)], torch.tensor([s for _, s in expected], dtype=torch.float64)
        )


def test_by_hand(ops):
    # IoU of the first two: 8 / (10 + 10 - 8) = 2/3; the third touches the second.
    boxes = torch.tensor([[[0.0, 0, 10, 1], [2, 0, 12, 1], [12, 0, 14, 1]]])
    scores = torch.tensor([[0.6, 0.9, 0.5]])
    keep, kept_scores, counts = ops.soft_nms(boxes, scores)
    assert (keep.tolist(), counts.tolist()) == ([[1, 2, 0]], [3])
    torch.testing.assert_close(kept_scores, torch.tensor([[0.9, 0.5, 0.6 / 3]]))
    keep, kept_scores, counts = ops.soft_nms(boxes, scores, True, sigma=0.5)
    assert keep.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(kept_scores, torch.tensor([[0.9, 0.5, 0.6 * math.exp(-8 / 9)]]))
    keep, _, counts = ops.soft_nms(boxes, scores, score_threshold=0.3, max_output=4)
    assert (keep.tolist(), counts.tolist()) == ([[1, 2, -1, -1]], [2])
    assert ops.soft_nms(boxes, scores, iou_threshold=0.7)[1].tolist() == scores.sort(descending=True).values.tolist()


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("kind", cases.BOXES)
def test_parity(other, kind, gaussian):
    n = 50
    boxes = torch.stack([cases.BOXES[kind](n, 1), cases.BOXES[kind](n, 2), cases.broken(n, 3)])
    scores = torch.stack([cases.random_scores(n), cases.odd_scores(n), cases.repeated_scores(n)])
    ids = cases.class_ids(3 * n, 4).view(3, n)
    for classes, least, most in ((None, None, None), (ids, 0.001, 20), (ids, -INF, 5), (None, INF, 5)):
        args = (boxes, scores, gaussian, 0.4, 0.3, classes, least, most)
        assert_same(other.soft_nms(*args), reference.soft_nms(*args))


@pytest.mark.parametrize("n", [1, 2, 511, 512, 513, 1100])
def test_parity_many(other, n):
    """Around the numbers of threads of the CUDA kernel."""
    args = (
        cases.clustered(2 * n).view(2, n, 4),
        cases.repeated_scores(2 * n).view(2, n),
        True,
        0.3,
        0.5,
        None,
        0.2,
        30,
    )
    assert_same(other.soft_nms(*args), reference.soft_nms(*args))


@pytest.mark.parametrize("dtype", [*cases.HALVES, torch.float64])
def test_dtypes(ops, dtype):
    boxes, scores = cases.clustered(100)[None].to(dtype), cases.repeated_scores(100)[None].to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for gaussian in (False, True):
        expected = reference.soft_nms(boxes.to(wide), scores.to(wide), gaussian)
        assert_same(ops.soft_nms(boxes, scores, gaussian), expected)
        assert expected[1].dtype == wide


def test_scores_rank(ops):
    scores = torch.tensor([[NAN, -INF, 0.0, -0.0, INF, 0.0, NAN, -1.0]])
    keep, _, counts = ops.soft_nms(cases.disjoint(8)[None], scores, score_threshold=None)
    assert (keep.tolist(), counts.tolist()) == ([[4, 2, 3, 5, 7, 1, 0, 6]], [8])
    assert ops.soft_nms(cases.disjoint(8)[None], scores, score_threshold=0.0)[2].tolist() == [4]


def test_empty(ops):
    for images, n in ((0, 5), (3, 0), (0, 0)):
        keep, scores, counts = ops.soft_nms(torch.zeros(images, n, 4), torch.zeros(images, n), max_output=2)
        assert_same((keep, counts), (torch.full((images, 2), -1), torch.zeros(images, dtype=torch.int64)))
        assert_same(scores, torch.zeros(images, 2))


@given(st.integers(1, 80), st.integers(0, 10**6), st.booleans())
def test_invariants(ops, n, seed, gaussian):
    """Every box once, new scores fall and are not above the old ones; a batch is its images."""
    boxes = cases.clustered(2 * n, seed).view(2, n, 4)
    scores = cases.random_scores(2 * n, seed).view(2, n)
    keep, kept_scores, counts = ops.soft_nms(boxes, scores, gaussian, score_threshold=None)
    assert_same(keep.sort(dim=1).values, torch.arange(n).expand(2, n).contiguous())
    assert (kept_scores.diff(dim=1) <= 0).all()
    assert (kept_scores <= scores.gather(1, keep)).all()
    assert counts.tolist() == [n, n]
    assert_same(ops.soft_nms(boxes[1:], scores[1:], gaussian, score_threshold=None)[1], kept_scores[1:])


BOXES, SCORES = cases.random_boxes(3)[None], cases.random_scores(3)[None]
BAD = [
    ({"boxes": BOXES[0]}, r"boxes: expected shape \[B, N, 4\], got \[3, 4\]"),
    ({"scores": SCORES[:, :2]}, r"scores: expected shape \[1, 3\], got \[1, 2\]"),
    ({"boxes": BOXES.long()}, "boxes: expected a floating-point dtype, got torch.int64"),
    ({"iou_threshold": 1.5}, "iou_threshold: expected a number between 0 and 1, got 1.5"),
    ({"sigma": 0.0}, "sigma: expected a number above 0, got 0"),
    ({"sigma": NAN}, "sigma: expected a number above 0, got nan"),
    ({"class_ids": SCORES}, "class_ids: expected an integer dtype, got torch.float32"),
    ({"score_threshold": NAN}, "score_threshold: expected a number, got nan"),
    ({"max_output": -1}, "max_output: expected a number from 0 to 2147483647, got -1"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input(ops, change, message):
    with pytest.raises(ValueError, match=message):
        ops.soft_nms(**{"boxes": BOXES, "scores": SCORES, **change})
