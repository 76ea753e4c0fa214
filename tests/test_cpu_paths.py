"""The CPU kernels on every way that they take: one thread or several, list, grid or tree, with any SIMD path.

The ways begin at sizes that tests cannot afford, so the sizes are lowered. Work is counted, no time is measured.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cases
import conftest
import oracle
import pytest
import torch
from cases import assert_same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tinyssd_ops import reference

if conftest.SIMT or "tinyssd_ops._C" not in sys.modules:
    pytest.skip("there are no CPU kernels here", allow_module_level=True)

KERNELS: Any = sys.modules["tinyssd_ops._C"]
OPS = torch.ops.tinyssd_ops
ALWAYS, NEVER = 0, 2**40
# The sizes that lead every box onto one way: whether threads, lists of kept boxes, the grid's limits.
WAYS = {
    "grid": {"few_kept": 1, "grid_cells": NEVER, "neighbours": NEVER},
    "tree": {"few_kept": 1, "grid_cells": ALWAYS, "neighbours": ALWAYS},
    "grid then tree": {"few_kept": 3, "grid_cells": 2, "neighbours": 1},
}
THREADED = {"worth_a_thread": 0, "wave": 7, "least_in_waves": 1}
NASTY = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 3e-16, 1e-8, 1e15, 3e38, -3e38, cases.NAN, cases.INF, -cases.INF]


@pytest.fixture
def set_limits() -> Iterator[Callable[..., None]]:
    """Sets fields of the kernels' limits; afterwards all are as before."""
    limits = KERNELS.limits()
    names = [name for name in dir(limits) if not name.startswith("_")]
    before = {name: getattr(limits, name) for name in names}

    def change(**values: int) -> None:
        for name, value in {**before, **values}.items():
            setattr(limits, name, value)

    yield change
    change()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, threads: int, set_limits: Callable[..., None]) -> str:
    set_limits(**WAYS[request.param], **(THREADED if threads > 1 else {}))
    return request.param


def work(call: Callable[[], Any]) -> int:
    """The cells, blocks and tiles that the kernels look at in a call."""
    before = KERNELS.work_done()
    call()
    return KERNELS.work_done() - before


@pytest.mark.parametrize("kind", cases.BOXES)
def test_nms(way, simd_path, kind):
    boxes = cases.BOXES[kind](150)
    for scores in (cases.odd_scores(150), cases.random_scores(150)):
        for threshold in (0.0, 0.005, 0.3, 0.5, 0.99, 1.0):
            expected = cases.reference_answer("nms", *_shared(boxes, scores), threshold)
            assert_same(OPS.nms(boxes, scores, threshold), expected, threshold)
    assert_same(OPS.nms(boxes.double(), scores, 0.3), reference.nms(boxes.double(), scores, 0.3))


_INPUTS: dict[tuple[bytes, bytes], tuple[Tensor, Tensor]] = {}


def _shared(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The same two tensors for the same values, which is how the reference's answers are found again."""
    return _INPUTS.setdefault((boxes.numpy().tobytes(), scores.numpy().tobytes()), (boxes, scores))


coordinates = st.one_of(st.sampled_from(NASTY), st.floats(0, 2, width=32), st.floats(width=32))
drawn_boxes = st.lists(st.tuples(coordinates, coordinates, coordinates, coordinates), min_size=1, max_size=40)


@given(drawn_boxes, st.lists(st.sampled_from([0.0, -0.0, 1.0, cases.NAN]), min_size=40, max_size=40), st.floats(0, 1))
def test_nms_of_anything(way, drawn, scores, threshold):
    """Against loops that share no code with the reference."""
    boxes, ranks = torch.tensor(drawn), torch.tensor(scores[: len(drawn)])
    for dtype in (torch.float32, torch.float64):
        expected = oracle.nms(boxes.to(dtype), ranks.to(dtype), threshold)
        assert OPS.nms(boxes.to(dtype), ranks.to(dtype), threshold).tolist() == expected


@given(drawn_boxes, drawn_boxes, st.sampled_from([0.0, 0.3, 1.0]))
def test_assignment_of_anything(threads, set_limits, drawn_anchors, drawn_boxes, threshold):
    set_limits(worth_a_thread=0)
    anchors, boxes = torch.tensor(drawn_anchors).repeat(3, 1), torch.tensor(drawn_boxes)
    valid = torch.arange(len(boxes)) % 5 != 3
    expected = oracle.assign(anchors, boxes, valid, threshold)
    assert_same(OPS.assign_anchors(anchors, boxes, valid, threshold), expected)
    labels = torch.cat((torch.where(valid, 2.0, -1.0)[:, None], boxes), dim=1)[None]
    targets = OPS.multibox_target(anchors, labels, threshold)
    assert_same(targets, reference.multibox_target(anchors, labels, threshold))


@pytest.mark.parametrize(("anchors", "gts"), cases.assign_cases())
def test_assignment(threads, simd_path, set_limits, anchors, gts):
    set_limits(worth_a_thread=0)
    for threshold in (0.0, 0.5):
        expected = cases.reference_answer("assign_anchors", anchors, gts, None, threshold)
        assert_same(OPS.assign_anchors(anchors, gts, None, threshold), expected, threshold)


@functools.cache
def _soft_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [B, 300, 4] of every kind, scores of every kind, classes; 300 boxes have two levels above their blocks."""
    boxes = torch.stack([*(kind(300, 1) for kind in cases.BOXES.values()), cases.broken(300, 3)])
    scores = torch.stack([kind(300) for kind in itertools.islice(itertools.cycle(cases.SCORES.values()), len(boxes))])
    return boxes, scores, cases.class_ids(scores.numel(), 4).view_as(scores)


@pytest.mark.parametrize("many", [ALWAYS, 12, NEVER])
@pytest.mark.parametrize("gaussian", [False, True])
def test_soft_nms(threads, simd_path, set_limits, gaussian, many):
    """In the order of a tree, in that of the indices, in rounds; a sigma of 1e-50 is 0 in float32."""
    set_limits(soft_many=many, worth_a_thread=0)
    boxes, scores, ids = _soft_inputs()
    for args in ((0.4, 0.3, None, None, None), (0.0, 0.5, ids, 0.01, None), (0.9, 1e-50, None, None, 200)):
        call = (boxes, scores, gaussian, *args)
        assert_same(OPS.soft_nms(*call), cases.reference_answer("soft_nms", *call), args)


def test_threads_within_images_within_classes(threads, set_limits):
    """Whatever the outer threads own, a list inside stays in its thread, or is the one to be shared."""
    set_limits(few_kept=2, **THREADED)
    boxes, scores = cases.clustered(600).view(3, 200, 4), cases.repeated_scores(600).view(3, 200)
    ids = cases.class_ids(600, 2).view(3, 200)
    assert_same(OPS.nms_padded(boxes, scores, 0.4, ids), reference.nms_padded(boxes, scores, 0.4, ids))
    one = (boxes[0], scores[0], torch.zeros(200, dtype=torch.int64), 0.4)
    assert_same(OPS.batched_nms(*one), reference.batched_nms(*one))
    predictions = cases.predictions(1, 4, 300)
    assert_same(OPS.detect(*predictions), reference.detect(*predictions))
    assert_same(OPS.multibox_detection(*predictions), reference.multibox_detection(*predictions))


def _random(n: int) -> Tensor:
    size = 0.02 + 0.15 * torch.rand(n, 2, generator=cases.generator(1))
    corner = torch.rand(n, 2, generator=cases.generator(2)) * (1 - size)
    return torch.cat((corner, corner + size), dim=1)


def _stripes(n: int) -> Tensor:
    wide = torch.rand(n, 4, generator=cases.generator(3)) * torch.tensor([0.5, 1.0, 0.5, 1e-5])
    boxes = torch.cat((wide[:, :2], wide[:, :2] + wide[:, 2:] + torch.tensor([0.2, 1e-6])), dim=1)
    return torch.where(torch.arange(n)[:, None] % 2 > 0, boxes, boxes[:, [1, 0, 3, 2]])


def _one_cell(n: int) -> Tensor:
    return torch.tensor([0.3, 0.3, 0.6, 0.6]) + 0.03 * torch.rand(n, 4, generator=cases.generator(4))


def _of_all_sizes(n: int) -> Tensor:
    corner = torch.rand(n, 2, generator=cases.generator(5))
    return torch.cat((corner, corner + 10 ** (-6 * torch.rand(n, 2, generator=cases.generator(6)))), dim=1)


def _cells(n: int) -> Tensor:
    cell = torch.arange(n)[:, None] // torch.tensor([1, 200]) % 200
    return torch.cat((cell + 0.1, cell + 0.9), dim=1).float()[torch.randperm(n, generator=cases.generator(7))]


WORST = {
    "random": (_random, 0.5),
    "disjoint, a low threshold": (_cells, 0.005),
    "stripes": (_stripes, 0.5),
    "one cell, a high threshold": (_one_cell, 0.999),
    "tiny": (lambda n: _cells(n) * 1e-17, 0.5),
    "sizes of all kinds": (_of_all_sizes, 0.02),
    "identical": (cases.identical, 0.5),
    "a chain": (lambda n: torch.arange(n)[:, None] * 0.3 + torch.tensor([0.0, 0, 1, 1]), 0.3),
    "one giant": (lambda n: torch.cat((torch.tensor([[0.0, 0, 200, 200]]), _cells(n - 1))), 0.0101),
}


@pytest.mark.parametrize("kind", WORST)
def test_work_grows_like_n_log_n(kind):
    """Four times the boxes: 16 times the work if it were quadratic, up to 5.5 times if N log N, with some room."""
    build, threshold = WORST[kind]
    sizes = 5_000, 20_000
    small, large = (work(lambda n=n: OPS.nms(build(n).contiguous(), cases.random_scores(n), threshold)) for n in sizes)
    assert large < 8 * small + 8 * sizes[0]


@pytest.mark.parametrize("count", [1, 8, 16])
def test_many_searches_that_the_grid_cannot_serve(count, threads):
    """Of one wave, among tiny boxes: each large one is hidden by a kept one of half its side, far from all others."""
    place = torch.arange(30_000)[:, None] % 1000 // torch.tensor([1, 100]) % 100
    tiny = torch.cat((0.02 * place, 0.02 * place + 0.012), dim=1)
    corner = 100 + 3.0 * torch.arange(count)[:, None].expand(count, 2)
    hiding, hidden = torch.cat((corner, corner + 0.5), dim=1), torch.cat((corner, corner + 1), dim=1)
    boxes = torch.cat((hiding, tiny[:20_000], hidden, tiny[20_000:]))
    kept = OPS.nms(boxes, torch.linspace(1, 0, len(boxes)), 0.011)
    assert kept.tolist() == list(range(count + 1000))


@pytest.mark.parametrize("kind", ["identical", "pixels", "nested"])
def test_assignment_looks_at_few_tiles(kind):
    """Where all IoUs tie, or all boxes want the same anchors, the work is at most that of all pairs."""
    num_gt = 600
    side = (torch.arange(num_gt)[:, None] + 1) / num_gt
    boxes = {
        "identical": cases.identical(num_gt),
        "pixels": cases.random_boxes(num_gt, 3) * 300 + 5,
        "nested": 0.5 + 0.5 * torch.tensor([-1, -1, 1, 1]) * side,
    }[kind]
    anchors = cases.random_boxes(5_444, 4)
    tiles = -(-len(anchors) // 64)
    assert work(lambda: OPS.assign_anchors(anchors, boxes)) < tiles * num_gt


def test_misaligned_inputs():
    """A float64 view at an odd byte of a buffer."""
    boxes, scores = cases.clustered(40).double(), cases.random_scores(40).double()
    buffer = bytearray(1) + boxes.numpy().tobytes() + scores.numpy().tobytes()
    odd = torch.frombuffer(buffer, dtype=torch.float64, offset=1)
    assert odd.data_ptr() % 8 != 0 or torch.frombuffer(buffer, dtype=torch.float64, offset=2).data_ptr() % 8 != 0
    odd_boxes, odd_scores = odd[:160].view(40, 4), odd[160:]
    assert_same(OPS.nms(odd_boxes, odd_scores, 0.4), reference.nms(boxes, scores, 0.4))
    assert_same(OPS.box_iou(odd_boxes, odd_boxes), reference.box_iou(boxes, boxes))
    assert_same(OPS.assign_anchors(odd_boxes, odd_boxes), reference.assign_anchors(boxes, boxes))


@given(drawn_boxes)
def test_an_iou_of_zero_has_no_sign(drawn):
    boxes = torch.cat((torch.tensor(drawn), torch.tensor([[0.0, 0, 0.1, 0.1], [-0.0, -0.0, -1, -0.0]])))
    for iou in (OPS.box_iou(boxes, boxes), reference.box_iou(boxes, boxes)):
        assert not iou.signbit().any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not(set_limits, threads):
    set_limits(few_kept=2, **THREADED)
    boxes, scores = cases.random_boxes(300), cases.random_scores(300)
    expected = OPS.nms(boxes, scores, 0.5)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(OPS.nms(boxes, scores, 0.5), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
