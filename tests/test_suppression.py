"""Suppression where it is hard: shapes and thresholds that make its waves, its grid and its batches take every way.

With TINYSSD_OPS_SIMT_SMALL=1 (tests/simt/run.py) the CUDA kernels take several waves for these sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import cases
import pytest
import torch
from cases import INF, NAN, assert_same
from torch import Tensor

from tinyssd_ops import reference

N = 700  # more than the small waves hold, all of them together


def chain(n: int) -> Tensor:
    """Each box overlaps the one before and the one after, with an IoU of 0.6."""
    left = 0.25 * torch.arange(n, dtype=torch.float32)
    return torch.stack((left, torch.zeros(n), left + 1, torch.ones(n)), dim=1)


def giant_first(n: int) -> Tensor:
    """A box around all others, which are small and lie apart: its IoU with each is below 0.01."""
    boxes = cases.disjoint(n)
    boxes[0] = torch.tensor([-1.0, -1.0, 100.0, 100.0])
    return boxes


def giant_last(n: int) -> Tensor:
    return giant_first(n).flip(0)


def giants_of_all_sizes(n: int) -> Tensor:
    """Squares around the origin, each a little larger, between small ones that lie apart."""
    boxes = cases.disjoint(n)
    half = 1.05 ** torch.arange(len(boxes[::2])).float()[:, None]
    boxes[::2] = torch.cat((-half, -half, half, half), dim=1)
    return boxes


def nearly_identical(n: int) -> Tensor:
    """IoUs on both sides of 0.999."""
    return cases.identical(n) + 3e-4 * torch.rand(n, 4, generator=cases.generator(0))


def signed_zeros(n: int) -> Tensor:
    """Boxes at the origin with corners of +0 and -0, empty ones among them, and NaN."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [-0.0, -0.0, 1, 1], [-1, -1, -0.0, 0], [-0.0, 0, 0, -0.0], [NAN, 0, 1, 1]])
    return boxes[torch.arange(n) % len(boxes)]


SHAPES: dict[str, Callable[[int], Tensor]] = {
    f.__name__: f
    for f in (
        chain,
        giant_first,
        giant_last,
        giants_of_all_sizes,
        nearly_identical,
        signed_zeros,
        cases.identical,
        cases.nested,
    )
}


@pytest.mark.parametrize("ranked", ["by index", "at random"])
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(other, shape, ranked):
    boxes = SHAPES[shape](N)
    scores = torch.linspace(1, 0, N) if ranked == "by index" else cases.random_scores(N)
    for threshold in (0.0, 0.005, 0.5, 0.999):
        expected = cases.reference_answer("nms", boxes, scores, threshold)
        assert_same(other.nms(boxes, scores, threshold), expected, threshold)


def test_a_chain_keeps_every_other_box(ops):
    assert ops.nms(chain(N), torch.linspace(1, 0, N), 0.5).tolist() == list(range(0, N, 2))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_many_images_of_few_boxes(other, n):
    boxes = cases.clustered(100 * n).view(100, n, 4)
    scores = cases.odd_scores(100 * n).view(100, n)
    for least, most in ((None, None), (0.5, 1), (-INF, n)):
        args = (boxes, scores, 0.3, None, least, most)
        assert_same(other.nms_padded(*args), reference.nms_padded(*args), args[4:])


def test_an_image_of_many_boxes_among_empty_ones(other):
    boxes, scores = cases.clustered(12 * N).view(12, N, 4), cases.random_scores(12 * N).view(12, N)
    scores[torch.arange(12) != 7] = NAN
    scores[3, :2] = 0.5
    args = (boxes, scores, 0.5, None, 0.1, 40)
    assert_same(other.nms_padded(*args), reference.nms_padded(*args))


@pytest.mark.parametrize("places", [1, 3, 30])
@pytest.mark.parametrize("num_images", [1, 3])
def test_candidates_run_out_before_enough_are_kept(ops, num_images, places):
    """CUDA takes candidates in batches. All of these but a few are suppressed, so the last batch is the end."""
    num_anchors = 2_700  # more than two batches of 1,024 and one of 512
    anchors = cases.disjoint(places)[torch.arange(num_anchors) % places]
    scores = 0.5 + 0.4 * cases.random_scores(num_images * num_anchors).view(num_images, num_anchors)
    rows, counts = ops.detect(
        torch.stack((1 - scores, scores), dim=1), torch.zeros(num_images, 4 * num_anchors), anchors, 0.5, 0.01, 100
    )
    assert counts.tolist() == [places] * num_images
    best = torch.stack([scores[:, place::places].amax(dim=1) for place in range(places)], dim=1)
    assert_same(rows[:, :places, 1], best.sort(dim=1, descending=True).values)
