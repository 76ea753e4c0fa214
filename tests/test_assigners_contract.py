"""What test_contract.py asks of every op, where the assigners need more: any number of boxes, and wrong arguments."""

from __future__ import annotations

from fractions import Fraction

import cases
import numpy as np
import pytest
import torch
import torch._dynamo.testing
from cases import assert_same
from torch.utils._pytree import tree_map_only

import tinyssd_ops

ASSIGNERS = [name for name in cases.sample_calls() if name.startswith("assign")]


def calls_of_size(op, num_images, num_anchors, num_gt):
    """The arguments of an assigner, of the sizes asked for."""
    anchors, labels = cases.random_boxes(num_anchors, 1), cases.labels(num_images, num_gt, 2)
    gts, valid, ids = labels[..., 1:].contiguous(), labels[..., 0] >= 0, labels[..., 0].long()
    scores = torch.rand(num_images, num_anchors, 5, generator=cases.generator(3))
    head = scores, anchors.expand(num_images, -1, -1).contiguous(), anchors[:, :2].contiguous()
    return {
        "assign_anchors": (anchors, gts, valid),
        "assign_threshold": (anchors, gts, valid, ~valid),
        "assign_atss": (anchors, [num_anchors - 7, 7], gts, valid, ~valid),
        "assign_task_aligned": (*head, ids, gts, valid),
        "assign_simota": (*head, torch.full((num_anchors,), 0.1), ids, gts, valid),
        "assignment_target": (torch.zeros(num_images, num_anchors, dtype=torch.int64), ids, gts, anchors),
    }[op]


@pytest.mark.parametrize("op", ASSIGNERS)
def test_compile_with_any_number_of_boxes(native, op):
    """Pictures have as many boxes as they have: another number compiles nothing again."""
    function = getattr(tinyssd_ops, op)
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=graphs)
    frames = []
    for sizes in ((3, 70, 6), (3, 70, 8), (6, 70, 17), (7, 70, 40)):
        args = tree_map_only(torch.Tensor, lambda t: t.to(native.device), calls_of_size(op, *sizes))
        assert_same(compiled(*args), function(*args))
        frames.append(graphs.frame_count)
    assert frames[-1] == frames[0]


BOXES, SCORES = cases.random_boxes(3), torch.ones(1, 3, 2)
FIRST, LABELS = (SCORES, BOXES[None], BOXES[:, :2]), torch.zeros(1, 3, dtype=torch.int64)
TENSORS = {
    "assign_threshold": (BOXES, BOXES[None]),
    "assign_atss": (BOXES, [3], BOXES[None]),
    "assign_task_aligned": (*FIRST, LABELS, BOXES[None]),
    "assign_simota": (*FIRST, BOXES[:, 0], LABELS, BOXES[None]),
    "assignment_target": (LABELS, LABELS, BOXES[None]),
}
NONE = (None, None)


@pytest.fixture(params=[False, True], ids=["native", "reference"])
def any_backend(monkeypatch, request):
    """With and without kernels: the sentences are the same."""
    if request.param:
        monkeypatch.setattr(tinyssd_ops.ops, "_NATIVE_DEVICES", frozenset())


@pytest.mark.parametrize(
    ("op", "more", "error", "message"),
    [
        ("assign_threshold", (*NONE, "a"), TypeError, "high_threshold: expected a number, got str"),
        ("assign_threshold", (*NONE, 0.5, None), TypeError, "low_threshold: expected a number, got NoneType"),
        ("assign_threshold", (*NONE, 0.5, 0.4, 1), TypeError, "allow_low_quality: expected True or False, got int"),
        (
            "assign_threshold",
            (*NONE, 0.5, 0.4, True, 2),
            TypeError,
            "match_every_box: expected True or False, got int",
        ),
        ("assign_threshold", (3,), TypeError, "gt_valid: expected a torch.Tensor, got int"),
        ("assign_atss", (*NONE, 1.5), TypeError, "topk: expected a whole number, got float"),
        ("assign_atss", (*NONE, 65), ValueError, "topk: expected a number from 1 to 64, got 65"),
        ("assign_task_aligned", (*NONE, "3"), TypeError, "topk: expected a whole number, got str"),
        ("assign_task_aligned", (*NONE, 3, "a"), TypeError, "alpha: expected a number, got str"),
        ("assign_task_aligned", (*NONE, 3, 1, 1j), TypeError, "beta: expected a number, got complex"),
        ("assign_simota", (*NONE, 10**400), ValueError, "radius: expected a number, got one beyond float64"),
        ("assign_simota", (*NONE, 2.5, None), TypeError, "topk: expected a whole number, got NoneType"),
        ("assignment_target", (0.5,), TypeError, "anchors: expected a torch.Tensor, got float"),
    ],
)
def test_wrong_kinds_of_number(any_backend, op, more, error, message):
    with pytest.raises(error) as caught:
        getattr(tinyssd_ops, op)(*TENSORS[op], *more)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (3, "level_sizes: expected a list of whole numbers, got int"),
        ("3", "level_sizes: expected a list of whole numbers, got str"),
        (None, "level_sizes: expected a list of whole numbers, got NoneType"),
        ([3.0], "level_sizes: expected a whole number, got float"),
    ],
)
def test_wrong_level_sizes(any_backend, sizes, message):
    with pytest.raises(TypeError) as caught:
        tinyssd_ops.assign_atss(BOXES, sizes, BOXES)
    assert str(caught.value) == message


@pytest.mark.parametrize("op", TENSORS)
def test_wrong_kinds_of_tensor(any_backend, op):
    good = TENSORS[op][0]
    for value, message in (
        (good.numpy(), "expected a torch.Tensor, got numpy.ndarray"),
        (None, "expected a torch.Tensor, got NoneType"),
        (good.to_sparse(), "expected an ordinary, dense tensor, got a torch.sparse_coo one"),
    ):
        with pytest.raises(TypeError) as caught:
            getattr(tinyssd_ops, op)(value, *TENSORS[op][1:])
        assert str(caught.value).partition(": ")[2] == message


def test_numbers_of_other_types(any_backend):
    boxes = cases.clustered(40)
    expected = tinyssd_ops.assign_threshold(boxes, boxes[:9], None, None, 0.5, 0.25)
    for low in (Fraction(1, 4), np.float32(0.25)):
        assert_same(tinyssd_ops.assign_threshold(boxes, boxes[:9], None, None, 0.5, low), expected)
    expected = tinyssd_ops.assign_atss(boxes, [30, 10], boxes[:9], topk=3)
    for sizes in (np.array([30, 10]), torch.tensor([30, 10]).tolist(), (30, 10)):
        assert_same(tinyssd_ops.assign_atss(boxes, sizes, boxes[:9], topk=np.int32(3)), expected)
