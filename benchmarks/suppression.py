"""The rows of ``nms``, ``batched_nms``, ``nms_padded`` and ``soft_nms``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

import tinyssd_ops as ops
from benchmarks import agreement, floors, inputs, peers
from benchmarks.case import THRESHOLD, Case, Peer, Trained, detector_batch, on_one_thread
from benchmarks.measure import Args
from tinyssd_ops import reference

_SIZES = (100, 1_000, 5_000, 20_000, 100_000, 500_000)
_CLASSES = 80
# Peers that compare all pairs take seconds from here on, those with a spatial index somewhat later.
_QUADRATIC, _INDEXED = 20_000, 100_000


def nms_cases(trained: Trained) -> Iterator[Case]:
    """One list of boxes, one class."""
    kinds = {
        "random": inputs.random_boxes,
        "clustered": inputs.clustered_boxes,
        "identical": inputs.identical_boxes,
        "disjoint": inputs.disjoint_boxes,
    }
    others = (
        Peer("reference", reference.nms, agreement.exact, largest=6_000),
        Peer("torchvision", peers.torchvision_nms, agreement.torchvision_kept, "torchvision", largest=_QUADRATIC),
        Peer("torch loop", peers.loop_nms, agreement.exact, largest=1_000),
        Peer(
            "powerboxes",
            peers.powerboxes_nms,
            agreement.kept_boxes,
            "powerboxes",
            peers.powerboxes_nms_inputs,
            largest=_QUADRATIC,
            cpu_only=True,
        ),
        Peer(
            "powerboxes rtree",
            peers.powerboxes_rtree_nms,
            agreement.kept_boxes,
            "powerboxes",
            peers.powerboxes_nms_inputs,
            largest=_QUADRATIC,
            cpu_only=True,
        ),
        Peer(
            "lsnms", peers.lsnms_nms, agreement.kept_boxes, "lsnms", peers.numpy_inputs, largest=_INDEXED, cpu_only=True
        ),
    )
    for kind, boxes in kinds.items():
        # Of identical boxes the first suppresses all others: torchvision needs one pass, an R-tree finds every pair.
        fast = {"torchvision"} if kind == "identical" else set()
        slow = {"powerboxes rtree", "lsnms"} if kind == "identical" else set()
        limits = dict.fromkeys(fast) | dict.fromkeys(slow, 5000)
        kind_peers = tuple(replace(peer, largest=limits.get(peer.name, peer.largest)) for peer in others)
        for size in _SIZES:

            def make(seed: int, size: int = size, boxes: Callable[[int, int], Tensor] = boxes) -> Args:
                return boxes(size, seed), inputs.scores(size, seed), THRESHOLD

            yield Case("nms", kind, size, f"N={size:,}", make, ops.nms, kind_peers, (floors.sort(1),))

    def detector(seed: int) -> Args:
        boxes, scores, threshold = detector_batch(trained, 1, seed)
        return boxes[0], scores[0], threshold

    yield Case("nms", "detector", 5_444, "N=5,444", detector, ops.nms, others, (floors.sort(1),))


def worst_nms_cases() -> Iterator[Case]:
    """What makes a search among the kept boxes hard, each with its threshold; and one list on one thread or all."""
    one = Peer("one thread", on_one_thread(ops.nms), agreement.exact)
    other = Peer("torchvision", peers.torchvision_nms, agreement.torchvision_kept, "torchvision", largest=_QUADRATIC)
    for kind, (boxes, threshold) in inputs.WORST.items():
        for size in (20_000, 100_000, 500_000):

            def make(
                seed: int, size: int = size, boxes: Callable[[int, int], Tensor] = boxes, threshold: float = threshold
            ) -> Args:
                return boxes(size, seed), inputs.scores(size, seed), threshold

            yield Case("nms", kind, size, f"N={size:,}", make, ops.nms, (other,), (floors.sort(1),))

    def random(seed: int) -> Args:
        return inputs.random_boxes(100_000, seed), inputs.scores(100_000, seed), THRESHOLD

    yield Case("nms", "random, threads", 100_000, "N=100,000", random, ops.nms, (one,), (floors.sort(1),))


def batched_nms_cases() -> Iterator[Case]:
    """One list of boxes in 80 classes, or all of them in one."""

    def others(largest: int, largest_reference: int) -> tuple[Peer, ...]:
        package, lsnms, inputs_of = peers.torchvision_batched_nms, peers.lsnms_batched_nms, peers.numpy_inputs
        return (
            Peer("reference", reference.batched_nms, agreement.exact, largest=largest_reference),
            Peer("torchvision", package, agreement.kept_boxes, "torchvision", largest=largest),
            Peer("lsnms", lsnms, agreement.kept_boxes, "lsnms", inputs_of, largest=_INDEXED, cpu_only=True),
        )

    kinds = {
        "random": (inputs.random_boxes, _CLASSES, others(_INDEXED, _QUADRATIC)),
        "clustered": (inputs.clustered_boxes, _CLASSES, others(_INDEXED, _QUADRATIC)),
        "one class": (inputs.random_boxes, 1, others(_QUADRATIC, 5_000)),
    }
    for kind, (boxes, classes, kind_peers) in kinds.items():
        for size in _SIZES:

            def make(
                seed: int, size: int = size, boxes: Callable[[int, int], Tensor] = boxes, classes: int = classes
            ) -> Args:
                ids = inputs.class_ids(size, classes, seed)
                return boxes(size, seed), inputs.scores(size, seed), ids, THRESHOLD

            label = f"N={size:,} C={classes}"
            yield Case("batched_nms", kind, size, label, make, ops.batched_nms, kind_peers, (floors.sort(1),))


def nms_padded_cases(trained: Trained) -> Iterator[Case]:
    """A batch of lists; the size is B * N."""
    others = (
        Peer("reference", reference.nms_padded, agreement.exact, largest=40_000),
        Peer("torchvision", peers.torchvision_nms_padded, agreement.torchvision_kept_lists, "torchvision"),
    )
    for images, size in ((8, 100), (8, 1_000), (32, 1_000), (32, 5_444)):

        def make(seed: int, images: int = images, size: int = size) -> Args:
            seeds = range(1_000 * seed, 1_000 * seed + images)
            boxes = torch.stack([inputs.random_boxes(size, s) for s in seeds])
            return boxes, torch.stack([inputs.scores(size, s) for s in seeds]), THRESHOLD

        label = f"B={images} N={size:,}"
        yield Case("nms_padded", "random", images * size, label, make, ops.nms_padded, others, (floors.sort(1),))

    def detector(seed: int) -> Args:
        return detector_batch(trained, 32, seed)

    size = 32 * 5_444
    yield Case("nms_padded", "detector", size, "B=32 N=5,444", detector, ops.nms_padded, others, (floors.sort(1),))


def soft_nms_cases() -> Iterator[Case]:
    """A batch of lists, both decays; the size is B * N. No package has it for a batch: the peers are of plain Torch."""
    others = (
        Peer("reference", reference.soft_nms, agreement.close, largest=8_000),
        Peer("torch loop", peers.loop_soft_nms, agreement.close, largest=8_000),
    )
    for kind, gaussian in (("linear", False), ("gaussian", True)):
        for images, size, most in ((8, 100, None), (8, 1_000, 100), (32, 5_444, 100)):

            def make(
                seed: int, images: int = images, size: int = size, most: int | None = most, gaussian: bool = gaussian
            ) -> Args:
                seeds = range(1_000 * seed, 1_000 * seed + images)
                boxes = torch.stack([inputs.clustered_boxes(size, s) for s in seeds])
                scores = torch.stack([inputs.scores(size, s) for s in seeds])
                return boxes, scores, gaussian, 0.3, 0.5, None, 0.001, most

            label = f"B={images} N={size:,} K={size if most is None else most}"
            yield Case("soft_nms", kind, images * size, label, make, ops.soft_nms, others, (floors.sort(1),))
