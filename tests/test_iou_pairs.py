"""iou_pairs: the IoU family, its gradients, and what PyTorch may do with them."""

from __future__ import annotations

import itertools
import math

import cases
import pytest
import torch
from cases import INF, NAN, assert_same

import tinyssd_ops
from tinyssd_ops import reference

KINDS = ["iou", "giou", "diou", "ciou"]
FAMILIES = list(itertools.product(KINDS, (False, True)))
FAMILY = pytest.mark.parametrize(("kind", "aligned"), FAMILIES)
DTYPES = [torch.float32, torch.float64, *cases.HALVES]
EPS = (1e-9, 1e-7)  # of the union, of the rest


def call(ops, boxes1, boxes2, kind, aligned=False, eps=EPS):
    return ops.iou_pairs(boxes1, boxes2, KINDS.index(kind), aligned, *eps)


def formula(boxes1, boxes2, kind, union_eps=0.0, eps=0.0):
    """The published definitions, pair by pair in float64, for boxes with positive sides."""
    result = torch.empty(len(boxes1), len(boxes2), dtype=torch.float64)
    for (i, a), (j, b) in itertools.product(enumerate(boxes1.double().tolist()), enumerate(boxes2.double().tolist())):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0.0) * max(h, 0.0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
        hull_w, hull_h = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
        value = iou = inter / (union + union_eps)
        if kind == "giou":
            value = iou - (hull_w * hull_h - union) / (hull_w * hull_h + eps)
        if kind in ("diou", "ciou"):
            distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
            value = iou - distance / (hull_w**2 + hull_h**2 + eps)
        if kind == "ciou":
            angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
            v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
            value -= v / (1 - iou + v + eps) * v if v > 0 else 0
        result[i, j] = value
    return result


def close_in(kind, actual, expected):
    """The same bits; of CIoU in float64, whose arc tangents may differ in the last one, nearly so."""
    if kind == "ciou" and expected[0].dtype == torch.float64:
        scale = max(float(e.abs().max()) if e.numel() else 0.0 for e in expected)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13 * max(scale, 1.0), equal_nan=True)
    else:
        assert_same(actual, expected, kind)


@pytest.mark.parametrize("boxes", cases.BOXES)
def test_parity(other, simd_path, boxes):
    # More columns than the kernel's tile.
    first, second = cases.BOXES[boxes](270, 1), cases.BOXES[boxes](270, 2)
    for (kind, aligned), dtype in itertools.product(FAMILIES, DTYPES if boxes == "broken" else DTYPES[:2]):
        args = (first.to(dtype)[: 270 if aligned else 9], second.to(dtype), kind, aligned)
        values = call(other, *args)
        close_in(kind, [values], [call(reference, *args)])
        assert not values.isnan().any()


@FAMILY
def test_definition(ops, kind, aligned):
    boxes1, boxes2 = cases.random_boxes(20, 1) + torch.tensor([0, 0, 0.1, 0.1]), cases.random_boxes(20, 2)
    boxes2 = boxes2 + torch.tensor([0, 0, 0.1, 0.1])
    expected = formula(boxes1, boxes2, kind, *EPS)
    actual = call(ops, boxes1, boxes2, kind, aligned)
    torch.testing.assert_close(actual, (expected.diagonal() if aligned else expected).float(), rtol=1e-5, atol=1e-6)


def test_degenerate_by_hand(ops):
    """A term without a positive, finite denominator is 0: never NaN, whatever the boxes."""
    point, far = torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 1, 1, 1], [NAN, 0, 1, 1], [0, 0, INF, 1]])
    for kind in KINDS[:3]:
        assert_same(call(ops, point, far, kind, eps=(0.0, 0.0)), torch.zeros(1, 3))
    assert_same(call(ops, point, far[:2], "ciou", eps=(0.0, 0.0)), torch.zeros(1, 2))
    apart = torch.tensor([[3.0, 1, 3, 1]])
    assert call(ops, point, apart, "giou", eps=(0.0, 0.0)).item() == 0  # the hull has no area
    assert call(ops, point, apart, "diou", eps=(0.0, 0.0)).item() == -1


def test_box_iou_is_the_first_of_the_family(ops):
    boxes1, boxes2 = cases.broken(30, 1), cases.broken(30, 2)
    assert_same(call(ops, boxes1, boxes2, "iou", eps=(0.0, 0.0)), ops.box_iou(boxes1, boxes2))


def gradients(ops, boxes1, boxes2, kind, aligned, create_graph=False):
    leaves = [boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()]
    values = call(ops, *leaves, kind, aligned)
    weight = torch.linspace(-1, 2, values.numel(), dtype=values.dtype).view(values.shape)
    return torch.autograd.grad((values * weight).sum(), leaves, create_graph=create_graph)


@pytest.mark.parametrize("boxes", cases.BOXES)
def test_gradient_parity(other, simd_path, boxes):
    for (kind, aligned), dtype in itertools.product(FAMILIES, DTYPES[:2]):
        first, second = (cases.BOXES[boxes](n, 1).to(dtype) for n in ((70, 70) if aligned else (41, 70)))
        found = gradients(other, first, second, kind, aligned)
        close_in(kind, found, gradients(reference, first, second, kind, aligned))
        assert all(g.isfinite().all() for g in found)


@pytest.mark.parametrize("value", [1.0, INF, NAN])
@pytest.mark.parametrize("kind", ["iou", "giou"])
def test_gradient_of_boxes_that_lie_apart(other, kind, value):
    """Their IoU has no slope, but 0 times a value that is not finite is NaN. More pairs than CUDA looks at at once."""
    found = []
    for ops in (other, reference):
        leaves = [cases.random_boxes(n, n, side=0.1).requires_grad_() for n in (270, 1_100)]
        weight = torch.linspace(-1, 2, 270 * 1_100).view(270, 1_100)
        weight[::90, ::400] = value
        found.append(torch.autograd.grad(call(ops, *leaves, kind), leaves, weight))
    assert all(torch.isnan(g).any() == (not math.isfinite(value)) for g in found[0])
    assert_same(*found)


@FAMILY
def test_gradient_that_is_watched(ops, kind, aligned):
    boxes = [cases.clustered(40, seed).double() for seed in (1, 2)]
    plain = gradients(ops, *boxes, kind, aligned)
    watched = [g.detach() for g in gradients(ops, *boxes, kind, aligned, create_graph=True)]
    torch.testing.assert_close(watched, list(plain), rtol=1e-9, atol=1e-9)


def with_constant_weight(ops, kind, aligned, boxes1, boxes2):
    """The family's function with CIoU's alpha held at its value for these boxes, so that it has plain derivatives."""
    if kind != "ciou":
        return lambda one, two: call(ops, one, two, kind, aligned)

    def v_and_alpha(one, two):
        angles = [torch.atan((b[..., 2] - b[..., 0]) / (b[..., 3] - b[..., 1])) for b in (one, two)]
        turn = angles[0] - angles[1] if aligned else angles[0][:, None] - angles[1][None, :]
        v = 4 / math.pi**2 * turn**2
        return v, (v / (1 - call(ops, one, two, "iou", aligned) + v + EPS[1])).detach()

    _, held = v_and_alpha(boxes1, boxes2)

    def function(one, two):
        v, alpha = v_and_alpha(one, two)
        return call(ops, one, two, kind, aligned) + (alpha - held) * v

    return function


@FAMILY
def test_gradcheck(ops, kind, aligned):
    offset = torch.tensor([0, 0, 0.3, 0.3])
    boxes1, boxes2 = ((cases.random_boxes(3, seed, side=1.0) + offset).double() for seed in (3, 4))
    assert call(ops, boxes1, boxes2, "iou", aligned).gt(0).any()
    function = with_constant_weight(ops, kind, aligned, boxes1, boxes2)
    inputs = (boxes1.requires_grad_(), boxes2.requires_grad_())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_pulls_boxes_together(ops, kind):
    """Descent from a box apart ends on the target, but for plain IoU, which has no slope there."""
    target = torch.tensor([[0.2, 0.3, 0.6, 0.8]], dtype=torch.float64)
    box = torch.tensor([[0.7, 0.1, 0.9, 0.25]], dtype=torch.float64, requires_grad=True)
    for _ in range(150):
        (grad,) = torch.autograd.grad(1 - call(ops, box, target, kind, True)[0], box)
        with torch.no_grad():
            box -= 0.02 * grad / (1 + grad.norm())
    assert (reference.box_iou(box, target).item() > 0.7) == (kind != "iou")


def transforms(function, x):
    """What torch.func makes of a function of boxes, and forward mode."""
    func = torch.func
    total = lambda b: function(b).square().sum()  # noqa: E731
    return {
        "grad": lambda: func.grad(total)(x),
        "grad of grad": lambda: func.grad(lambda b: func.grad(total)(b).square().sum())(x),
        "vjp": lambda: func.vjp(function, x)[1](torch.ones_like(function(x))),
        "jvp": lambda: func.jvp(function, (x,), (x.flip(0),)),
        "jvp of jvp": lambda: func.jvp(lambda b: func.jvp(function, (b,), (x,))[1], (x,), (x,)),
        "jacrev": lambda: func.jacrev(function)(x),
        "jacfwd": lambda: func.jacfwd(function)(x),
        "hessian": lambda: func.hessian(total)(x),
        "jacfwd of jacfwd": lambda: func.jacfwd(func.jacfwd(total))(x),
        "vectorized hessian": lambda: torch.autograd.functional.hessian(total, x, vectorize=True),
        "vmap of grad": lambda: torch.vmap(func.grad(total))(torch.stack((x, x + 0.01))),
        "grad of vmap": lambda: func.grad(lambda b: torch.vmap(function)(b).square().sum())(torch.stack((x, x + 0.01))),
    }


@FAMILY
@pytest.mark.parametrize("name", transforms(lambda b: b, torch.ones(1, 4)))
def test_transforms(native, kind, aligned, name):
    other = cases.random_boxes(4, 2, side=1.0).double().to(native.device)
    x = cases.random_boxes(4, 1, side=1.0).double().to(native.device)
    op = lambda b: tinyssd_ops.iou_pairs(b, other, kind, aligned, 1e-7)  # noqa: E731
    plain = lambda b: reference.iou_pairs(b, other, KINDS.index(kind), aligned, 0.0, 1e-7)  # noqa: E731
    torch.testing.assert_close(transforms(op, x)[name](), transforms(plain, x)[name]())


@pytest.mark.parametrize("name", ["grad", "hessian", "vmap of grad", "jvp"])
def test_compiled_transforms(native, name):
    other = cases.random_boxes(4, 2, side=1.0).double().to(native.device)
    x = cases.random_boxes(4, 1, side=1.0).double().to(native.device)
    function = lambda b: tinyssd_ops.box_iou(b, other)  # noqa: E731
    run = lambda b: transforms(function, b)[name]()  # noqa: E731
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))


def test_broadcasts():
    boxes1, boxes2 = cases.random_boxes(6, 1).view(3, 2, 4), cases.random_boxes(2, 2)
    expected = tinyssd_ops.iou_pairs(boxes1, boxes2.expand(3, 2, 4), "giou", aligned=True)
    assert_same(tinyssd_ops.iou_pairs(boxes1, boxes2, "giou", aligned=True), expected)
    assert tinyssd_ops.iou_pairs(boxes1, boxes2[0], "giou", aligned=True).shape == (3, 2)
    assert tinyssd_ops.iou_pairs(boxes2[0], boxes2[1], "giou", aligned=True).shape == ()
    assert tinyssd_ops.iou_pairs(boxes1, boxes2, "giou").shape == (3, 2, 2)


@FAMILY
@pytest.mark.parametrize("n", [0, 1])
def test_empty(ops, kind, aligned, n):
    none, some = torch.rand(0, 4), torch.rand(0 if aligned else n, 4)
    assert call(ops, none, some, kind, aligned).shape == ((0,) if aligned else (0, n))
    assert_same(gradients(ops, none, some, kind, aligned), (torch.zeros_like(none), torch.zeros_like(some)))


BOXES = cases.random_boxes(3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((BOXES[:, :3], BOXES, 1, False, 0.0, 0.0), r"boxes1: expected shape \[..., N, 4\], got \[3, 3\]"),
        ((BOXES, BOXES[:2], 1, True, 0.0, 0.0), r"boxes2: expected shape \[3, 4\], got \[2, 4\]"),
        ((BOXES, BOXES.int(), 1, True, 0.0, 0.0), "boxes2: expected a floating-point dtype, got torch.int32"),
        ((BOXES, BOXES, 4, False, 0.0, 0.0), "kind: expected a number from 0 to 3, got 4"),
        ((BOXES, BOXES, 1, False, NAN, 0.0), "union_eps: expected a number, got nan"),
        ((BOXES, BOXES, 1, False, 0.0, NAN), "eps: expected a number, got nan"),
    ],
)
def test_bad_input(ops, args, message):
    with pytest.raises(ValueError, match=message):
        ops.iou_pairs(*args)


def test_bad_kind():
    with pytest.raises(ValueError, match="kind: expected one of iou, giou, diou, ciou, got 'eiou'"):
        tinyssd_ops.iou_pairs(BOXES, BOXES, "eiou")
    with pytest.raises(ValueError, match=r"leading sizes that broadcast, got \[3\] and \[2\]"):
        tinyssd_ops.iou_pairs(BOXES, BOXES[:2], "giou", aligned=True)
