"""Arguments of a wrong kind: one sentence for each, the same with and without kernels."""

from __future__ import annotations

import re
from fractions import Fraction

import cases
import numpy as np
import pytest
import torch
from cases import INF, assert_same

import tinyssd_ops

BOXES = cases.random_boxes(3)
NUMPY_BOOL = f"numpy.{np.bool_.__name__}"
TENSOR_ARGUMENTS = [
    ("box_iou", (BOXES, BOXES), "boxes1"),
    ("iou_pairs", (BOXES, BOXES), "boxes1"),
    ("assign_anchors", (BOXES, BOXES), "anchors"),
    ("multibox_target", (BOXES, torch.ones(1, 2, 5)), "anchors"),
    ("nms", (BOXES, BOXES[:, 0], 0.5), "boxes"),
    ("batched_nms", (BOXES, BOXES[:, 0], torch.arange(3), 0.5), "boxes"),
    ("nms_padded", (BOXES[None], BOXES[None, :, 0], 0.5), "boxes"),
    ("soft_nms", (BOXES[None], BOXES[None, :, 0]), "boxes"),
    ("multibox_detection", (torch.ones(1, 2, 3), torch.ones(1, 12), BOXES), "cls_probs"),
    ("detect", (torch.ones(1, 2, 3), torch.ones(1, 12), BOXES), "cls_probs"),
    ("encode_boxes", (BOXES, BOXES), "anchors"),
    ("decode_boxes", (BOXES, BOXES), "anchors"),
    ("corner_to_center", (BOXES,), "boxes"),
    ("center_to_corner", (BOXES,), "boxes"),
    ("clip_boxes", (BOXES,), "boxes"),
]


@pytest.mark.parametrize("reference_only", [False, True])
@pytest.mark.parametrize(("op", "args", "name"), TENSOR_ARGUMENTS)
def test_wrong_kinds_of_tensor(monkeypatch, op, args, name, reference_only):
    """One sentence, the same with and without kernels."""
    if reference_only:
        monkeypatch.setattr(tinyssd_ops.ops, "_NATIVE_DEVICES", frozenset())
    good = args[0]
    quantized = torch.quantize_per_tensor(good, 0.1, 0, torch.quint8)
    wrong = [
        (good.numpy(), "expected a torch.Tensor, got numpy.ndarray"),
        (None, "expected a torch.Tensor, got NoneType"),
        (0.5, "expected a torch.Tensor, got float"),
        (good.to_sparse(), "expected an ordinary, dense tensor, got a torch.sparse_coo one"),
        (good.to_mkldnn(), "expected an ordinary, dense tensor, got a torch._mkldnn one"),
        (quantized, "expected an ordinary, dense tensor, got a quantized one"),
        (torch.nested.nested_tensor([good[0]]), "expected an ordinary, dense tensor, got a nested one"),
    ]
    for value, message in wrong:
        with pytest.raises(TypeError) as caught:
            getattr(tinyssd_ops, op)(value, *args[1:])
        assert str(caught.value) == f"{name}: {message}"


@pytest.mark.parametrize("reference_only", [False, True])
@pytest.mark.parametrize(
    ("op", "args", "error", "message"),
    [
        ("nms", (BOXES, BOXES[:, 0], "a"), TypeError, "iou_threshold: expected a number, got str"),
        ("nms", (BOXES, BOXES[:, 0], None), TypeError, "iou_threshold: expected a number, got NoneType"),
        ("nms", (BOXES, BOXES[:, 0], 1j), TypeError, "iou_threshold: expected a number, got complex"),
        ("nms", (BOXES, BOXES[:, 0], np.True_), TypeError, f"iou_threshold: expected a number, got {NUMPY_BOOL}"),
        ("nms", (BOXES, BOXES[:, 0], 10**400), ValueError, "iou_threshold: expected a number, got one beyond float64"),
        ("nms", (BOXES, None, 0.5), TypeError, "scores: expected a torch.Tensor, got NoneType"),
        (
            "nms_padded",
            (BOXES[None], BOXES[None, :, 0], 0.5, None, None, 2**63),
            ValueError,
            "max_output: expected a number from 0 to 2147483647, got one beyond int64",
        ),
        (  # beyond what Python writes out
            "nms_padded",
            (BOXES[None], BOXES[None, :, 0], 0.5, None, None, 10**5000),
            ValueError,
            "max_output: expected a number from 0 to 2147483647, got one beyond int64",
        ),
        (
            "iou_pairs",
            (BOXES, BOXES, np.array(["iou", "giou"])),
            ValueError,
            "kind: expected one of iou, giou, diou, ciou, got array(['iou', 'giou'], dtype='<U4')",
        ),
        (
            "assign_atss",
            (BOXES, torch.tensor(3), BOXES),
            TypeError,
            "level_sizes: expected a list of whole numbers, got torch.Tensor",
        ),
        (
            "nms_padded",
            (BOXES[None], BOXES[None, :, 0], 0.5, None, None, 1.5),
            TypeError,
            "max_output: expected a whole number, got float",
        ),
        (
            "nms_padded",
            (BOXES[None], BOXES[None, :, 0], 0.5, 3),
            TypeError,
            "class_ids: expected a torch.Tensor, got int",
        ),
        ("decode_boxes", (BOXES, BOXES, 10, 5, "a"), TypeError, "max_growth: expected a number, got str"),
        ("decode_boxes", (BOXES, BOXES, 10, 5, 0), ValueError, "max_growth: expected a number above 0, got 0"),
        ("decode_boxes", (BOXES, BOXES, "10"), TypeError, "center_scale: expected a number, got str"),
        ("decode_boxes", (BOXES, BOXES, 10, 1j), TypeError, "size_scale: expected a number, got complex"),
        ("encode_boxes", (BOXES, BOXES, None), TypeError, "center_scale: expected a number, got NoneType"),
        ("encode_boxes", (BOXES, BOXES, 10, [5]), TypeError, "size_scale: expected a number, got list"),
        ("encode_boxes", (BOXES, BOXES, 10, 5, "a"), TypeError, "eps: expected a number, got str"),
        ("clip_boxes", (BOXES, "1"), TypeError, "width: expected a number, got str"),
        ("clip_boxes", (BOXES, 1, 10**400), ValueError, "height: expected a number, got one beyond float64"),
        (
            "multibox_prior",
            (2, 2, torch.tensor(0.5), [1]),
            TypeError,
            "sizes: expected a list of positive numbers, got torch.Tensor",
        ),
        ("multibox_prior", (2, 2, b"1", [1]), TypeError, "sizes: expected a list of positive numbers, got bytes"),
        ("multibox_prior", (2, 2, [1], [INF]), ValueError, "ratios: expected a list of positive numbers, got [inf]"),
        ("multibox_prior", (2.5, 2, [0.5], [1]), TypeError, "height: expected a whole number, got float"),
        ("multibox_prior", (2, 2, 0.5, [1]), TypeError, "sizes: expected a list of positive numbers, got float"),
        ("multibox_prior", (2, 2, ["a"], [1]), TypeError, "sizes: expected a number, got str"),
    ],
)
def test_wrong_kinds_of_number(monkeypatch, op, args, error, message, reference_only):
    if reference_only:
        monkeypatch.setattr(tinyssd_ops.ops, "_NATIVE_DEVICES", frozenset())
    with pytest.raises(error) as caught:
        getattr(tinyssd_ops, op)(*args)
    assert str(caught.value) == message


def test_wrong_dtype_of_anchors():
    for dtype in ("float32", np.float32, torch.int32):
        with pytest.raises(ValueError, match=re.escape(f"dtype: expected a floating-point dtype, got {dtype}")):
            tinyssd_ops.multibox_prior(2, 2, [0.5], [1], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex32, torch.complex64, torch.float8_e5m2])
def test_names_of_dtypes(ops, dtype):
    with pytest.raises(ValueError, match=f"^boxes1: expected a floating-point dtype, got {dtype}$"):
        ops.box_iou(torch.ones(2, 4).to(dtype), BOXES)


@pytest.mark.parametrize("threshold", [np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_numbers_of_other_types(ops, threshold):
    boxes, scores = cases.clustered(40), cases.random_scores(40)
    assert_same(tinyssd_ops.nms(boxes, scores, threshold), ops.nms(boxes, scores, 0.5))


def test_none_in_place_of_a_tensor(native):
    """The dispatcher hands a kernel None as an undefined tensor."""
    for op, args in (("box_iou", (None, BOXES)), ("assign_anchors", (BOXES, None)), ("detect", (None, BOXES, BOXES))):
        with pytest.raises(ValueError, match=r"^\w+: expected a torch.Tensor, got NoneType$"):
            getattr(torch.ops.tinyssd_ops, op)(*args)
