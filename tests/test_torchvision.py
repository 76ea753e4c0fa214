"""tinyssd_ops.torchvision beside the published torchvision: equal on drawn inputs, and different where it says so.

torchvision must be importable, or the tests skip; .ci/run sees to it in a step of its own.
"""

from __future__ import annotations

import math

import cases
import pytest
import torch
from cases import INF, NAN, assert_same

from tinyssd_ops import torchvision as ours

GRID = 64  # Coordinates are multiples of 1 / GRID, so that torchvision's shift by class rounds nothing.


@pytest.fixture(scope="module")
def theirs():
    return cases.torchvision().ops


def drawn_boxes(n, generator, dtype=torch.float32):
    """Boxes with positive sides, some of them alike, some near each other."""
    corners = torch.randint(0, 8 * GRID, (n, 2), generator=generator)
    sides = torch.randint(1, 6 * GRID, (n, 2), generator=generator)
    boxes = torch.cat((corners, corners + sides), dim=1)
    near = boxes[torch.randint(n, (n,), generator=generator)] if n else boxes
    jitter = torch.randint(-20, 21, (n, 4), generator=generator)
    near = torch.cat((near[:, :2] + jitter[:, :2].clamp(max=0), near[:, 2:] + jitter[:, 2:].clamp(min=0)), dim=1)
    return (torch.where(torch.rand(n, 1, generator=generator) < 0.6, near, boxes).clamp(min=0) / GRID).to(dtype)


def drawn_scores(n, generator, dtype=torch.float32):
    scores = torch.rand(n, generator=generator, dtype=dtype)
    return scores if torch.rand((), generator=generator) < 0.5 else (scores * 8).floor() / 8  # many equal ones


def draw(items, generator):
    return items[int(torch.randint(len(items), (), generator=generator))]


THRESHOLDS = [0.0, 0.1, 0.2, 0.3, 0.45, 0.5, 0.6, 0.7, 0.9, 1.0, 2.0]


def draw_nms(g):
    n, dtype = draw([0, 1, 2, 5, 20, 40], g), draw([torch.float32, torch.float64], g)
    return "nms", (drawn_boxes(n, g, dtype), drawn_scores(n, g, dtype), draw(THRESHOLDS, g))


def draw_batched_nms(g):
    n, dtype = draw([0, 1, 2, 5, 20, 40], g), draw([torch.float32, torch.float64], g)
    ids = torch.randint(0, 5, (n,), generator=g)
    ids = ids.to(draw([torch.int64, torch.int32, torch.uint8, torch.float32, torch.float16, torch.bool], g))
    return "batched_nms", (drawn_boxes(n, g, dtype), drawn_scores(n, g, dtype), ids, draw(THRESHOLDS, g))


def draw_pairs(g):
    name = draw(["box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"], g)
    lead = draw([(), (), (2,), (2, 3)], g)
    dtypes = [draw([torch.float32, torch.float64, torch.int64, torch.int32], g) for _ in range(2)]
    boxes = []
    for n, dtype in zip((draw([0, 1, 3, 9], g), draw([0, 1, 4, 8], g)), dtypes, strict=True):
        found = drawn_boxes(math.prod(lead) * n, g).view(*lead, n, 4)
        boxes.append((found * GRID).to(dtype) if not dtype.is_floating_point else found.to(dtype))
    if torch.rand((), generator=g) < 0.1 and lead == () and boxes[0].shape[0] > 0:
        boxes[0] = boxes[0][0]  # a single box
    return name, tuple(boxes)


def draw_loss(g):
    name = draw(["generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss"], g)
    n, dtype = draw([0, 1, 6], g), draw([torch.float32, torch.float64], g)
    boxes = drawn_boxes(n, g, dtype), drawn_boxes(n, g, dtype)
    if n == 1:
        boxes = boxes[0][0], boxes[1][0]
    return name, (*boxes, draw(["none", "mean", "sum"], g))


def draw_rest(g):
    n, dtype = draw([0, 1, 7], g), draw([torch.float32, torch.float64, torch.int64, torch.int32, torch.float16], g)
    boxes = drawn_boxes(n, g)
    boxes = (boxes if dtype.is_floating_point else boxes * GRID).to(dtype)
    if n == 1 and torch.rand((), generator=g) < 0.5:
        boxes = boxes[0]
    formats = ["xyxy", "xywh", "cxcywh"]
    return draw(
        [
            ("box_area", (boxes, draw(formats, g))),
            ("box_convert", (boxes, draw(formats, g), draw(formats, g))),
            ("clip_boxes_to_image", (boxes, (draw([3, 4], g), draw([5, 2], g)))),
            ("remove_small_boxes", (boxes, draw([0, 1, 2.5], g))),
        ],
        g,
    )


@pytest.mark.parametrize(
    ("draw_one", "count"),
    [(draw_nms, 3000), (draw_batched_nms, 2500), (draw_pairs, 2500), (draw_loss, 1000), (draw_rest, 1500)],
)
def test_drawn_inputs(theirs, draw_one, count):
    g = cases.generator(11)
    for i in range(count):
        name, args = draw_one(g)
        actual, expected = getattr(ours, name)(*args), getattr(theirs, name)(*args)
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), (i, name, args)
        floats = all(a.is_floating_point() for a in args if isinstance(a, torch.Tensor))
        if "nms" in name or draw_one is draw_rest or (name == "box_iou" and floats):
            assert torch.equal(actual, expected), (i, name, args)
        else:
            assert torch.allclose(actual, expected, rtol=2e-6, atol=1e-6), (i, name, args)


@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"])
def test_gradients_where_there_is_no_tie(theirs, name):
    boxes = [cases.random_boxes(12, seed, side=1.0).double() + torch.tensor([0, 0, 0.1, 0.1]) for seed in (1, 2)]
    found = []
    for module in (ours, theirs):
        leaves = [b.clone().requires_grad_() for b in boxes]
        found.append(torch.autograd.grad(getattr(module, name)(*leaves).square().sum(), leaves))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss"])
def test_gradients_of_losses(theirs, name):
    boxes = [cases.random_boxes(12, seed, side=1.0).double() + torch.tensor([0, 0, 0.1, 0.1]) for seed in (1, 2)]
    found = []
    for module in (ours, theirs):
        leaves = [b.clone().requires_grad_() for b in boxes]
        found.append(torch.autograd.grad(getattr(module, name)(*leaves, reduction="sum"), leaves))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_formats_of_box_iou(theirs):
    boxes1, boxes2 = cases.random_boxes(9, 1, side=1.0), cases.random_boxes(8, 2, side=1.0)
    for fmt in ("xyxy", "xywh", "cxcywh"):
        one, two = (ours.box_convert(b, "xyxy", fmt) for b in (boxes1, boxes2))
        torch.testing.assert_close(ours.box_iou(one, two, fmt), theirs.box_iou(one, two, fmt), rtol=1e-5, atol=1e-6)


UNIT = torch.tensor([0.0, 0, 1, 1])


def test_difference_order_of_equal_scores(theirs):
    n = 1200
    boxes, scores, ids = cases.disjoint(n), torch.ones(n), torch.arange(n) % 7
    assert_same(ours.batched_nms(boxes, scores, ids, 0.5), torch.arange(n))
    assert_same(theirs.batched_nms(boxes, scores, ids, 0.5).sort().values, torch.arange(n))


def test_difference_nan(theirs):
    boxes = torch.stack((torch.tensor([NAN, 0, 1, 1]), UNIT))
    assert_same(ours.box_iou(boxes, boxes), torch.tensor([[0.0, 0], [0, 1]]))
    assert theirs.box_iou(boxes, boxes)[0].isnan().all()
    scores = torch.tensor([0.5, NAN])
    apart = torch.stack((UNIT, UNIT + 5))
    assert ours.nms(apart, scores, 0.5).tolist() == [0, 1]
    assert theirs.nms(apart, scores, 0.5).tolist() == [1, 0]


def test_difference_no_union(theirs):
    point = torch.ones(1, 4)
    for name in ("box_iou", "generalized_box_iou"):
        assert getattr(ours, name)(point, point).item() == 0
        assert getattr(theirs, name)(point, point).isnan().all()


def test_difference_classes(theirs):
    # Shifted by its id times the largest coordinate and 1, the second box lies on the first.
    boxes = torch.tensor([[0.0, 0, 2, 2], [-3.0, -3, -1, -1]])
    ids = torch.tensor([0, 1])
    scores = torch.tensor([0.9, 0.8])
    assert ours.batched_nms(boxes, scores, ids, 0.5).tolist() == [0, 1]
    assert theirs.batched_nms(boxes, scores, ids, 0.5).tolist() == [0]


def test_difference_nan_among_ids(theirs):
    for n, expected in ((3, [0, 1, 2]), (1001, [])):
        boxes, scores, ids = UNIT.expand(n, 4), torch.arange(n, 0, -1.0), torch.full((n,), NAN)
        assert ours.batched_nms(boxes, scores, ids, 0.5).tolist() == [0]
        assert theirs.batched_nms(boxes, scores, ids, 0.5).tolist() == expected


def test_difference_half_precision(theirs):
    boxes = torch.tensor([[0.1, 0.1, 2000.7, 3.3]]).half()
    other = torch.tensor([[1.3, 0.2, 1999.1, 3.1]]).half()
    assert_same(ours.box_iou(boxes, other), ours.box_iou(boxes.float(), other.float()))
    assert not torch.equal(ours.box_iou(boxes, other), theirs.box_iou(boxes, other))
    assert ours.nms(boxes, torch.ones(1), 0.5).tolist() == [0]
    with pytest.raises(RuntimeError):
        theirs.nms(boxes, torch.ones(1).half(), 0.5)


def test_difference_small_integers(theirs):
    boxes1, boxes2 = (
        torch.tensor([[0, 0, 10, 10]], dtype=torch.uint8),
        torch.tensor([[20, 0, 30, 10]], dtype=torch.uint8),
    )
    assert ours.box_iou(boxes1, boxes2).item() == 0
    assert theirs.box_iou(boxes1, boxes2).item() != 0


def test_difference_formats(theirs):
    box = torch.tensor([[1e4, 1e4, 1.3e-3, 1.3e-3]])
    assert ours.box_iou(box, box, "xywh").item() == 1
    assert theirs.box_iou(box, box, "xywh").item() != 1


def test_difference_refused(theirs):
    with pytest.raises(ValueError, match="fmt: expected one of xyxy, xywh, cxcywh, got 'xywhr'"):
        ours.box_iou(torch.ones(1, 4), torch.ones(1, 4), fmt="xywhr")
    assert theirs.box_area(torch.ones(2, 5)).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"boxes: expected shape \[\.\.\., 4\], got \[2, 5\]"):
        ours.box_area(torch.ones(2, 5))
    for dtype in (torch.bool, torch.complex64, torch.float8_e5m2):
        boxes = torch.ones(2, 4).to(dtype)
        for call in (
            lambda boxes=boxes: ours.box_iou(boxes, boxes),
            lambda boxes=boxes: ours.distance_box_iou_loss(boxes, boxes),
            lambda boxes=boxes: ours.box_area(boxes),
            lambda boxes=boxes: ours.box_convert(boxes, "xyxy", "xywh"),
            lambda boxes=boxes: ours.clip_boxes_to_image(boxes, (1, 1)),
            lambda boxes=boxes: ours.remove_small_boxes(boxes, 1),
        ):
            with pytest.raises(ValueError, match=f"boxes1?: expected floats or integers, got {dtype}"):
                call()
    quantized = torch.quantize_per_tensor(torch.ones(2, 4), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match="boxes: expected an ordinary, dense tensor, got a quantized one"):
        ours.nms(quantized, quantized[:, 0], 0.5)


def test_numbers_as_tensors(theirs):
    """torchvision takes them; and an empty list, as ``torch.tensor([])``, where it takes one."""
    g = cases.generator(12)
    boxes, scores, ids = drawn_boxes(40, g), drawn_scores(40, g), torch.arange(40) % 3
    for half in (torch.tensor(0.5), torch.tensor([0.5])):
        for module in (ours, theirs):
            assert_same(module.nms(boxes, scores, half), ours.nms(boxes, scores, 0.5))
            assert_same(module.batched_nms(boxes, scores, ids, half), ours.batched_nms(boxes, scores, ids, 0.5))
        for name in ("distance_box_iou", "complete_box_iou", "generalized_box_iou_loss", "distance_box_iou_loss"):
            found, expected = (getattr(module, name)(boxes, boxes, eps=half) for module in (ours, theirs))
            torch.testing.assert_close(found, expected)
    nothing = torch.tensor([])
    for module in (ours, theirs):
        assert_same(module.batched_nms(nothing, nothing, nothing, 0.5), torch.zeros(0, dtype=torch.int64))
        assert_same(module.box_area(torch.ones(2, 4, dtype=torch.uint16)), torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"^eps: expected a number, got nan"):
        ours.complete_box_iou_loss(boxes, boxes, eps=NAN)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64])
def test_ids_of_every_dtype(theirs, dtype):
    g = cases.generator(13)
    boxes, scores, ids = drawn_boxes(40, g), drawn_scores(40, g), (torch.arange(40) % 3 - 1).to(dtype)
    assert_same(ours.batched_nms(boxes, scores, ids, 0.5), theirs.batched_nms(boxes, scores, ids, 0.5))


def test_difference_eps_of_the_complete_loss(theirs):
    boxes1, boxes2 = torch.tensor([[0.0, 0, 2, 1]]), torch.tensor([[0.0, 0, 1, 1]])
    eps = 0.5
    iou, distance, v = 1 / (2 + eps), 0.25 / (5 + eps), 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    expected = 1 - iou + distance + v / (1 - iou + v + eps) * v
    torch.testing.assert_close(ours.complete_box_iou_loss(boxes1, boxes2, eps=eps), torch.tensor([expected]))
    assert not torch.isclose(theirs.complete_box_iou_loss(boxes1, boxes2, eps=eps), torch.tensor([expected])).any()


def test_difference_gradients_at_ties(theirs):
    gradients = []
    for module in (ours, theirs):
        box = torch.tensor([[1.0, 1, 1, 1]], requires_grad=True)
        module.box_iou(box, torch.ones(1, 4)).sum().backward()
        gradients.append(box.grad)
    assert gradients[0].isfinite().all()
    assert not gradients[1].isfinite().all()


def test_difference_thresholds(theirs):
    boxes = torch.stack((UNIT, UNIT + 5, torch.ones(4), torch.ones(4)))
    scores = torch.tensor([0.4, 0.3, 0.2, 0.1])
    assert ours.nms(boxes, scores, -0.5).tolist() == [0]
    assert theirs.nms(boxes[:2], scores[:2], -0.5).tolist() == [0]
    assert theirs.nms(boxes[2:], scores[2:], -0.5).tolist() == [0, 1]  # 0 / 0 is above nothing
    assert ours.batched_nms(boxes, scores, torch.tensor([0, 0, 1, 1]), -0.5).tolist() == [0, 2]
    for threshold in (1.5, INF, NAN):
        assert ours.nms(boxes, scores, threshold).tolist() == [0, 1, 2, 3]
        assert theirs.nms(boxes, scores, threshold).tolist() == [0, 1, 2, 3]


def test_difference_errors(theirs):
    with pytest.raises(ValueError, match=r"boxes: expected shape \[N, 4\], got \[3, 3\]"):
        ours.nms(torch.ones(3, 3), torch.ones(3), 0.5)
    with pytest.raises(RuntimeError):
        theirs.nms(torch.ones(3, 3), torch.ones(3), 0.5)
    with pytest.raises(ValueError, match="reduction: expected one of none, mean, sum, got 'max'"):
        ours.generalized_box_iou_loss(UNIT, UNIT, "max")


def test_threshold_in_float32():
    boxes = torch.zeros(1, 4)
    g = cases.generator(14)
    drawn = torch.rand(500, generator=g, dtype=torch.float64) * 2.0 ** torch.randint(-160, 1, (500,), generator=g)
    edges = [0.0, 0.1, 0.5, 1 - 1e-9, 1 - 1e-16, 5e-324, 1.4e-45, 1.5e-45, 1.1754943508222875e-38]
    for value in edges + drawn.tolist():
        found = ours._threshold(value, boxes, boxes[:, 0])
        narrow = torch.tensor(found, dtype=torch.float32)
        assert narrow.item() == found <= value
        assert torch.nextafter(narrow, torch.tensor(INF)).item() > value


def test_thresholds_between_floats(theirs):
    """An IoU of exactly float32(0.1), which lies above 0.1: torchvision compares in float64."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.1]])
    scores = torch.tensor([0.9, 0.8])
    assert theirs.nms(boxes, scores, 0.1).tolist() == ours.nms(boxes, scores, 0.1).tolist() == [0]
    for threshold in cases.THRESHOLDS:
        graze = cases.grazing(18, threshold=threshold if threshold > 0 else 0.5)
        scores = cases.random_scores(18)
        assert_same(ours.nms(graze, scores, threshold), theirs.nms(graze, scores, threshold))
