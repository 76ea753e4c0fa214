"""box_iou and its gradient."""

from __future__ import annotations

import itertools

import cases
import oracle
import pytest
import torch
from cases import INF, NAN, assert_same
from hypothesis import given
from hypothesis import strategies as st

import tinyssd_ops
from tinyssd_ops import reference


@pytest.mark.parametrize("kind", cases.BOXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *cases.HALVES])
def test_parity(other, simd_path, kind, dtype):
    # More columns than the kernel's tile of 512.
    boxes1, boxes2 = cases.BOXES[kind](37, 1).to(dtype), cases.BOXES[kind](530, 1).to(dtype)
    assert_same(other.box_iou(boxes1, boxes2), reference.box_iou(boxes1, boxes2))


@pytest.mark.parametrize("columns", [132, 131])
@pytest.mark.parametrize("odd", [None, 0.0, 2.0**-21, 2.0**18, NAN, -INF])
def test_parity_at_the_edges_of_ordinary(other, columns, odd):
    """Corners of the smallest and the largest size with which a kernel may divide in few instructions, and beyond.

    Neighbours in floating point make the thinnest intersections.
    """
    random = cases.generator(columns)
    least, most = torch.tensor(2.0**-20), torch.tensor(2.0**18).nextafter(torch.tensor(0.0))
    edges = torch.stack([least, least.nextafter(torch.tensor(1.0)), least * 3, torch.tensor(1.0), most / 3, most])
    corners = torch.cat((-edges, torch.zeros(1), edges))[torch.randint(13, (columns, 4), generator=random)]
    boxes = torch.cat((corners[:, :2].minimum(corners[:, 2:]), corners[:, :2].maximum(corners[:, 2:])), dim=1)
    boxes[:, 2:] = torch.where(boxes[:, 2:] > boxes[:, :2], boxes[:, 2:], boxes[:, :2].nextafter(most))
    boxes.clamp_(-most, most)
    boxes[((boxes[:, 2:] - boxes[:, :2]) <= 0).any(dim=1)] = torch.tensor([0, 0, 1, 1.0])
    rows = boxes[:40].flip(0).contiguous()
    if odd is not None:
        rows[17, 2] = odd
    assert_same(other.box_iou(rows, boxes), reference.box_iou(rows, boxes))


@pytest.mark.parametrize(
    ("lead1", "lead2"),
    [((), ()), ((3,), (3,)), ((3,), ()), ((), (2, 3)), ((2, 1), (1, 3)), ((2, 3), (3,)), ((1,), (0,)), ((0, 2), (2,))],
)
@pytest.mark.parametrize(("n", "m"), [(4, 5), (1, 1), (0, 5), (4, 0), (0, 0)])
def test_broadcasts(ops, lead1, lead2, n, m):
    boxes1 = cases.random_boxes(6 * max(n, 1), 1)[: torch.Size(lead1).numel() * n].view(*lead1, n, 4)
    boxes2 = cases.random_boxes(6 * max(m, 1), 2)[: torch.Size(lead2).numel() * m].view(*lead2, m, 4)
    lead = torch.broadcast_shapes(lead1, lead2)
    full1, full2 = boxes1.expand(*lead, n, 4), boxes2.expand(*lead, m, 4)
    expected = torch.zeros(*lead, n, m)
    for index in itertools.product(*map(range, lead)):
        expected[index] = reference.box_iou(full1[index], full2[index])
    assert_same(ops.box_iou(boxes1, boxes2), expected)


@pytest.mark.parametrize("kind", cases.BOXES)
def test_oracle(ops, kind):
    boxes = cases.BOXES[kind](25)
    rows = list(boxes.numpy())
    expected = torch.tensor([[float(oracle.iou(list(a), list(b))) for b in rows] for a in rows])
    assert_same(ops.box_iou(boxes, boxes), expected)


def test_by_hand(ops):
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 2, 2], [0, 0, 0, 2], [NAN, 0, 2, 2]])
    expected = torch.tensor([1, 1 / 7, 0, 1, 0, 0])
    assert_same(ops.box_iou(boxes[:1], boxes)[0], expected)
    # Two boxes without area, in the same place: no union, no overlap.
    assert ops.box_iou(boxes[4:5], boxes[4:5]).item() == 0


def test_layouts(ops):
    boxes1, boxes2 = cases.clustered(20, 1), cases.clustered(30, 2)
    expected = ops.box_iou(boxes1, boxes2)
    assert_same(ops.box_iou(boxes1.T.contiguous().T, boxes2.repeat_interleave(2, dim=0)[::2]), expected)
    assert_same(ops.box_iou(boxes1.expand(3, 20, 4), boxes2)[2], expected)


@pytest.mark.parametrize(
    ("dtype1", "dtype2", "result"),
    [
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.bfloat16, torch.float64, torch.float64),
    ],
)
def test_mixed_dtypes(ops, dtype1, dtype2, result):
    boxes1, boxes2 = cases.clustered(20).to(dtype1), cases.clustered(20).to(dtype2)
    assert_same(ops.box_iou(boxes1, boxes2), reference.box_iou(boxes1.to(result), boxes2.to(result)))
    assert ops.box_iou(boxes1, boxes2).dtype == result


def test_matches_torchvision(ops):
    torchvision = cases.torchvision()
    boxes = cases.clustered(100)
    torch.testing.assert_close(ops.box_iou(boxes, boxes), torchvision.ops.box_iou(boxes, boxes))


@pytest.mark.parametrize("path", cases.golden("iou_*.npz"))
def test_golden(ops, path):
    case = cases.load_golden(path)
    torch.testing.assert_close(ops.box_iou(case["boxes1"], case["boxes2"]), case["iou"], rtol=1e-5, atol=1e-6)


@given(st.integers(1, 60), st.integers(0, 10**6), st.sampled_from(sorted(cases.BOXES)), st.integers(-8, 8))
def test_invariants(ops, n, seed, kind, exponent):
    boxes = cases.BOXES[kind](n, seed)
    iou = ops.box_iou(boxes, boxes)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert_same(iou.T, iou)
    if kind in ("random_boxes", "clustered", "nested"):
        positive = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
        assert_same(iou.diagonal(), positive.float())
        assert_same(ops.box_iou(boxes * 2.0**exponent, boxes * 2.0**exponent), iou)  # rounds nothing


@pytest.mark.parametrize("lead", [((), ()), ((2,), ()), ((2, 1), (3,))])
def test_gradcheck(ops, lead):
    boxes = [
        cases.random_boxes(4 * torch.Size(sizes).numel(), seed, side=1.0).double().view(*sizes, 4, 4).requires_grad_()
        for seed, sizes in enumerate(lead)
    ]
    assert reference.box_iou(*boxes).gt(0).any()
    assert torch.autograd.gradcheck(ops.box_iou, boxes)


def _gradients(ops, boxes1, boxes2, weight=None):
    leaves = [b.clone().requires_grad_() for b in (boxes1, boxes2)]
    iou = ops.box_iou(*leaves)
    weight = torch.linspace(-1, 2, iou.numel(), dtype=iou.dtype).view(iou.shape) if weight is None else weight
    (iou * weight).sum().backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("kind", cases.BOXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_parity(other, simd_path, kind, dtype):
    """The same bits, and finite, whatever the boxes: ties, overflow, denormal sides. More than one round of 32 sums."""
    boxes1, boxes2 = cases.BOXES[kind](41, 1).to(dtype), cases.BOXES[kind](70, 1).to(dtype)
    gradients = _gradients(other, boxes1, boxes2)
    assert_same(gradients, _gradients(reference, boxes1, boxes2))
    assert all(g.isfinite().all() for g in gradients)


def test_gradient_at_ties(ops):
    """An edge that both boxes share gives each half of its slope; edges that touch count as overlapping."""
    square = torch.tensor([[0.0, 0, 2, 2]])
    grad1, grad2 = _gradients(ops, square, square, torch.ones(1, 1))
    # d inter = 2 * 1/2, d area = 2: (1 * (1 + 1) - 2 * 1) / 4 = 0 along every edge.
    assert_same((grad1, grad2), (torch.zeros(1, 4), torch.zeros(1, 4)))
    grad1, grad2 = _gradients(ops, square, torch.tensor([[2.0, 0, 4, 2]]), torch.ones(1, 1))
    # The intersection grows by 2 as either edge moves, the union is 8.
    assert_same(grad1, torch.tensor([[0.0, 0, 2 / 8, 0]]))
    assert_same(grad2, torch.tensor([[-2 / 8, 0, 0, 0]]))


def test_gradient_of_slopes_beyond_the_dtype(ops):
    """A slope of 1e30 is cut to 2**96, one of infinity too."""
    tall = torch.tensor([[0.0, 0, 1e-30, 1e8]])
    grad1, _ = _gradients(ops, tall, tall + torch.tensor([0.0, 0, 1e-30, 0]), torch.ones(1, 1))
    assert_same(grad1[0, 2], torch.tensor(2.0**96))


def test_zero_is_positive(ops):
    boxes1, boxes2 = torch.tensor([[0.0, 0, 0.1, 0.1]]), torch.tensor([[-0.0, -0.0, -1, -0.0]])
    assert not ops.box_iou(boxes1, boxes2).signbit().any()
    assert not ops.box_iou(boxes2, boxes1).signbit().any()


def test_gradient_of_a_large_batch(ops):
    """So many that a kernel makes its tiles large; 33 by 33 leaves one row and one column over."""
    boxes1, boxes2 = (cases.random_boxes(1024 * 33, seed).view(1024, 33, 4) for seed in (1, 2))
    weight = torch.rand(33, 33, generator=cases.generator(3)).expand(1024, 33, 33)
    for one, two in zip(
        _gradients(ops, boxes1, boxes2, weight), _gradients(reference, boxes1, boxes2, weight), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", [NAN, INF, -INF])
def test_gradient_of_a_broken_loss(ops, weight):
    """Boxes apart multiply it by zero, which does not make it a number."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [2, 0, 3, 1], [4, 4, 5, 5]])
    weights = torch.zeros(3, 3)
    weights[0, 1] = weight
    grad1, grad2 = _gradients(ops, boxes, boxes, weights)
    assert grad1.isnan().all(dim=1).tolist() == [True, False, False]
    assert grad2.isnan().all(dim=1).tolist() == [False, True, False]
    assert_same((grad1[1:], grad2[::2]), (torch.zeros(2, 4), torch.zeros(2, 4)))


def test_gradient_by_hand(ops):
    # The intersection is 1 by 2, the union 6. The right edge adds 2 to the intersection and 2 to the box's area.
    grad1, _ = _gradients(ops, torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]), torch.ones(1, 1))
    # By it, d iou = (2 * union - inter * (2 - 2)) / union**2 = 1/3; the left edge moves the area alone: inter * 2 / 36.
    torch.testing.assert_close(grad1[0, [0, 2]], torch.tensor([2 * 2 / 36, 1 / 3]))


@pytest.mark.parametrize("boxes", [[NAN, 0, 1, 1], [-INF, 0, INF, 1], [1, 1, 1, 1], [3, 3, 2, 2], [0, 0, 3e38, 3e38]])
def test_gradient_of_what_cannot_overlap(ops, boxes):
    """An IoU of 0 by definition is a constant: a broken box must not poison the gradient of a good one."""
    for grad in _gradients(ops, torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([boxes], dtype=torch.float32)):
        assert_same(grad, torch.zeros(1, 4))


@pytest.mark.parametrize("dtype", [*cases.HALVES, torch.float64])
def test_gradient_dtypes(ops, dtype):
    boxes1, boxes2 = cases.random_boxes(5, 1), cases.random_boxes(5, 2).to(dtype)
    grad1, grad2 = _gradients(ops, boxes1, boxes2)
    assert (grad1.dtype, grad2.dtype) == (torch.float32, dtype)
    expected = _gradients(reference, boxes1, boxes2)
    torch.testing.assert_close([grad1, grad2], expected)


@pytest.mark.parametrize(("lead", "n", "m"), [((), 0, 3), ((), 3, 0), ((), 0, 0), ((0,), 2, 3), ((2,), 0, 3)])
def test_gradient_of_nothing(ops, lead, n, m):
    grad1, grad2 = _gradients(ops, torch.rand(*lead, n, 4), torch.rand(m, 4))
    assert_same((grad1, grad2), (torch.zeros(*lead, n, 4), torch.zeros(m, 4)))


def test_gradient_of_one_argument(ops):
    boxes1, boxes2 = cases.random_boxes(5, 1).requires_grad_(), cases.random_boxes(6, 2)
    ops.box_iou(boxes1, boxes2).sum().backward()
    assert_same(boxes1.grad, _gradients(ops, boxes1.detach(), boxes2, torch.ones(5, 6))[0])


OVERLAPPING = torch.tensor([[0.0, 0, 2, 2], [0.5, 0.25, 3, 2.5]], dtype=torch.float64)


def test_second_derivatives(ops):
    boxes = (OVERLAPPING.clone().requires_grad_(), (OVERLAPPING.flip(0) + 0.1).requires_grad_())
    assert torch.autograd.gradgradcheck(ops.box_iou, boxes)


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_gradients_of_related_inputs(ops, factor):
    """The same whether or not the gradient will be differentiated in turn."""
    leaf = OVERLAPPING.clone().requires_grad_()
    gradients = []
    for create_graph in (False, True):
        total = ops.box_iou(leaf, leaf if factor == 1 else leaf * factor).square().sum()
        gradients += torch.autograd.grad(total, leaf, create_graph=create_graph)
    torch.testing.assert_close(gradients[0], gradients[1].detach())


def test_forward_derivatives():
    inputs, tangents = (OVERLAPPING,), (torch.ones_like(OVERLAPPING).cumsum(dim=1),)
    _, tangent = torch.func.jvp(lambda a: tinyssd_ops.box_iou(a, OVERLAPPING.flip(0) + 0.1), inputs, tangents)
    _, expected = torch.func.jvp(lambda a: reference.box_iou(a, OVERLAPPING.flip(0) + 0.1), inputs, tangents)
    torch.testing.assert_close(tangent, expected)


BOXES = cases.random_boxes(3)


@pytest.mark.parametrize(
    ("boxes1", "boxes2", "message"),
    [
        (BOXES[:, :3], BOXES, r"boxes1: expected shape \[..., N, 4\], got \[3, 3\]"),
        (BOXES[0], BOXES, r"boxes1: expected shape \[..., N, 4\], got \[4\]"),
        (BOXES, torch.tensor(1.0), r"boxes2: expected shape \[..., M, 4\], got \[\]"),
        (BOXES.expand(2, 3, 4), BOXES.expand(3, 3, 4), r"leading sizes that broadcast, got \[2\] and \[3\]"),
        (BOXES.int(), BOXES, "boxes1: expected a floating-point dtype, got torch.int32"),
        (BOXES, BOXES.to(torch.complex128), "boxes2: expected a floating-point dtype, got torch.complex128"),
        (BOXES, BOXES.to("meta"), r"boxes2: expected device \S+, got meta"),
    ],
)
def test_bad_input(ops, boxes1, boxes2, message):
    with pytest.raises(ValueError, match=message):
        ops.box_iou(boxes1, boxes2)
