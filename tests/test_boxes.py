"""Anchors, formats and encodings: plain Torch, the same on every backend."""

from __future__ import annotations

import itertools
import math

import cases
import pytest
import torch
from cases import INF, NAN, assert_same
from hypothesis import given
from hypothesis import strategies as st

import tinyssd_ops


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request):
    return request.param


def test_prior_by_hand(device):
    # One cell, so the anchors' centre is (0.5, 0.5); H = W, so w = s * sqrt(r) and h = s / sqrt(r).
    anchors = tinyssd_ops.multibox_prior(1, 1, (0.5, 0.25), (1, 4), device=device)
    expected = [[0.25, 0.25, 0.75, 0.75], [0, 0.375, 1, 0.625], [0.375, 0.375, 0.625, 0.625]]
    assert_same(anchors.cpu(), torch.tensor([expected]))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_prior_by_definition(height, width, num_sizes, num_ratios):
    sizes, ratios = [0.2, 0.37, 0.9][:num_sizes], [2.0, 1.0, 0.5][:num_ratios]
    expected = []
    for row in range(height):
        for column in range(width):
            cx, cy = (column + 0.5) / width, (row + 0.5) / height
            for s, r in [(sizes[0], r) for r in ratios] + [(s, ratios[0]) for s in sizes[1:]]:
                w, h = s * math.sqrt(r * height / width), s * math.sqrt(width / (r * height))
                expected.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    anchors = tinyssd_ops.multibox_prior(height, width, sizes, ratios)
    torch.testing.assert_close(anchors, torch.tensor([expected]), rtol=1e-6, atol=1e-7)


def test_prior_on_a_device():
    """Made where it is asked for, whatever the default device."""
    expected = tinyssd_ops.multibox_prior(2, 2, [0.2], [1.0])
    with torch.device("meta"):
        assert tinyssd_ops.multibox_prior(2, 2, [0.2], [1.0]).is_meta
        made = tinyssd_ops.multibox_prior(2, 2, [0.2], [1.0], device="cpu")
    assert_same(made, expected)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 5)])
def test_prior_against_the_order_of_others(height, width):
    """The permutation and the sizes that the documentation gives for weights trained with MXNet's or d2l's anchors."""
    sizes, ratios = [0.2, 0.4, 0.9], [2.0, 1.0, 0.5, 3.0]
    theirs = []
    for row, column in itertools.product(range(height), range(width)):
        cx, cy = (column + 0.5) / width, (row + 0.5) / height
        for s, r in [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]:
            w, h = s * height / width * math.sqrt(r), s / math.sqrt(r)
            theirs.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    scaled = [s * math.sqrt(height / width) for s in sizes]
    ours = tinyssd_ops.multibox_prior(height, width, scaled, ratios).view(height * width, -1, 4)
    order = [0, *range(len(sizes), len(sizes) + len(ratios) - 1), *range(1, len(sizes))]
    expected = torch.tensor(theirs).view(height * width, -1, 4)[:, order]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_prior_dtype(dtype):
    anchors = tinyssd_ops.multibox_prior(3, 5, (0.3,), (1, 2), dtype=dtype)
    assert (anchors.dtype, anchors.shape) == (dtype, (1, 30, 4))
    torch.testing.assert_close(anchors.float(), tinyssd_ops.multibox_prior(3, 5, (0.3,), (1, 2)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("path", cases.golden("prior_*.npz"))
def test_prior_golden(path):
    case = cases.load_golden(path)
    sizes, ratios = (torch.as_tensor(case[name]).reshape(-1).tolist() for name in ("sizes", "ratios"))
    anchors = tinyssd_ops.multibox_prior(int(case["height"]), int(case["width"]), sizes, ratios)
    torch.testing.assert_close(anchors, case["anchors"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((0, 3, (1,), (1,)), {}, "height, width: expected at least 1, got 0, 3"),
        ((3, -1, (1,), (1,)), {}, "height, width: expected at least 1, got 3, -1"),
        ((3, 3, (), (1,)), {}, r"sizes: expected a list of positive numbers, got \[\]"),
        ((3, 3, (0.5, 0), (1,)), {}, r"sizes: expected a list of positive numbers, got \[0.5, 0.0\]"),
        ((3, 3, (1,), (-1,)), {}, r"ratios: expected a list of positive numbers, got \[-1.0\]"),
        ((3, 3, (1,), (NAN,)), {}, r"ratios: expected a list of positive numbers, got \[nan\]"),
        ((3, 3, (INF,), (1,)), {}, r"sizes: expected a list of positive numbers, got \[inf\]"),
        ((3, 3, (1,), (1,)), {"dtype": torch.int64}, "dtype: expected a floating-point dtype, got torch.int64"),
    ],
)
def test_prior_bad_input(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        tinyssd_ops.multibox_prior(*args, **kwargs)


def test_formats_by_hand(device):
    corners = torch.tensor([[1.0, 2, 5, 4]], device=device)
    centers = torch.tensor([[3.0, 3, 4, 2]], device=device)
    assert_same(tinyssd_ops.corner_to_center(corners), centers)
    assert_same(tinyssd_ops.center_to_corner(centers), corners)


def test_clip_by_hand(device):
    boxes = torch.tensor([[-1.0, 0.5, 2, 3], [5, 5, 6, 6], [-3, -2, -1, -1]], device=device)
    expected = torch.tensor([[0, 0.5, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], device=device)
    assert_same(tinyssd_ops.clip_boxes(boxes), expected)
    assert_same(
        tinyssd_ops.clip_boxes(boxes, 5.5, 2)[:2], torch.tensor([[0, 0.5, 2, 2], [5, 2, 5.5, 2]], device=device)
    )


def test_encode_by_hand(device):
    anchors = torch.tensor([[0.0, 0, 2, 4]], device=device)
    boxes = torch.tensor([[1.0, 1, 5, 9]], device=device)  # the centre 2 and 3 away, twice as wide and as high
    expected = torch.tensor([[10.0, 7.5, 5 * math.log(2), 5 * math.log(2)]], device=device)
    torch.testing.assert_close(tinyssd_ops.encode_boxes(anchors, boxes), expected, rtol=1e-5, atol=1e-5)
    expected = torch.tensor([[1.0, 0.75, math.log(2), math.log(2)]], device=device)
    torch.testing.assert_close(tinyssd_ops.encode_boxes(anchors, boxes, 1, 1, 0), expected)


@given(st.integers(0, 50), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_decode_inverts_encode(n, seed, dtype):
    anchors = (cases.random_boxes(n, seed) + torch.tensor([0, 0, 0.1, 0.1])).to(dtype)
    boxes = (cases.random_boxes(n, seed + 1) + torch.tensor([0, 0, 0.1, 0.1])).to(dtype)
    offsets = tinyssd_ops.encode_boxes(anchors, boxes, eps=0)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(tinyssd_ops.decode_boxes(anchors, offsets), boxes, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "limit", "rtol"), [(torch.float32, 430, 2e-7), (torch.float64, 3500, 4e-16)])
def test_decode_exponential(device, dtype, limit, rtol):
    """The exponential made of basic operations is as good as the library's, to both ends of its range."""
    d = torch.linspace(-limit, limit, 20001, dtype=dtype, device=device)
    # Centred on 0, so that an edge is half of the width, exactly.
    anchors = torch.tensor([-0.5, -0.5, 0.5, 0.5], dtype=dtype, device=device)
    boxes = tinyssd_ops.decode_boxes(anchors, torch.stack((d * 0, d * 0, d, d), dim=1))
    expected = (d / torch.tensor(5, dtype=dtype, device=device)).double().exp().to(dtype)
    normal = (expected > 4 * torch.finfo(dtype).tiny) & (expected < torch.finfo(dtype).max)
    assert normal.sum() > 15000
    torch.testing.assert_close((2 * boxes[:, 2])[normal], expected[normal], rtol=rtol, atol=0)
    ends = torch.tensor([[0, 0, -INF, INF], [0, 0, -1e30, 1e30]], dtype=dtype, device=device)
    sides = tinyssd_ops.decode_boxes(anchors, ends)[:, 2:].cpu()
    assert_same(sides, torch.tensor([[0, INF], [0, INF]], dtype=dtype))


def test_decode_with_a_limit(device):
    anchors = torch.tensor([[0.0, 0, 2, 4]], device=device)
    offsets = torch.tensor([[0.0, 0, 500, 5 * math.log(3)]], device=device)
    assert tinyssd_ops.decode_boxes(anchors, offsets)[0, 2] == INF
    boxes = tinyssd_ops.decode_boxes(anchors, offsets, max_growth=1000 / 16)
    torch.testing.assert_close(boxes.cpu(), torch.tensor([[1 - 62.5, 2 - 6, 1 + 62.5, 2 + 6]]))


def test_decode_broken_offsets(device):
    anchors = torch.tensor([[0.0, 0, 1, 1]], device=device)
    offsets = torch.tensor([[NAN, 0, 0, 0], [0, 0, NAN, 0], [0, 0, -INF, 0]], device=device)
    boxes = tinyssd_ops.decode_boxes(anchors, offsets).cpu()
    assert boxes[0, [0, 2]].isnan().all()
    assert boxes[1, [0, 2]].isnan().all()
    assert_same(boxes[0, [1, 3]], torch.tensor([0.0, 1.0]))
    assert_same(boxes[2], torch.tensor([0.5, 0, 0.5, 1]))


def test_encode_and_decode_differentiate(device):
    anchors = cases.random_boxes(4, 1).double().to(device) + torch.tensor([0, 0, 0.1, 0.1], device=device)
    boxes = cases.random_boxes(4, 2).double().to(device) + torch.tensor([0, 0, 0.1, 0.1], device=device)
    offsets = torch.randn(4, 4, generator=cases.generator(3)).double().to(device)
    assert torch.autograd.gradcheck(tinyssd_ops.encode_boxes, (anchors.requires_grad_(), boxes.requires_grad_()))
    assert torch.autograd.gradcheck(tinyssd_ops.decode_boxes, (anchors, offsets.requires_grad_()))


@pytest.mark.parametrize("function", [tinyssd_ops.encode_boxes, tinyssd_ops.decode_boxes])
def test_encodings_broadcast_and_promote(function):
    one, many = cases.random_boxes(1), cases.random_boxes(6, 2).view(2, 3, 4)
    assert function(one, many).shape == (2, 3, 4)
    assert function(one.half(), many).dtype == torch.float32
    assert function(one.half(), many.bfloat16()).dtype == torch.float32
    assert function(one, many.double()).dtype == torch.float64
    assert function(one[:0], many[0, :0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        ("corner_to_center", (torch.ones(2, 3),), r"boxes: expected shape \[..., 4\], got \[2, 3\]"),
        ("center_to_corner", (torch.ones(5),), r"boxes: expected shape \[..., 4\], got \[5\]"),
        ("clip_boxes", (torch.tensor(1.0),), r"boxes: expected shape \[..., 4\], got \[\]"),
        ("encode_boxes", (torch.ones(2, 4), torch.ones(2, 4).long()), "boxes: expected a floating-point dtype"),
        ("encode_boxes", (torch.ones(2, 3), torch.ones(2, 4)), r"expected shape \[..., 4\], got \[2, 3\]"),
        ("decode_boxes", (torch.ones(2, 4), torch.ones(2, 5)), r"offsets: expected shape \[..., 4\], got \[2, 5\]"),
        ("decode_boxes", (torch.ones(2, 4).int(), torch.ones(2, 4)), "anchors: expected a floating-point dtype"),
        ("decode_boxes", (torch.ones(2, 4), torch.ones(2, 4, device="meta")), "offsets: expected device cpu, got meta"),
    ],
)
def test_bad_input(function, args, message):
    with pytest.raises(ValueError, match=message):
        getattr(tinyssd_ops, function)(*args)
