"""nms, batched_nms and nms_padded."""

from __future__ import annotations

import cases
import oracle
import pytest
import torch
from cases import INF, NAN, THRESHOLDS, assert_same
from hypothesis import given
from hypothesis import strategies as st

from tinyssd_ops import reference


@pytest.mark.parametrize(("boxes", "scores"), cases.nms_cases())
def test_parity(other, simd_path, boxes, scores):
    for threshold in THRESHOLDS if len(boxes) < 100 else THRESHOLDS[1::2]:
        expected = cases.reference_answer("nms", boxes, scores, threshold)
        assert_same(other.nms(boxes, scores, threshold), expected, threshold)


@pytest.mark.parametrize("threshold", [t for t in THRESHOLDS if t > 0])
@pytest.mark.parametrize("n", [200, 400])
def test_parity_grazing(other, simd_path, threshold, n):
    boxes, scores = cases.grazing(n, threshold=threshold), cases.repeated_scores(n)
    ious = reference.box_iou(boxes[: n // 2], boxes[n // 2 :]).diagonal().unique()
    assert ((ious - threshold).abs() < 1e-6).all()
    # Thresholds that are the IoU of some pairs exactly, and the numbers just below and above.
    for t in (threshold, *ious[:2].tolist(), ious[-1].item()):
        expected = reference.nms(boxes, scores, t)
        assert_same(other.nms(boxes, scores, t), expected, t)


@pytest.mark.parametrize("ids", cases.CLASS_IDS)
@pytest.mark.parametrize("kind", ["clustered", "broken", "mixed_sizes"])
def test_parity_classes(other, ids, kind):
    n = 400
    boxes, scores, idxs = cases.BOXES[kind](n), cases.odd_scores(n), cases.CLASS_IDS[ids](n)
    for threshold in (0.0, 0.3, 0.7):
        assert_same(
            other.batched_nms(boxes, scores, idxs, threshold),
            reference.batched_nms(boxes, scores, idxs, threshold),
        )


@pytest.mark.parametrize("n", [0, 1, 40, 300])
@pytest.mark.parametrize("most", [None, 0, 1, 5, 1000])
@pytest.mark.parametrize("least", [None, -INF, 0.0, 0.4, INF])
def test_parity_padded(other, n, most, least):
    boxes = torch.stack([cases.clustered(n, 1), cases.broken(n, 2), cases.random_boxes(n, 3)])
    scores = torch.stack([cases.random_scores(n), cases.odd_scores(n), cases.repeated_scores(n)])
    for ids in (None, cases.class_ids(3 * n, 4).view(3, n)):
        args = (boxes, scores, 0.4, ids, least, most)
        assert_same(other.nms_padded(*args), reference.nms_padded(*args))


@pytest.mark.parametrize("n", [1000, 3000, 5000, 9000])
def test_parity_many(other, n):
    """Around the sizes at which the CUDA kernels change their ways, with and without a filter."""
    boxes = torch.stack([cases.random_boxes(n, 1, side=0.1), cases.random_boxes(n, 2, side=0.02)])
    scores = torch.stack([cases.random_scores(n), cases.repeated_scores(n)])
    for ids, least in ((None, 0.1), (cases.class_ids(2 * n, 5).view(2, n), None)):
        args = (boxes, scores, 0.4, ids, least, 100)
        assert_same(other.nms_padded(*args), reference.nms_padded(*args))


@pytest.mark.parametrize("kind", cases.BOXES)
def test_oracle(ops, kind):
    boxes, ids = cases.BOXES[kind](40), cases.class_ids(40, 3)
    for scores in (cases.odd_scores(40), cases.random_scores(40)):
        for threshold in (0.0, 0.3, 0.5, 1.0):
            assert ops.nms(boxes, scores, threshold).tolist() == oracle.nms(boxes, scores, threshold)
            assert ops.batched_nms(boxes, scores, ids, threshold).tolist() == oracle.nms(boxes, scores, threshold, ids)
        keep, counts = ops.nms_padded(boxes[None], scores[None], 0.3, ids[None], 0.2, 9)
        expected = oracle.nms(boxes, scores, 0.3, ids, 0.2, 9)
        assert keep[0].tolist() == expected + [-1] * (9 - len(expected))
        assert counts.tolist() == [len(expected)]


def test_by_hand(ops):
    # IoU of the first two: 8 / (10 + 10 - 8) = 2/3; of the last two: 0, they touch.
    boxes = torch.tensor([[0.0, 0, 10, 1], [2, 0, 12, 1], [12, 0, 14, 1]])
    scores = torch.tensor([0.5, 0.9, 0.5])
    assert ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert ops.nms(boxes, scores, 0.7).tolist() == [1, 0, 2]
    assert ops.nms(boxes, scores, 2 / 3).tolist() == [1, 0, 2]
    assert ops.nms(boxes, scores, 0.666).tolist() == [1, 2]
    assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 0]), 0.5).tolist() == [1, 0, 2]


def test_scores_rank(ops):
    scores = torch.tensor([NAN, -INF, 0.0, -0.0, INF, 0.0, NAN, -1.0])
    # Equal scores, both zeros among them, keep their order; NaN comes after minus infinity.
    assert ops.nms(cases.disjoint(8), scores, 0.5).tolist() == [4, 2, 3, 5, 7, 1, 0, 6]
    keep, counts = ops.nms_padded(cases.disjoint(8)[None], scores[None], 0.5, score_threshold=0.0)
    assert (keep.tolist(), counts.tolist()) == ([[4, 2, 3, 5, -1, -1, -1, -1]], [4])


def test_classes_by_id_not_by_coordinates(ops):
    # Shifting by class id times the largest coordinate would round these onto each other, or apart.
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [1e7, 0, 1e7 + 1, 1]])
    idxs = torch.tensor([2**62, 2**62 + 1, 2**62])
    assert ops.batched_nms(boxes, torch.tensor([1.0, 2, 3]), idxs, 0.5).tolist() == [2, 1, 0]


@pytest.mark.parametrize("dtype", [*cases.HALVES, torch.float64])
def test_dtypes(ops, dtype):
    boxes, scores = cases.clustered(300).to(dtype), cases.repeated_scores(300).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for threshold in (0.1, 0.5, 0.7):
        expected = reference.nms(boxes.to(wide), scores.to(wide), threshold)
        assert_same(ops.nms(boxes, scores, threshold), expected)
        assert_same(ops.nms(boxes, scores.to(wide), threshold), expected)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.int16])
def test_rare_id_dtypes(ops, dtype):
    idxs = torch.tensor([7, 7, 200]).to(dtype)
    assert ops.batched_nms(cases.identical(3), torch.tensor([1.0, 2, 3]), idxs, 0.5).tolist() == [2, 1]


def test_layouts(ops):
    boxes, scores = cases.clustered(100), cases.random_scores(100)
    expected = ops.nms(boxes, scores, 0.4)
    wide = torch.stack((boxes, boxes + 1), dim=2)
    assert_same(ops.nms(boxes.T.contiguous().T, scores, 0.4), expected)
    assert_same(ops.nms(wide[..., 0], torch.stack((scores, scores), dim=1)[:, 0], 0.4), expected)
    assert_same(ops.nms_padded(boxes.expand(2, -1, -1), scores.expand(2, -1), 0.4)[0][:, : len(expected)][1], expected)


def test_empty(ops):
    none = torch.zeros(0, 4)
    assert_same(ops.nms(none, none[:, 0], 0.5), torch.zeros(0, dtype=torch.int64))
    assert_same(ops.batched_nms(none, none[:, 0], torch.zeros(0).long(), 0.5), torch.zeros(0, dtype=torch.int64))
    for images, n in ((0, 5), (3, 0), (0, 0)):
        keep, counts = ops.nms_padded(torch.zeros(images, n, 4), torch.zeros(images, n), 0.5, max_output=2)
        assert_same((keep, counts), (torch.full((images, 2), -1), torch.zeros(images, dtype=torch.int64)))


def test_matches_torchvision(ops):
    torchvision = cases.torchvision()
    boxes, scores, ids = cases.clustered(500), cases.random_scores(500), cases.class_ids(500, 4)
    for threshold in THRESHOLDS:
        assert_same(ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
        expected = torchvision.ops.batched_nms(boxes, scores, ids, threshold)
        assert_same(ops.batched_nms(boxes, scores, ids, threshold), expected)


@pytest.mark.parametrize("path", cases.golden("nms_*.npz"))
def test_golden(ops, path):
    case = cases.load_golden(path)
    assert_same(ops.nms(case["boxes"], case["scores"], case["iou_threshold"]), case["keep"])


@given(st.integers(0, 320), st.integers(0, 10**6), st.sampled_from(sorted(cases.BOXES)), st.sampled_from(THRESHOLDS))
def test_keeps_what_nothing_kept_overlaps(ops, n, seed, kind, threshold):
    """The definition as one statement: kept boxes do not suppress each other, and every other box has a kept rival."""
    boxes, scores, ids = cases.BOXES[kind](n, seed), cases.odd_scores(n, seed), cases.class_ids(n, 3, seed)
    keep = ops.batched_nms(boxes, scores, ids, threshold)
    rank = torch.empty(n, dtype=torch.int64)
    order = sorted(range(n), key=lambda i: (bool(scores[i].isnan()), 0 if scores[i].isnan() else -float(scores[i]), i))
    rank[torch.tensor(order, dtype=torch.int64)] = torch.arange(n)
    assert (rank[keep].diff() > 0).all()
    over = (reference.box_iou(boxes, boxes) > torch.tensor(threshold)) & (ids[:, None] == ids) & (rank[:, None] < rank)
    suppressed = over[keep].any(dim=0)
    kept = torch.zeros(n, dtype=torch.bool).scatter(0, keep, True)
    assert torch.equal(kept, ~suppressed)


@given(st.integers(1, 300), st.integers(0, 10**6), st.integers(-12, 12))
def test_scale_and_order_do_not_matter(ops, n, seed, exponent):
    boxes, scores = cases.clustered(n, seed), torch.randperm(n, generator=cases.generator(seed)).float()
    keep = ops.nms(boxes, scores, 0.4)
    assert_same(ops.nms(boxes * 2.0**exponent, scores, 0.4), keep)  # a power of two rounds nothing
    shuffle = torch.randperm(n, generator=cases.generator(seed + 1))
    assert_same(shuffle[ops.nms(boxes[shuffle], scores[shuffle], 0.4)], keep)


@given(st.integers(1, 5), st.integers(0, 60), st.integers(0, 10**6))
def test_batch_is_its_images(ops, images, n, seed):
    boxes = cases.clustered(images * n, seed).view(images, n, 4)
    scores = cases.odd_scores(images * n, seed).view(images, n)
    keep, counts = ops.nms_padded(boxes, scores, 0.4)
    for i in range(images):
        expected = ops.nms(boxes[i], scores[i], 0.4)
        assert_same(keep[i, : counts[i]], expected)
        assert (keep[i, counts[i] :] == -1).all()


BOXES, SCORES, IDS = cases.random_boxes(3), cases.random_scores(3), torch.zeros(3, dtype=torch.int64)
BAD = [
    ((BOXES[:, :3], SCORES, 0.5), r"boxes: expected shape \[N, 4\], got \[3, 3\]"),
    ((BOXES[None], SCORES, 0.5), r"boxes: expected shape \[N, 4\], got \[1, 3, 4\]"),
    ((torch.tensor(1.0), SCORES, 0.5), r"boxes: expected shape \[N, 4\], got \[\]"),
    ((BOXES, SCORES[:2], 0.5), r"scores: expected shape \[3\], got \[2\]"),
    ((BOXES.long(), SCORES, 0.5), "boxes: expected a floating-point dtype, got torch.int64"),
    ((BOXES, SCORES > 0, 0.5), "scores: expected a floating-point dtype, got torch.bool"),
    ((BOXES.to(torch.complex64), SCORES, 0.5), "boxes: expected a floating-point dtype, got torch.complex64"),
    ((BOXES, SCORES.to("meta"), 0.5), r"scores: expected device \S+, got meta"),
    ((BOXES, SCORES, -0.1), "iou_threshold: expected a number between 0 and 1, got -0.1"),
    ((BOXES, SCORES, 1.5), "iou_threshold: expected a number between 0 and 1, got 1.5"),
    ((BOXES, SCORES, INF), "iou_threshold: expected a number between 0 and 1, got inf"),
    ((BOXES, SCORES, NAN), "iou_threshold: expected a number between 0 and 1, got nan"),
]


@pytest.mark.parametrize(("args", "message"), BAD)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.nms(*args)
    boxes, scores, threshold = args
    with pytest.raises(ValueError, match=message):
        ops.batched_nms(boxes, scores, IDS, threshold)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (IDS[:2], r"idxs: expected shape \[3\], got \[2\]"),
        (IDS.float(), "idxs: expected an integer dtype, got torch.float32"),
        (IDS > 0, "idxs: expected an integer dtype, got torch.bool"),
        (IDS.to("meta"), r"idxs: expected device \S+, got meta"),
    ],
)
def test_bad_ids(ops, ids, message):
    with pytest.raises(ValueError, match=message):
        ops.batched_nms(BOXES, SCORES, ids, 0.5)
    with pytest.raises(ValueError, match=message.replace("idxs", "class_ids").replace("[", "[1, ")):
        ops.nms_padded(BOXES[None], SCORES[None], 0.5, ids[None])


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((BOXES, SCORES, 0.5), {}, r"boxes: expected shape \[B, N, 4\], got \[3, 4\]"),
        ((BOXES[None], SCORES, 0.5), {}, r"scores: expected shape \[1, 3\], got \[3\]"),
        ((BOXES[None], SCORES[None], 2), {}, "iou_threshold: expected a number between 0 and 1, got 2"),
        ((BOXES[None], SCORES[None], 0.5), {"score_threshold": NAN}, "score_threshold: expected a number, got nan"),
        (
            (BOXES[None], SCORES[None], 0.5),
            {"max_output": -1},
            "max_output: expected a number from 0 to 2147483647, got -1",
        ),
    ],
)
def test_bad_padded_input(ops, args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ops.nms_padded(*args, **kwargs)


def test_too_much_output_raises(ops):
    with pytest.raises(ValueError, match="max_output: expected a number from 0 to 2147483647"):
        ops.nms_padded(BOXES[None], SCORES[None], 0.5, max_output=2**62)
