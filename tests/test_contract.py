"""What every op owes PyTorch and its callers, whichever op it is: one test a promise, over the same calls."""

from __future__ import annotations

import copy

import cases
import pytest
import torch
import torch._dynamo.testing
from cases import assert_same
from cases_assigners import detection_head, strides_of
from torch.utils._pytree import tree_leaves, tree_map_only

import tinyssd_ops
from tinyssd_ops import reference
from tinyssd_ops._iou import KINDS

CALLS = pytest.mark.parametrize(("op", "args", "kwargs"), cases.CALLS)
FIXED_SHAPE_CALLS = pytest.mark.parametrize(("op", "args", "kwargs"), cases.FIXED_SHAPE_CALLS)


def _map_tensors(function, tree):
    return tree_map_only(torch.Tensor, function, tree)


def _public(op):
    """The public function; that of the family takes its kind by name, and the ops by number."""
    function = getattr(tinyssd_ops, op)
    if op != "iou_pairs":
        return function
    return lambda one, two, kind, aligned, union_eps, eps: function(one, two, KINDS[kind], aligned, eps, union_eps)


@CALLS
def test_public_function_is_the_backend(ops, op, args, kwargs):
    assert_same(_public(op)(*args, **kwargs), getattr(ops, op)(*args, **kwargs))


@CALLS
def test_opcheck(native, op, args, kwargs):
    args, kwargs = _map_tensors(lambda t: t.to(native.device), (args, kwargs))
    results = torch.library.opcheck(getattr(torch.ops.tinyssd_ops, op).default, args, kwargs)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("op", ["box_iou", "iou_pairs", "multibox_target", "multibox_detection", "detect"])
def test_opcheck_with_gradients(native, op):
    args, kwargs = cases.sample_calls()[op][0]
    args = _map_tensors(lambda t: t.to(native.device).requires_grad_(), args)
    results = torch.library.opcheck(getattr(torch.ops.tinyssd_ops, op).default, args, kwargs)
    assert set(results.values()) == {"SUCCESS"}


@CALLS
def test_inputs_are_not_modified(ops, op, args, kwargs):
    before = copy.deepcopy((args, kwargs))
    getattr(ops, op)(*args, **kwargs)
    for leaf, old in zip(tree_leaves((args, kwargs)), tree_leaves(before), strict=True):
        assert_same(torch.as_tensor(leaf), torch.as_tensor(old))


@CALLS
def test_only_the_iou_family_differentiates(ops, op, args, kwargs):
    args = _map_tensors(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t, args)
    for result in tree_leaves(getattr(ops, op)(*args, **kwargs)):
        assert result.requires_grad == (op in ("box_iou", "iou_pairs"))


@FIXED_SHAPE_CALLS
def test_compile(native, op, args, kwargs):
    args, kwargs = _map_tensors(lambda t: t.to(native.device), (args, kwargs))
    function = _public(op)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same(compiled(*args, **kwargs), function(*args, **kwargs))


def test_compile_gradient_with_inductor(native):
    boxes1, boxes2 = (cases.random_boxes(9, seed).to(native.device).requires_grad_() for seed in (1, 2))
    loss = lambda a, b: (1 - tinyssd_ops.box_iou(a, b)).square().mean()  # noqa: E731
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    expected = torch.autograd.grad(loss(boxes1, boxes2), (boxes1, boxes2))
    torch.testing.assert_close(torch.autograd.grad(compiled(boxes1, boxes2), (boxes1, boxes2)), expected)


def test_compile_with_dynamic_shapes(native):
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(tinyssd_ops.multibox_detection, fullgraph=True, dynamic=True, backend=graphs)
    frames = []
    for num_images, num_anchors in ((2, 20), (3, 31), (5, 40)):
        args = _map_tensors(lambda t: t.to(native.device), cases.predictions(num_images, 3, num_anchors))
        assert_same(compiled(*args), tinyssd_ops.multibox_detection(*args))
        frames.append(graphs.frame_count)
    assert frames[-1] == frames[0]  # other sizes compile nothing again


@pytest.mark.parametrize("op", ["box_iou", "assign_anchors", "multibox_target"])
def test_compile_reference(op):
    args, kwargs = cases.sample_calls()[op][0]
    torch._dynamo.reset()
    compiled = torch.compile(getattr(reference, op), fullgraph=True, backend="aot_eager")
    assert_same(compiled(*args, **kwargs), getattr(reference, op)(*args, **kwargs))


def _stacked(args):
    """Three variants of the tensors, and the same in one tensor with the mapped dimension in the middle."""
    variants = [_map_tensors(lambda t, k=k: t.roll(k, dims=-2) if t.dim() > 1 else t.roll(k), args) for k in range(3)]
    stack = [
        torch.stack(parts, dim=1) if isinstance(parts[0], torch.Tensor) else parts[0]
        for parts in zip(*variants, strict=True)
    ]
    return variants, stack


def _check_vmap(function, variants, stack, in_dims):
    mapped = torch.vmap(function, in_dims=in_dims)(*stack)
    expected = [function(*variant) for variant in variants]
    for part, parts in zip(tree_leaves(mapped), zip(*map(tree_leaves, expected), strict=True), strict=True):
        assert_same(part, torch.stack(parts))


@FIXED_SHAPE_CALLS
def test_vmap_of_every_argument(native, op, args, kwargs):
    args, kwargs = _map_tensors(lambda t: t.to(native.device), (args, kwargs))
    variants, stack = _stacked(args)
    in_dims = tuple(1 if isinstance(arg, torch.Tensor) else None for arg in args)
    _check_vmap(lambda *xs: _public(op)(*xs, **kwargs), variants, stack, in_dims)


@FIXED_SHAPE_CALLS
def test_vmap_of_one_argument(native, op, args, kwargs):
    args, kwargs = _map_tensors(lambda t: t.to(native.device), (args, kwargs))
    variants, stack = _stacked(args)
    for i, arg in enumerate(args):
        if not isinstance(arg, torch.Tensor):
            continue
        mixed = [(*args[:i], variant[i], *args[i + 1 :]) for variant in variants]
        in_dims = tuple(1 if j == i else None for j in range(len(args)))
        inputs = (*args[:i], stack[i], *args[i + 1 :])
        _check_vmap(lambda *xs: _public(op)(*xs, **kwargs), mixed, inputs, in_dims)


def test_vmap_of_vmap(native):
    boxes, scores = cases.clustered(120).view(2, 3, 2, 10, 4), cases.random_scores(120).view(2, 3, 2, 10)
    boxes, scores = boxes.to(native.device), scores.to(native.device)
    function = lambda b, s: tinyssd_ops.nms_padded(b, s, 0.3)  # noqa: E731
    keep, counts = torch.vmap(torch.vmap(function))(boxes, scores)
    expected = function(boxes.flatten(0, 2), scores.flatten(0, 2))
    assert_same((keep.flatten(0, 2), counts.flatten(0, 2)), expected)


def test_gradients_through_torch_func():
    boxes1, boxes2 = cases.random_boxes(6, 1).view(2, 3, 4), cases.random_boxes(4, 2)
    total = lambda a: tinyssd_ops.box_iou(a, boxes2).square().sum()  # noqa: E731
    leaf = boxes1.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(total)(boxes1), expected)
    torch.testing.assert_close(torch.vmap(torch.func.grad(total))(boxes1), expected)


@CALLS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(ops, op, args, kwargs, dtype):
    """Autocast leaves the ops alone: half-precision inputs are computed in float32 as they are."""
    halves = _map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, args)
    for inputs in (args, halves):
        with torch.autocast(ops.device, dtype=dtype):
            result = getattr(ops, op)(*inputs, **kwargs)
        assert_same(result, getattr(ops, op)(*inputs, **kwargs))
        floats = [leaf.dtype for leaf in tree_leaves(result) if leaf.is_floating_point()]
        assert set(floats) <= {torch.float32, torch.float64}


@FIXED_SHAPE_CALLS
def test_meta(native, op, args, kwargs):
    expected = _public(op)(*args, **kwargs)
    args, kwargs = _map_tensors(lambda t: t.to("meta"), (args, kwargs))
    result = _public(op)(*args, **kwargs)
    for meta, real in zip(tree_leaves(result), tree_leaves(expected), strict=True):
        assert (meta.device.type, meta.shape, meta.dtype) == ("meta", real.shape, real.dtype)
        assert meta.stride() == real.stride()


@CALLS
def test_inference_mode(ops, op, args, kwargs):
    with torch.inference_mode():
        result = getattr(ops, op)(*args, **kwargs)
    assert_same(_map_tensors(torch.clone, result), getattr(ops, op)(*args, **kwargs))


def _large_calls():
    """Enough work for every op to go parallel, over images, rows and classes."""
    anchors, labels = cases.clustered(600, 1), cases.labels(8, 20)
    head = detection_head(900, 80)
    boxes, scores, ids = cases.clustered(2400, 2), cases.repeated_scores(2400), cases.class_ids(2400, 9)
    predictions = cases.predictions(6, 4, 300)
    return {
        "box_iou": (anchors, boxes),
        "assign_anchors": (anchors, labels[..., 1:], labels[..., 0] >= 0),
        "multibox_target": (anchors, labels),
        "nms": (boxes, scores, 0.5),
        "batched_nms": (boxes, scores, ids, 0.5),
        "nms_padded": (boxes.view(6, 400, 4), scores.view(6, 400), 0.5, ids.view(6, 400)),
        "soft_nms": (boxes.view(6, 400, 4), scores.view(6, 400), True, 0.3, 0.5, ids.view(6, 400), 0.1, 40),
        "multibox_detection": predictions,
        "detect": predictions,
        "assign_threshold": (anchors, labels[..., 1:], labels[..., 0] >= 0, labels[..., 0] == 1, 0.5, 0.3, True, True),
        "assign_atss": (anchors, [400, 150, 50], labels[..., 1:], labels[..., 0] >= 0, labels[..., 0] == 1),
        "assign_simota": (*head[:3], strides_of(900), *head[3:]),
        "assign_task_aligned": head,
        "assignment_target": (torch.arange(8 * 600).view(8, 600) % 22 - 2, ids[:160].view(8, 20), labels[..., 1:]),
    }


@pytest.mark.parametrize("op", _large_calls())
def test_threads_do_not_change_results(ops, op):
    args = _large_calls()[op]
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(getattr(ops, op)(*args))
    finally:
        torch.set_num_threads(before)
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


@pytest.mark.parametrize("op", _large_calls())
def test_results_are_those_of_the_reference(other, simd_path, op):
    args = _large_calls()[op]
    assert_same(getattr(other, op)(*args), getattr(reference, op)(*args))


def test_vmap_over_nothing():
    if tinyssd_ops.info()["backends"]["cpu"]["backend"] != "native":
        pytest.skip("vmap needs the kernels")
    boxes, scores, labels = torch.rand(0, 2, 5, 4), torch.rand(2, 5), torch.rand(3, 2, 5)
    keep, counts = torch.vmap(lambda b: tinyssd_ops.nms_padded(b, scores, 0.5))(boxes)
    assert keep.shape == (0, 2, 5)
    assert counts.shape == (0, 2)
    classes = torch.vmap(lambda a: tinyssd_ops.multibox_target(a, labels)[2])(torch.rand(0, 7, 4))
    assert classes.shape == (0, 3, 7)


CONSTANTS = ["multibox_target", "multibox_detection", "detect", "assign_threshold", "assign_task_aligned"]


@pytest.mark.parametrize("op", CONSTANTS)
def test_constants_inside_transforms(op):
    """Results without a gradient do not care how they are differentiated around."""
    args, kwargs = cases.sample_calls()[op][0]
    function = getattr(tinyssd_ops, op)
    expected = function(*args, **kwargs)

    def loss(x):
        return x.square().sum(), function(x, *args[1:], **kwargs)

    grad, result = torch.func.grad(loss, has_aux=True)(args[0])
    assert_same(grad, 2 * args[0])
    assert_same(result, expected)
    _, pull, result = torch.func.vjp(loss, args[0], has_aux=True)
    assert_same(pull(torch.tensor(1.0))[0], 2 * args[0])
    assert_same(result, expected)
    _, tangent, result = torch.func.jvp(loss, (args[0],), (args[0],), has_aux=True)
    torch.testing.assert_close(tangent, 2 * args[0].square().sum())
    assert_same(result, expected)
    if tinyssd_ops.info()["backends"]["cpu"]["backend"] == "native":
        grads, results = torch.vmap(torch.func.grad(loss, has_aux=True))(torch.stack((args[0], args[0])))
        assert_same(grads[1], 2 * args[0])
        assert_same(tree_map_only(torch.Tensor, lambda t: t[1], results), expected)
