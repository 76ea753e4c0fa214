"""multibox_detection."""

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


@pytest.mark.parametrize("args", cases.prediction_cases())
def test_parity(other, simd_path, args):
    for thresholds in ((0.5, 0.01), (0.0, 0.3), (0.7, 0.999), (1.0, -INF), (0.3, INF)):
        expected = cases.reference_answer("multibox_detection", *args, *thresholds)
        assert_same(other.multibox_detection(*args, *thresholds), expected, thresholds)


@pytest.mark.parametrize("args", cases.prediction_cases())
def test_oracle(ops, args):
    # A prefix of the anchors: the oracle is slow.
    probs, offsets, anchors = args
    probs, anchors = probs[..., :60], anchors.reshape(-1, 4)[:60]
    offsets = offsets.unflatten(1, (-1, 4))[:, :60]
    boxes = tinyssd_ops.decode_boxes(anchors, offsets)
    for thresholds in ((0.5, 0.01), (0.2, 0.4)):
        result = ops.multibox_detection(probs, offsets.flatten(1), anchors[None], *thresholds)
        assert result.shape == (len(probs), len(anchors), 6)
        for i in range(len(probs)):
            assert_same(result[i], oracle.multibox_detection(probs[i], boxes[i], *thresholds), thresholds)


def test_by_hand(ops):
    # Anchors 0 to 2 lie on each other, of classes 1, 2, 1; anchor 3 is background; anchor 4 is unsure.
    anchors = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0.9], [5, 5, 6, 6], [8, 8, 9, 9]])
    probs = torch.tensor([[[0.1, 0.0, 0.3, 0.9, 0.25], [0.8, 0.05, 0.7, 0.1, 0.25], [0.1, 0.95, 0.0, 0.0, 0.375]]])
    result = ops.multibox_detection(probs, torch.zeros(1, 20), anchors[None], 0.5, 0.5)
    # Kept by falling confidence, then suppressed, then background. Below 0.5: class 0, one minus the confidence.
    expected = [(2.0, 0.95, 1), (0.0, 0.625, 4), (0.0, 0.8, 0), (0.0, 0.7, 2), (0.0, 0.9, 3)]
    rows = [torch.cat((torch.tensor([class_id, confidence]), anchors[a])) for class_id, confidence, a in expected]
    torch.testing.assert_close(result[0], torch.stack(rows))


@pytest.mark.parametrize("dtype", [torch.float64, *cases.HALVES])
def test_dtypes(ops, dtype):
    args = [t.to(dtype) for t in cases.predictions()]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = reference.multibox_detection(*(t.to(wide) for t in args))
    assert expected.dtype == wide
    assert_same(ops.multibox_detection(*args), expected)
    assert_same(ops.multibox_detection(args[0].to(wide), *args[1:]), expected)


def test_layouts(ops):
    probs, offsets, anchors = cases.predictions()
    expected = ops.multibox_detection(probs, offsets, anchors)
    # What a model has: [B, A, C] seen as [B, C, A].
    assert_same(ops.multibox_detection(probs.mT.contiguous().mT, offsets, anchors), expected)
    assert_same(ops.multibox_detection(probs, offsets.T.contiguous().T, anchors.mT.contiguous().mT), expected)
    assert_same(ops.multibox_detection(probs, offsets, anchors[0]), expected)


@pytest.mark.parametrize("path", cases.golden("detection_*.npz"))
def test_golden(ops, path):
    case = cases.load_golden(path)
    names = ("cls_probs", "offset_preds", "anchors", "nms_threshold", "pos_threshold")
    result = ops.multibox_detection(*(case[name] for name in names))
    torch.testing.assert_close(result, case["output"], rtol=1e-5, atol=1e-6)


@given(st.integers(1, 4), st.integers(1, 300), st.integers(0, 10**6))
def test_invariants(ops, num_classes, num_anchors, seed):
    probs, offsets, anchors = cases.predictions(2, num_classes, num_anchors, seed)
    result = ops.multibox_detection(probs, offsets, anchors, 0.4, 0.0)
    boxes = tinyssd_ops.decode_boxes(anchors, offsets.view(2, -1, 4))
    for i in range(2):
        # Every anchor has its row: the boxes and confidences are a permutation.
        rows = torch.cat((probs[i].amax(dim=0)[:, None], boxes[i]), dim=1).tolist()
        assert sorted(result[i, :, 1:].tolist()) == sorted(rows)
        kept = result[i][result[i, :, 0] > 0]
        assert (kept[:, 1].diff() <= 0).all()
        assert (result[i, len(kept) :, 0] == 0).all()
        assert not (reference.box_iou(kept[:, 2:], kept[:, 2:]).triu(1) > torch.tensor(0.4)).any()


PROBS, OFFSETS, ANCHORS = cases.predictions(2, 3, 5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((PROBS[0], OFFSETS, ANCHORS), r"cls_probs: expected shape \[B, C, A\], got \[3, 5\]"),
        ((PROBS[:, :0], OFFSETS, ANCHORS), "cls_probs: expected at least 1 class, the background, got 0"),
        ((PROBS, OFFSETS[:, :19], ANCHORS), r"offset_preds: expected shape \[2, 20\], got \[2, 19\]"),
        ((PROBS, OFFSETS[:1], ANCHORS), r"offset_preds: expected shape \[2, 20\], got \[1, 20\]"),
        ((PROBS, OFFSETS.view(2, 5, 4), ANCHORS), r"offset_preds: expected shape \[2, 20\], got \[2, 5, 4\]"),
        ((PROBS, OFFSETS, ANCHORS[:, :4]), r"anchors: expected shape \[1, 5, 4\], got \[1, 4, 4\]"),
        ((PROBS, OFFSETS, ANCHORS.expand(2, -1, -1)), r"anchors: expected shape \[1, 5, 4\], got \[2, 5, 4\]"),
        ((PROBS, OFFSETS, ANCHORS[0, :, :3]), r"anchors: expected shape \[5, 4\], got \[5, 3\]"),
        ((PROBS.long(), OFFSETS, ANCHORS), "cls_probs: expected a floating-point dtype, got torch.int64"),
        ((PROBS, OFFSETS > 0, ANCHORS), "offset_preds: expected a floating-point dtype, got torch.bool"),
        ((PROBS, OFFSETS, ANCHORS.int()), "anchors: expected a floating-point dtype, got torch.int32"),
        ((PROBS, OFFSETS.to("meta"), ANCHORS), r"offset_preds: expected device \S+, got meta"),
        ((PROBS, OFFSETS, ANCHORS.to("meta")), r"anchors: expected device \S+, got meta"),
        ((PROBS, OFFSETS, ANCHORS, NAN), "nms_threshold: expected a number between 0 and 1, got nan"),
        ((PROBS, OFFSETS, ANCHORS, -1), "nms_threshold: expected a number between 0 and 1, got -1"),
    ],
)
def test_bad_input(ops, args, message):
    """Of the arguments that detect shares: it says the same."""
    for op in (ops.multibox_detection, ops.detect):
        with pytest.raises(ValueError, match=message):
            op(*args)


def test_bad_pos_threshold(ops):
    with pytest.raises(ValueError, match="pos_threshold: expected a number, got nan"):
        ops.multibox_detection(PROBS, OFFSETS, ANCHORS, 0.5, NAN)
