"""The inputs that the op tests share: small, seeded, named. Boxes are float32 ``(x1, y1, x2, y2)`` unless said."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tinyssd_ops
from tinyssd_ops import reference

NAN, INF = math.nan, math.inf
THRESHOLDS = [0.0, 0.005, 0.1, 0.3, 0.49999, 0.5, 0.50001, 0.7, 0.99, 1.0]
GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(n: int, seed: int = 0, side: float = 0.3) -> Tensor:
    g = generator(seed)
    corner = torch.rand(n, 2, generator=g)
    return torch.cat((corner, corner + side * torch.rand(n, 2, generator=g)), dim=1)


def clustered(n: int, seed: int = 0) -> Tensor:
    """Jittered copies of a few boxes: most of them suppressed, some close to any threshold."""
    g = generator(seed)
    centers = random_boxes(max(n // 20, 1), seed)
    return centers[torch.randint(len(centers), (n,), generator=g)] + 0.03 * torch.randn(n, 4, generator=g)


def identical(n: int, seed: int = 0) -> Tensor:
    return torch.tensor([[0.1, 0.2, 0.7, 0.5]]).repeat(n, 1)


def disjoint(n: int, seed: int = 0) -> Tensor:
    corner = 2.0 * torch.stack((torch.arange(n) % 17, torch.arange(n) // 17), dim=1)
    return torch.cat((corner, corner + 1), dim=1)


def touching(n: int, seed: int = 0) -> Tensor:
    """Unit squares that share edges: intersections of area 0."""
    return disjoint(n) - disjoint(n)[:, [0, 1, 0, 1]] / 2


def nested(n: int, seed: int = 0) -> Tensor:
    """Each box inside the one before, its sides 10% shorter."""
    half = 0.9 ** (torch.arange(n) % 200).float()[:, None]
    return torch.cat((-half, -half, half, half), dim=1)


def tiny(n: int, seed: int = 0) -> Tensor:
    return clustered(n, seed) * 1e-20


def small(n: int, seed: int = 0) -> Tensor:
    """Around the smallest side whose pruning the kernel trusts."""
    return clustered(n, seed) * 1e-15


def large(n: int, seed: int = 0) -> Tensor:
    """Around the largest side whose pruning the kernel trusts."""
    return clustered(n, seed) * 1e16


def huge(n: int, seed: int = 0) -> Tensor:
    """The areas overflow for some."""
    return clustered(n, seed) * 1e20


def gigantic(n: int, seed: int = 0) -> Tensor:
    return clustered(n, seed) * 1e30


def far_off(n: int, seed: int = 0) -> Tensor:
    """Sides of a unit in the last place or a few."""
    return random_boxes(n, seed, side=1.0) * 1e-3 + 1e4


def mixed_sizes(n: int, seed: int = 0) -> Tensor:
    """Sides over forty powers of two, around one spot."""
    g = generator(seed)
    side = 2.0 ** (40 * torch.rand(n, 1, generator=g) - 20)
    return clustered(n, seed) * side


def slivers(n: int, seed: int = 0) -> Tensor:
    """A thousand times as wide as high, or as high as wide."""
    boxes = clustered(n, seed)
    boxes[::2, 1::2] *= 1e-3
    boxes[1::2, 0::2] *= 1e-3
    return boxes


def broken(n: int, seed: int = 0) -> Tensor:
    """Good boxes with NaN, infinite, inverted, empty, negative-zero and unbounded ones among them."""
    boxes = clustered(n, seed)
    odd = torch.tensor(
        [
            [NAN, 0, 1, 1],
            [0, 0, 1, NAN],
            [NAN, NAN, NAN, NAN],
            [0, 0, INF, 1],
            [-INF, -INF, INF, INF],
            [INF, INF, INF, INF],
            [-INF, 0, INF, 0],
            [0.7, 0.5, 0.1, 0.2],
            [0.7, 0.2, 0.1, 0.5],
            [0.3, 0.3, 0.3, 0.3],
            [-0.0, -0.0, 0.0, 0.0],
            [-0.0, -0.0, 0.5, 0.5],
            [-3e38, -3e38, 3e38, 3e38],
            [-0.5, -0.5, 0.1, 0.1],
        ]
    )
    boxes[::3] = odd[torch.arange(len(boxes[::3])) % len(odd)]
    return boxes


def grazing(n: int, seed: int = 0, threshold: float = 0.5) -> Tensor:
    """Unit squares with a part of each: the IoU is the part's height, the threshold or a few ulps beside it."""
    heights = torch.tensor(threshold).view(torch.int32) + torch.arange(-4, 5)
    height = heights.to(torch.int32).view(torch.float32).clamp(max=1)[torch.arange(n // 2) % 9]
    x = 2.0 * torch.arange(n // 2)
    square = torch.stack((x, torch.zeros_like(x), x + 1, torch.ones_like(x)), dim=1)
    part = torch.stack((x, torch.zeros_like(x), x + 1, height), dim=1)
    return torch.cat((square, part, square[: n % 2]))


BOXES: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        random_boxes,
        clustered,
        identical,
        disjoint,
        touching,
        nested,
        tiny,
        small,
        large,
        huge,
        gigantic,
        far_off,
        mixed_sizes,
        slivers,
        broken,
        grazing,
    )
}


def random_scores(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=generator(seed + 1000))


def repeated_scores(n: int, seed: int = 0) -> Tensor:
    return (random_scores(n, seed) * 5).floor() / 5


def odd_scores(n: int, seed: int = 0) -> Tensor:
    """NaN, both zeros, both infinities, negatives, ties."""
    odd = torch.tensor([NAN, 0.0, -0.0, INF, -INF, -1.0, 0.5, 0.5, 1e-45, -1e-45])
    return torch.where(random_scores(n, seed) < 0.5, odd[torch.arange(n) % len(odd)], random_scores(n, seed + 1))


SCORES: dict[str, Callable[..., Tensor]] = {f.__name__: f for f in (random_scores, repeated_scores, odd_scores)}

# Around the blocks of 8 and 32 and the sort's switch at 192 (suppress.cpp and sort.h in csrc/cpu).
NMS_SIZES = [1, 2, 7, 8, 9, 31, 32, 33, 65, 191, 192, 193, 289]
# Around the grid's switch: that many kept boxes.
KEPT_SIZES = [383, 384, 385]


def nms_cases() -> list[Any]:
    """Boxes [N, 4] and scores [N]: every kind of boxes and scores at a few sizes, one kind at all of them."""
    pairs = [(kind, n, "repeated_scores") for kind in BOXES for n in (33, 300)]
    pairs += [("clustered", n, "random_scores") for n in NMS_SIZES]
    pairs += [("disjoint", n, "random_scores") for n in KEPT_SIZES]
    pairs += [(kind, 300, scores) for kind in ("clustered", "broken", "identical") for scores in SCORES]
    return [pytest.param(BOXES[k](n), SCORES[s](n), id=f"{k}-{n}-{s}") for k, n, s in pairs]


def class_ids(n: int, num_classes: int, seed: int = 0) -> Tensor:
    return torch.randint(num_classes, (n,), generator=generator(seed + 2000))


# Ids of every kind: few, one a box, negative, and too far apart for any coordinate shift.
CLASS_IDS: dict[str, Callable[[int], Tensor]] = {
    "one": lambda n: torch.zeros(n, dtype=torch.int64),
    "three": lambda n: class_ids(n, 3),
    "hundred": lambda n: class_ids(n, 100),
    "one_a_box": lambda n: torch.arange(n),
    "negative": lambda n: class_ids(n, 7) - 3,
    "extreme": lambda n: torch.tensor([-(2**63), 2**63 - 1, -1, 0, 2**40, 2**40 + 1])[class_ids(n, 6)],
    "int32": lambda n: (class_ids(n, 5) - 2).to(torch.int32),
    "int8": lambda n: (class_ids(n, 5) - 2).to(torch.int8),
    "uint8": lambda n: (class_ids(n, 5) * 60).to(torch.uint8),
}


def assign_cases() -> list[Any]:
    """Anchors [A, 4] and boxes [G, 4], around the tiles of 64 anchors, and every kind of boxes on both sides."""
    prior = tinyssd_ops.multibox_prior(4, 4, (0.3, 0.6), (1, 2, 0.5))[0]
    cases = {f"anchors_{a}": (clustered(a, 1), clustered(7, 2)) for a in (1, 2, 63, 64, 65, 127, 128, 129, 200)}
    cases |= {f"gts_{g}": (prior, random_boxes(g, 3)) for g in (0, 1, 2, 63, 64, 65, 100)}
    cases |= {f"both_{kind}": (build(130, 4), build(9, 4)) for kind, build in BOXES.items()}
    cases |= {
        "no_anchors": (prior[:0], random_boxes(3)),
        "priors_random": (prior, random_boxes(6, 5)),
        "as_many": (random_boxes(70, 6), random_boxes(70, 7)),
        "far_away": (prior, random_boxes(5, 8) + 100),
        "duplicate_gts": (prior, random_boxes(3, 9).repeat(3, 1)),
        "duplicate_anchors": (random_boxes(5, 10).repeat(30, 1), random_boxes(4, 10)),
        "gts_are_anchors": (prior, prior[[40, 3, 3, 60]]),
        "broken_gts": (prior, broken(16)),
        "broken_anchors": (broken(100), random_boxes(8, 11)),
        "signed_zeros": (torch.tensor([[-0.0, -0.0, 1, 1], [0.0, 0.0, 1, 1]]), torch.tensor([[0.0, -0.0, 1, 1]])),
    }
    return [pytest.param(anchors, gts, id=name) for name, (anchors, gts) in cases.items()]


def labels(num_images: int, num_gt: int, seed: int = 0) -> Tensor:
    """Label rows [B, G, 5] of five classes; a third is padding, here and there, with boxes that must not matter."""
    boxes = random_boxes(num_images * num_gt, seed).view(num_images, num_gt, 4)
    classes = torch.randint(5, (num_images, num_gt, 1), generator=generator(seed + 3000)).float()
    padding = torch.rand(num_images, num_gt, 1, generator=generator(seed + 3001)) < 1 / 3
    return torch.cat((torch.where(padding, -1.0, classes), torch.where(padding, NAN, boxes)), dim=2)


def predictions(
    num_images: int = 2, num_classes: int = 4, num_anchors: int = 90, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities [B, C, A], offsets [B, 4A] and anchors [1, A, 4]."""
    g = generator(seed + 4000)
    probs = torch.rand(num_images, num_classes, num_anchors, generator=g).softmax(dim=1)
    offsets = torch.randn(num_images, 4 * num_anchors, generator=g)
    return probs, offsets, clustered(num_anchors, seed).abs().sort(dim=1).values[None]


def prediction_cases() -> list[Any]:
    """Arguments of multibox_detection and detect."""
    probs, offsets, anchors = predictions()
    ties = (probs * 4).round() / 4
    odd_probs, odd_offsets = probs.clone(), offsets.clone()
    odd_probs[:, 1, ::7], odd_probs[:, 0, 3::7], odd_probs[:, 2, 5::7] = NAN, NAN, INF
    odd_offsets[:, ::9], odd_offsets[:, 1::11], odd_offsets[:, 2::13], odd_offsets[:, 3::17] = NAN, INF, 1e4, -1e4
    cases = {
        "random": (probs, offsets, anchors),
        "anchors_2d": (probs, offsets, anchors[0]),
        "ties": (ties, offsets, anchors),
        "all_alike": (torch.full_like(probs, 0.25), offsets * 0, anchors),
        "all_background": (torch.cat((probs[:, :1] + 1, probs[:, 1:]), dim=1), offsets, anchors),
        "no_background": (torch.cat((probs[:, :1] - 1, probs[:, 1:]), dim=1), offsets, anchors),
        "odd": (odd_probs, odd_offsets, anchors),
        "broken_anchors": (probs, offsets, broken(90)[None]),
        "one_class": (probs[:, :1], offsets, anchors),
        "two_classes": predictions(3, 2, 70, seed=1),
        "many_classes": predictions(1, 40, 30, seed=2),
        "over_128_kept": predictions(1, 3, 400, seed=3),
        "one_anchor": predictions(2, 3, 1, seed=4),
        "no_anchors": predictions(2, 3, 0),
        "no_images": (probs[:0], offsets[:0], anchors),
    }
    return [pytest.param(args, id=name) for name, args in cases.items()]


# Computed in float32, as must be the results of these.
HALVES = [torch.float16, torch.bfloat16]


def sample_calls() -> dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Good calls of every op: plain, and with all options."""
    anchors = random_boxes(70, 1)
    gts = random_boxes(10, 2).view(2, 5, 4)
    boxes, scores = clustered(40, 3).view(2, 20, 4), random_scores(40, 3).view(2, 20)
    probs, offsets, priors = predictions(2, 3, 20)
    ids = class_ids(40, 3).view(2, 20)
    from cases_assigners import assigner_calls  # it builds on this module

    return {
        "box_iou": [((anchors, gts), {}), ((gts.double()[:, None], gts), {})],
        "iou_pairs": [((anchors, gts, 1, False, 0.0, 1e-7), {}), ((gts, gts.flip(0), 3, True, 1e-9, 1e-7), {})],
        "assign_anchors": [((anchors, gts), {}), ((anchors, gts[0], torch.arange(5) > 1, 0.3), {})],
        "multibox_target": [((anchors[None], labels(2, 4)), {}), ((anchors, labels(2, 4), 0.3), {})],
        "nms": [((boxes[0], scores[0], 0.5), {})],
        "batched_nms": [((boxes[0], scores[0], ids[0], 0.5), {})],
        "nms_padded": [
            ((boxes, scores, 0.5), {}),
            ((boxes, scores, 0.3), {"class_ids": ids, "score_threshold": 0.2, "max_output": 7}),
        ],
        "soft_nms": [
            ((boxes, scores), {}),
            ((boxes, scores, True, 0.3, 0.4), {"class_ids": ids, "score_threshold": 0.1, "max_output": 7}),
        ],
        "multibox_detection": [((probs, offsets, priors), {}), ((probs, offsets, priors[0], 0.3, 0.5), {})],
        "detect": [
            ((probs, offsets, priors), {}),
            ((probs, offsets, priors, 0.3, 0.2, 7), {"class_agnostic": True}),
        ],
        **assigner_calls(anchors, gts),
    }


# The ops whose results have a shape that the inputs' values decide.
RAGGED = ("nms", "batched_nms")
CALLS = [
    pytest.param(op, args, kwargs, id=f"{op}-{i}")
    for op, calls in sample_calls().items()
    for i, (args, kwargs) in enumerate(calls)
]
FIXED_SHAPE_CALLS = [call for call in CALLS if call.values[0] not in RAGGED]


def assert_same(actual: Any, expected: Any, context: object = "") -> None:
    """Equal shapes, dtypes and values, bit for bit but for the sign of zero and the kind of NaN."""
    if not isinstance(expected, torch.Tensor):
        assert len(actual) == len(expected)
        for one, two in zip(actual, expected, strict=True):
            assert_same(one, two, context)
        return
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{context}: {m}" if context != "" else m
    )


_ANSWERS: dict[tuple[Any, ...], tuple[tuple[Any, ...], Any]] = {}


def reference_answer(op: str, *args: Any) -> Any:
    """What the reference says, asked once for all the backends and SIMD paths that are compared with it.

    For arguments that are parameters of a test: tensors are told apart by identity.
    """
    key = (op, *(id(arg) if isinstance(arg, Tensor) else arg for arg in args))
    if key not in _ANSWERS:
        _ANSWERS[key] = (args, getattr(reference, op)(*args))  # with the arguments, so that no other gets their id
    return _ANSWERS[key][1]


def torchvision() -> Any:
    """The package, or a skipped test. One that does not fit this torch fails in an error of its own kind."""
    try:
        import torchvision
    except Exception as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    return torchvision


def golden(pattern: str) -> list[Any]:
    """The golden files of the pattern, as parameters; one skipped parameter where the folder is absent."""
    files = sorted(GOLDEN.glob(pattern))
    if not files:
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason="no ../shared/golden beside this tree"))]
    return [pytest.param(path, id=path.stem) for path in files]


def load_golden(path: Path) -> dict[str, Any]:
    """The arrays of a golden file as tensors, scalars as numbers."""
    import numpy as np

    with np.load(path) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return {name: t.item() if t.dim() == 0 else t for name, t in tensors.items()}
