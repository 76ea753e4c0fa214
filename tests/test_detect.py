"""detect. The bad inputs that it shares with multibox_detection are tested with that."""

from __future__ import annotations

import cases
import oracle
import pytest
import torch
from cases import INF, NAN, assert_same
from hypothesis import given
from hypothesis import strategies as st

import tinyssd_ops
from tinyssd_ops import reference

SETTINGS = [(0.5, 0.01, 100), (0.0, 0.3, 5), (0.7, 0.26, 1000), (1.0, -INF, 50), (0.3, INF, 3), (0.4, 0.2, 0)]


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("args", cases.prediction_cases())
def test_parity(other, simd_path, args, class_agnostic):
    for settings in SETTINGS:
        expected = cases.reference_answer("detect", *args, *settings, class_agnostic)
        assert_same(other.detect(*args, *settings, class_agnostic), expected, settings)


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("args", cases.prediction_cases())
def test_oracle(ops, args, class_agnostic):
    # A prefix of the anchors and classes: the oracle is slow.
    probs, offsets, anchors = args
    probs, anchors = probs[:, :4, :40], anchors.reshape(-1, 4)[:40]
    offsets = offsets.unflatten(1, (-1, 4))[:, :40]
    boxes = tinyssd_ops.decode_boxes(anchors, offsets)
    for settings in ((0.5, 0.01, 30), (0.2, 0.26, 200)):
        rows, counts = ops.detect(probs, offsets.flatten(1), anchors, *settings, class_agnostic)
        assert rows.shape == (len(probs), settings[2], 6)
        for i in range(len(probs)):
            expected, count = oracle.detect(probs[i], boxes[i], *settings, class_agnostic)
            assert_same((rows[i], counts[i]), (expected, torch.tensor(count)), settings)


def test_by_hand(ops):
    anchors = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [5, 5, 6, 6]])
    probs = torch.tensor([[[0.125, 0.25, 0.75], [0.5, 0.625, 0.125], [0.375, 0.125, 0.125]]])
    rows, counts = ops.detect(probs, torch.zeros(1, 12), anchors[None], 0.5, 0.125, 4)
    # Class 1: anchor 1 suppresses anchor 0. Class 2: anchor 0 suppresses anchor 1. Equal scores: by anchor, then class.
    expected = [(1, 0.625, 1), (2, 0.375, 0), (1, 0.125, 2), (2, 0.125, 2)]
    assert [(int(r[0]), float(r[1])) for r in rows[0]] == [(c, s) for c, s, _ in expected]
    assert counts.tolist() == [4]
    torch.testing.assert_close(rows[0, :, 2:], anchors[[a for _, _, a in expected]])
    # Class-agnostic: anchor 1 suppresses anchor 0; the rest is padding.
    rows, counts = ops.detect(probs, torch.zeros(1, 12), anchors[None], 0.5, 0.125, 4, True)
    assert rows[0, :, :2].tolist() == [[1, 0.625], [1, 0.125], [-1, 0], [-1, 0]]
    assert counts.tolist() == [2]
    assert not rows[0, 2:, 2:].any()


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    args = [t.to(dtype) for t in cases.predictions()]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = reference.detect(*(t.to(wide) for t in args))
    assert expected[0].dtype == wide
    assert_same(ops.detect(*args), expected)
    assert_same(ops.detect(*args[:2], args[2].to(wide)), expected)


def test_layouts(ops):
    probs, offsets, anchors = cases.predictions()
    expected = ops.detect(probs, offsets, anchors)
    assert_same(ops.detect(probs.mT.contiguous().mT, offsets, anchors[0]), expected)
    assert_same(ops.detect(probs, offsets.T.contiguous().T, anchors.mT.contiguous().mT), expected)


@given(st.integers(1, 5), st.integers(0, 120), st.integers(0, 10**6), st.booleans())
def test_invariants(ops, num_classes, num_anchors, seed, class_agnostic):
    args = cases.predictions(2, num_classes, num_anchors, seed)
    rows, counts = ops.detect(*args, 0.4, 0.2, 20, class_agnostic)
    for image, count in zip(rows, counts.tolist(), strict=True):
        found, padding = image[:count], image[count:]
        assert (found[:, 0] >= 1).all()
        assert (found[:, 0] < num_classes).all()
        assert (found[:, 1] >= torch.tensor(0.2)).all()
        assert (found[:, 1].diff() <= 0).all()
        assert (padding[:, 0] == -1).all()
        assert not padding[:, 1:].any()
        over = reference.box_iou(found[:, 2:], found[:, 2:]).triu(1) > torch.tensor(0.4)
        assert not (over & (class_agnostic | (found[:, None, 0] == found[:, 0]))).any()
    # Fewer rows are the first of more.
    fewer, fewer_counts = ops.detect(*args, 0.4, 0.2, 3, class_agnostic)
    assert_same((fewer, fewer_counts), (rows[:, :3], counts.clamp(max=3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0.5, NAN, 10), "score_threshold: expected a number, got nan"),
        ((0.5, 0.5, -1), "max_detections: expected a number from 0 to 2147483647, got -1"),
        ((1.5, 0.5, 10), "nms_threshold: expected a number between 0 and 1, got 1.5"),
    ],
)
def test_bad_input(ops, settings, message):
    with pytest.raises(ValueError, match=message):
        ops.detect(*cases.predictions(2, 3, 5), *settings)


def test_too_many_detections_raise(ops):
    with pytest.raises(ValueError, match="max_detections: expected a number from 0 to 2147483647"):
        ops.detect(*cases.predictions(2, 3, 5), max_detections=2**62)
