"""docs/modes.md: each cell of its table is one test here, which finds out what happens and compares it with the page.

A cell says ``yes`` (the derivative, or the result of calling plainly), ``constant`` (the result is right and has no
derivative) or ``no`` (an error).
"""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import cases
import pytest
import torch
from cases import assert_same
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_leaves, tree_map_only

import tinyssd_ops
from tinyssd_ops._iou import KINDS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "modes.md"
# What begins with integers is differentiated by nothing here.
CALLS = {op: calls[0] for op, calls in cases.sample_calls().items() if calls[0][0][0].is_floating_point()}
pytestmark = pytest.mark.skipif(
    tinyssd_ops.info()["backends"]["cpu"]["backend"] != "native", reason="the table is that of the kernels"
)


class Call:
    """A public function on arguments of which the first, a tensor of floats, can be another."""

    def __init__(self, op):
        self.op, (self.args, self.kwargs) = op, CALLS[op]
        self.first = self.args[0]

    def __call__(self, first=None, args=None):
        first, *rest = (self.args if first is None else (first, *self.args[1:])) if args is None else args
        if self.op == "iou_pairs":
            one, kind, aligned, union_eps, eps = rest
            return tinyssd_ops.iou_pairs(first, one, KINDS[kind], aligned, eps, union_eps)
        return getattr(tinyssd_ops, self.op)(first, *rest, **self.kwargs)

    def mapped(self, function):
        return self(args=tree_map_only(torch.Tensor, function, self.args))

    def loss(self, first):
        """A number that depends on the result, where that has floats, and on the argument itself."""
        result = self(first)
        floats = [leaf for leaf in tree_leaves(result) if leaf.is_floating_point()]
        return first.square().sum() + sum((leaf * leaf).sum() for leaf in floats), result


def same(call, result, cell="yes"):
    assert_same(result, call())
    return cell


def derivative(call, found, result):
    """Which of the two a derivative of the loss is; it is right in both cases."""
    leaf = call.first.clone().requires_grad_()
    (expected,) = torch.autograd.grad(call.loss(leaf)[0], leaf)
    torch.testing.assert_close(found, expected)
    return same(call, result, "constant" if torch.equal(expected, 2 * call.first) else "yes")


def grad(call):
    return derivative(call, *torch.func.grad(call.loss, has_aux=True)(call.first))


def vjp(call):
    _, pull, result = torch.func.vjp(call.loss, call.first, has_aux=True)
    return derivative(call, pull(torch.tensor(1.0))[0], result)


def jvp(call):
    move = torch.rand(call.first.shape, generator=cases.generator(1))
    _, tangent, result = torch.func.jvp(call.loss, (call.first,), (move,), has_aux=True)
    full, _ = torch.func.grad(call.loss, has_aux=True)(call.first)
    torch.testing.assert_close(tangent, (full * move).sum())
    return derivative(call, full, result)


def jacrev(call):
    return derivative(call, *torch.func.jacrev(call.loss, has_aux=True)(call.first))


def hessian(call):
    found = torch.func.hessian(lambda x: call.loss(x)[0])(call.first).reshape(2 * [call.first.numel()])
    constant = 2 * torch.eye(call.first.numel())
    if torch.equal(found, constant):
        return "constant"
    expected = torch.autograd.functional.hessian(lambda x: call.loss(x)[0], call.first).reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    return "yes"


def two(call):
    return torch.stack((call.first, call.first.flip(-2)))


def vmap(call):
    both = torch.vmap(call)(two(call))
    for k in range(2):
        assert_same(tree_map_only(torch.Tensor, lambda t, k=k: t[k], both), call(two(call)[k]))
    return "yes"


def vmap_of_grad(call):
    grads, both = torch.vmap(torch.func.grad(call.loss, has_aux=True))(two(call))
    return derivative(call, grads[0], tree_map_only(torch.Tensor, lambda t: t[0], both))


def autocast(call):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return same(call, call())


def inference_mode(call):
    with torch.inference_mode():
        result = call()
    return same(call, tree_map_only(torch.Tensor, torch.clone, result))


def alike(call, result, exact=True):
    for one, other in zip(tree_leaves(result), tree_leaves(call()), strict=True):
        assert (one.dtype, one.dim()) == (other.dtype, other.dim())
        assert not exact or one.shape == other.shape
    return "yes"


def fake_tensors(call):
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        result = call.mapped(mode.from_tensor)
    return alike(call, result, exact=call.op not in cases.RAGGED)


def meta(call):
    return alike(call, call.mapped(lambda t: t.to("meta")))


def deterministic(call):
    torch.use_deterministic_algorithms(True)
    try:
        return same(call, call())
    finally:
        torch.use_deterministic_algorithms(False)


def default_dtype(call):
    torch.set_default_dtype(torch.float64)
    try:
        result = call()
    finally:
        torch.set_default_dtype(torch.float32)
    return same(call, result)


def default_device(call):
    with torch.device("meta"):
        result = call()
    return same(call, result)


class Named(torch.Tensor):
    pass


def subclass(call):
    result = call.mapped(lambda t: t.as_subclass(Named))
    return same(call, tree_map_only(torch.Tensor, lambda t: t.as_subclass(torch.Tensor), result))


def _answers(ops, path):
    torch.save({op: Call(op)() for op in ops}, path)


_WORKERS = {}


def in_worker(call, method, folder):
    """What a process started so answers; one process for all the ops."""
    if method not in _WORKERS:
        # The pool of threads of this process has been at work.
        tinyssd_ops.nms(cases.random_boxes(5000), cases.random_scores(5000), 0.5)
        path = folder.mktemp(method) / "answers.pt"
        worker = multiprocessing.get_context(method).Process(target=_answers, args=(list(CALLS), path))
        worker.start()
        worker.join(120)
        assert worker.exitcode == 0
        _WORKERS[method] = torch.load(path)
    return same(call, _WORKERS[method][call.op])


MODES = {
    "`func.grad`": grad,
    "`vjp`": vjp,
    "`jvp`": jvp,
    "`jacrev`": jacrev,
    "`hessian`": hessian,
    "`vmap`": vmap,
    "`vmap(grad)`": vmap_of_grad,
    "autocast": autocast,
    "inference mode": inference_mode,
    "fake tensors": fake_tensors,
    "meta tensors": meta,
    "deterministic mode": deterministic,
    "default dtype": default_dtype,
    "default device": default_device,
    "subclass": subclass,
    "forked worker": "fork",
    "spawned worker": "spawn",
}


def table():
    """The cells of the page: ``{(mode, op): cell}``."""
    rows = [
        [cell.strip() for cell in line.strip("|\n ").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("|") and not re.match(r"\|[-| ]+\|$", line)
    ]
    return {(row[0], op.strip("`")): cell for row in rows[1:] for op, cell in zip(rows[0][1:], row[1:], strict=True)}


def test_every_op_and_mode_is_there():
    assert set(table()) == {(mode, op) for mode in MODES for op in CALLS}


@pytest.mark.parametrize(("mode", "op"), [(mode, op) for mode in MODES for op in CALLS])
def test_cell(mode, op, tmp_path_factory):
    check, call = MODES[mode], Call(op)
    try:
        found = in_worker(call, check, tmp_path_factory) if isinstance(check, str) else check(call)
    except RuntimeError as error:
        # The two sentences of what has no fixed size.
        if not re.search("map nms_padded instead|with meta Tensors", str(error)):
            raise
        found = "no"
    assert found == table()[mode, op]
