"""What only a GPU can show: CUDA graphs, torch.compile with graphs, streams, waits, devices, half a million boxes."""

from __future__ import annotations

import copy

import cases
import pytest
import torch
import torch._dynamo
import torch._dynamo.utils
from cases import assert_same
from torch.utils._pytree import tree_leaves, tree_map_only

import tinyssd_ops

if not torch.cuda.is_available():
    pytest.skip("no GPU that this torch can use", allow_module_level=True)
if tinyssd_ops.info()["backends"]["cuda"]["backend"] != "native":
    why = tinyssd_ops.info()["backends"]["cuda"]["why"]
    pytest.skip(f"no native kernels for cuda: {why}", allow_module_level=True)

CALLS = pytest.mark.parametrize(("op", "args", "kwargs"), cases.CALLS)
FIXED_SHAPE_CALLS = pytest.mark.parametrize(("op", "args", "kwargs"), cases.FIXED_SHAPE_CALLS)
FIXED_SHAPE_OPS = pytest.mark.parametrize("op", [op for op in cases.sample_calls() if op not in cases.RAGGED])
RAGGED_OPS = pytest.mark.parametrize("op", cases.RAGGED)


def _map(function, tree):
    return tree_map_only(torch.Tensor, function, tree)


def _to(device, tree):
    return _map(lambda t: t.to(device), tree)


def _cpu(tree):
    return _to("cpu", tree)


def _rolled(args, k):
    """Other inputs of the same shapes: another k, other inputs."""
    return _map(lambda t: t.roll(k, dims=-2) if t.dim() > 1 else t.roll(k), args)


def _copy_into(static, new):
    for target, source in zip(tree_leaves(static), tree_leaves(new), strict=True):
        if isinstance(target, torch.Tensor):
            target.copy_(source)


def _capture(function):
    """A graph of the function's work, and what the call returned."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph, result


# --- CUDA graphs -----------------------------------------------------------------------------------------------------


@FIXED_SHAPE_CALLS
def test_replays_with_new_inputs(op, args, kwargs):
    function = getattr(tinyssd_ops, op)
    static = _to("cuda", (args, kwargs))
    graph, result = _capture(lambda: function(*static[0], **static[1]))
    for k in (0, 1, 2, 0):
        new = _rolled((args, kwargs), k)
        _copy_into(static, new)
        # A replay must write all of its outputs: what is not written stays garbage.
        _map(lambda t: t.fill_(77), result)
        graph.replay()
        assert_same(_cpu(result), function(*new[0], **new[1]), k)


@FIXED_SHAPE_CALLS
def test_replays_side_by_side(op, args, kwargs):
    """Two captures share no scratch memory: replays in either order, and both at once."""
    function = getattr(tinyssd_ops, op)
    static = [_to("cuda", _rolled((args, kwargs), k)) for k in (1, 2)]
    captured = [_capture(lambda s=s: function(*s[0], **s[1])) for s in static]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(3):
        for (graph, _), stream in zip(captured, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    for (_, result), (own_args, own_kwargs) in zip(captured, static, strict=True):
        assert_same(_cpu(result), function(*_cpu(own_args), **_cpu(own_kwargs)))


def test_captured_gradient_of_box_iou():
    boxes1, boxes2 = (cases.random_boxes(40, seed).cuda().requires_grad_() for seed in (1, 2))

    def gradients():
        return torch.autograd.grad(tinyssd_ops.box_iou(boxes1, boxes2).square().sum(), (boxes1, boxes2))

    graph, result = _capture(gradients)
    with torch.no_grad():
        boxes1.copy_(cases.random_boxes(40, 3))
    graph.replay()
    assert_same(_cpu(result), _cpu(gradients()))


@FIXED_SHAPE_OPS
def test_compiled_with_graphs(op):
    """``torch.compile(mode="reduce-overhead")`` puts the op in a CUDA graph: nothing was left out of one."""
    args, kwargs = cases.sample_calls()[op][0]
    function = getattr(tinyssd_ops, op)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(lambda *a: function(*a, **kwargs), fullgraph=True, mode="reduce-overhead")
    for k in (0, 1, 2, 3):
        new = _rolled(args, k)
        torch.compiler.cudagraph_mark_step_begin()
        result = _map(torch.clone, compiled(*_to("cuda", new)))
        assert_same(_cpu(result), function(*new, **kwargs), k)
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


# --- a training step -------------------------------------------------------------------------------------------------


def _trainer(model):
    """A step of the model's training from static inputs, as tinyssd.training takes it."""
    train = pytest.importorskip("tinyssd.training.train", reason="tinyssd.training needs the application's packages")
    from tinyssd.model.loss import LossConfig, detection_loss
    from tinyssd.run.config import TrainConfig

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, capturable=True)

    def step(images, labels):
        anchors, scores, offsets = model(images)
        offset_targets, mask, classes = train.make_targets(anchors, labels, TrainConfig())
        loss = detection_loss(scores, offsets, classes, offset_targets, mask, LossConfig()).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return optimizer, step


def test_captured_training_step(monkeypatch):
    """Model, targets, loss, gradients and optimizer in one graph: the losses are those of steps taken one by one."""
    from tinyssd.model.network import TinySSD

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = TinySSD(num_classes=3).cuda()
    twin = copy.deepcopy(model)
    batches = [
        (torch.rand(4, 3, 256, 256, generator=cases.generator(seed)).cuda(), cases.labels(4, 6, seed)[..., :5].cuda())
        for seed in range(6)
    ]
    for _, labels in batches:
        labels[..., 0].clamp_(max=1)  # two classes of objects

    optimizer, step = _trainer(twin)
    warm_ups = 3
    expected = []
    for images, labels in [batches[0]] * warm_ups + batches:
        optimizer.zero_grad(set_to_none=True)
        expected.append(step(images, labels))

    optimizer, step = _trainer(model)
    images, labels = (t.clone() for t in batches[0])

    def warm():
        optimizer.zero_grad(set_to_none=True)
        return step(images, labels)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        losses = [warm().clone() for _ in range(warm_ups)]
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad(set_to_none=True)  # so that the gradients of the graph live in its own memory
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(images, labels)
    for new_images, new_labels in batches:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        losses.append(loss.clone())
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-3, atol=1e-4)
    assert torch.stack(losses).isfinite().all()


# --- streams, waits, devices -----------------------------------------------------------------------------------------


@CALLS
def test_follows_the_current_stream(op, args, kwargs):
    """The inputs are written late on a side stream: an op that ran on another stream would read what was there before.

    The result is used on the default stream as soon as that has waited for the side stream.
    """
    function = getattr(tinyssd_ops, op)
    expected = function(*args, **kwargs)
    real = _to("cuda", (args, kwargs))
    static = _map(torch.zeros_like, real)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        _copy_into(static, real)
        result = function(*static[0], **static[1])
    torch.cuda.current_stream().wait_stream(side)
    assert_same(_cpu(_map(torch.clone, result)), expected)


@FIXED_SHAPE_CALLS
def test_fixed_shape_ops_never_wait(op, args, kwargs):
    function = getattr(tinyssd_ops, op)
    args, kwargs = _to("cuda", (args, kwargs))
    function(*args, **kwargs)
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = function(*args, **kwargs)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert_same(_cpu(result), _cpu(function(*args, **kwargs)))
    assert _waits(lambda: function(*args, **kwargs)) == 0


@RAGGED_OPS
@pytest.mark.parametrize("size", [20, 5_000])
def test_ragged_ops_wait_once(op, size):
    args = cases.clustered(size).cuda(), cases.random_scores(size).cuda(), cases.class_ids(size, 3).cuda()
    args = (*args[: 2 if op == "nms" else 3], 0.5)
    assert _waits(lambda: getattr(tinyssd_ops, op)(*args)) == 1


def _waits(function):
    """How often the call waits for the device; the debug mode sees only the waits of torch itself."""
    function()
    torch.cuda.synchronize()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    ) as profile:
        # A wait of our own between marks: were it not seen, none would be.
        torch.cuda.current_stream().synchronize()
        function()
    names = [event.name for event in profile.events()]
    seen = sum(name in ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy") for name in names)
    if seen == 0:
        pytest.skip("the profiler records no calls of the CUDA runtime here")
    return seen - 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@CALLS
def test_second_device(op, args, kwargs):
    function = getattr(tinyssd_ops, op)
    result = function(*_to("cuda:1", args), **_to("cuda:1", kwargs))
    assert all(leaf.device == torch.device("cuda:1") for leaf in tree_leaves(result))
    assert torch.cuda.current_device() == 0
    assert_same(_cpu(result), function(*args, **kwargs))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_two_devices_are_an_error():
    with pytest.raises((ValueError, RuntimeError), match="scores: expected device"):
        tinyssd_ops.nms(torch.rand(3, 4, device="cuda:0"), torch.rand(3, device="cuda:1"), 0.5)


# --- results ---------------------------------------------------------------------------------------------------------


@CALLS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_are_those_of_the_cpu(op, args, kwargs, dtype):
    function = getattr(tinyssd_ops, op)
    args = _map(lambda t: t.to(dtype) if t.is_floating_point() else t, args)
    expected = function(*args, **kwargs)
    result = _cpu(function(*_to("cuda", args), **_to("cuda", kwargs)))
    if op in ("multibox_target", "assignment_target") and dtype == torch.float64:
        # The logarithm of float64 is not rounded once more: it may differ in the last place.
        torch.testing.assert_close(result[0], expected[0], rtol=1e-14, atol=1e-14, equal_nan=True)
        result, expected = result[1:], expected[1:]
    assert_same(result, expected)


@pytest.mark.parametrize("kind", ["random_boxes", "disjoint"])
@RAGGED_OPS
def test_half_a_million_boxes(op, kind):
    size = 500_000
    boxes = cases.disjoint(size) if kind == "disjoint" else cases.random_boxes(size, side=0.02)
    args = (boxes, cases.random_scores(size), *([cases.class_ids(size, 80)] if op == "batched_nms" else []), 0.5)
    assert_same(getattr(tinyssd_ops, op)(*_to("cuda", args)).cpu(), getattr(tinyssd_ops, op)(*args))


def test_padded_batch_of_half_a_million_boxes():
    boxes, scores = cases.random_boxes(500_000, side=0.02).view(4, -1, 4), cases.random_scores(500_000).view(4, -1)
    expected = tinyssd_ops.nms_padded(boxes, scores, 0.5, max_output=1000)
    assert_same(_cpu(tinyssd_ops.nms_padded(boxes.cuda(), scores.cuda(), 0.5, max_output=1000)), expected)
