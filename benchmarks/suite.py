"""The rows of the suite: for every op its inputs, sizes, peers and floors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import tinyssd_ops as ops
from benchmarks import agreement, floors, inputs, peers
from benchmarks.agreement import Agreement
from benchmarks.assignment import assignment_cases
from benchmarks.case import Case, Peer, Trained
from benchmarks.floors import Floor
from benchmarks.measure import Args
from benchmarks.suppression import batched_nms_cases, nms_cases, nms_padded_cases, soft_nms_cases, worst_nms_cases
from tinyssd_ops import reference

# Kind, images and classes of the rows of `multibox_detection` and `detect`; 2 classes are background and object.
_PREDICTIONS = (
    ("random", 1, 2),
    ("random", 4, 2),
    ("random", 32, 2),
    ("21 classes", 4, 21),
    ("detector", 1, 2),
    ("detector", 32, 2),
)


def cases(trained: Trained, quick: bool) -> Iterator[Case]:
    """Every row, op by op; ``quick``: only the small sizes."""
    from benchmarks import assigner_cases  # it builds on this module

    everything = (
        *box_iou_cases(),
        *assignment_cases(),
        *nms_cases(trained),
        *worst_nms_cases(),
        *batched_nms_cases(),
        *nms_padded_cases(trained),
        *soft_nms_cases(),
        *detection_cases(trained),
        *detect_cases(trained),
        *train_step_cases(),
        *assigner_cases.cases(),
    )
    pairs = 200_000
    largest = {"nms": 1_000, "batched_nms": 1_000, "box_iou": 1_000, "assign_anchors": pairs, "multibox_target": pairs}
    largest["train_step"] = 2
    return (case for case in everything if not quick or case.size <= largest.get(case.op, 10_000))


def box_iou_cases() -> Iterator[Case]:
    """N x N boxes."""
    others = (
        Peer("reference", reference.box_iou, agreement.close),
        Peer("torchvision", peers.torchvision_box_iou, agreement.close, "torchvision"),
        Peer("powerboxes", peers.powerboxes_iou, _close_distance, "powerboxes", peers.numpy_inputs, cpu_only=True),
        Peer("fastbbox", peers.fastbbox_iou, _close_array, "fastbbox", peers.numpy_inputs, cpu_only=True),
    )
    floor = floors.write(lambda a, b: ((len(a), len(b)),))
    for size in (100, 300, 1_000, 2_000, 5_444):

        def make(seed: int, size: int = size) -> Args:
            return inputs.random_boxes(size, seed), inputs.random_boxes(size, seed + 500)

        yield Case("box_iou", "random", size, f"{size:,} x {size:,}", make, ops.box_iou, others, (floor,))


def detection_cases(trained: Trained) -> Iterator[Case]:
    """``multibox_detection``; the size is B * A."""
    others = (
        Peer("reference", reference.multibox_detection, agreement.rows, largest=40_000),
        Peer("torch loop", peers.loop_detection, agreement.rows, largest=40_000),
    )
    work = (
        floors.copy_predictions(),
        floors.write(lambda probs, *_: ((probs.shape[0], probs.shape[2], 6),)),
        floors.sort_candidates(_best_objects),
    )
    for kind, images, classes in _PREDICTIONS:

        def make(seed: int, kind: str = kind, images: int = images, classes: int = classes) -> Args:
            found = predictions(trained, kind, images, classes, seed)
            return found.logits.softmax(dim=-1).transpose(1, 2).contiguous(), found.offsets, found.anchors

        label = f"B={images} A=5444 C={classes}"
        yield Case("multibox_detection", kind, images * 5_444, label, make, ops.multibox_detection, others, work)


def detect_cases(trained: Trained) -> Iterator[Case]:
    """``detect`` as an application uses it, from logits: the softmax is part of every side. The size is B * A."""
    others = (
        Peer("reference", _reference_detect_logits, agreement.detections, largest=6_000),
        Peer(
            "torchvision",
            peers.torchvision_detect,
            agreement.detections,
            "torchvision",
            peers.torchvision_detect_inputs,
        ),
    )
    for kind, images, classes in _PREDICTIONS:

        def make(seed: int, kind: str = kind, images: int = images, classes: int = classes) -> Args:
            found = predictions(trained, kind, images, classes, seed)
            return found.logits, found.offsets, found.anchors

        label = f"B={images} A=5444 C={classes}"
        work = (floors.copy_predictions(), floors.sort_candidates(_likely_objects))
        yield Case("detect", kind, images * 5_444, label, make, _detect_logits, others, work)


def _best_objects(probs: Tensor, *_: Tensor) -> list[Tensor]:
    """The candidates of ``multibox_detection``: anchors whose best class is an object."""
    confidence, classes = probs.max(dim=1)
    return [scores[best > 0] for scores, best in zip(confidence, classes, strict=True)]


def _likely_objects(logits: Tensor, *_: Tensor) -> list[Tensor]:
    """The candidates of ``detect``: pairs of an anchor and an object class that reach the default score."""
    probs = logits.softmax(dim=-1)[..., 1:].flatten(1)
    return [scores[scores >= 0.01] for scores in probs]


def train_step_cases() -> Iterator[Case]:
    """A training step of TinySSD at 256x256: targets, forward, loss, backward, optimizer; the size is B."""
    from benchmarks import train_step

    def given(*args: Any) -> Tensor:
        return train_step.step(None, *args)

    def with_reference(*args: Any) -> Tensor:
        return train_step.step(reference.multibox_target, *args)

    def with_loop(*args: Any) -> Tensor:
        return train_step.step(peers.loop_target, *args)

    def native(*args: Any) -> Tensor:
        return train_step.step(ops.multibox_target, *args)

    others = (Peer("reference", with_reference, agreement.close), Peer("torch loop", with_loop, agreement.close))
    floor = Floor("the step with its targets given", given)
    for images in (2, 8, 32):

        def make(seed: int, images: int = images) -> Args:
            return train_step.make_step_inputs(images, seed)

        yield Case("train_step", "random", images, f"B={images}", make, native, others, (floor,))


def predictions(trained: Trained, kind: str, images: int, classes: int, seed: int) -> inputs.Predictions:
    """Random ones, or a trained detector's."""
    if kind == "detector":
        return trained.predictions(images, seed)
    return inputs.random_predictions(images, classes, seed, inputs.ssd_anchors())


def _detect_logits(logits: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    return ops.detect(logits.softmax(dim=-1).transpose(1, 2).contiguous(), offsets, anchors)


def _reference_detect_logits(logits: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    return reference.detect(logits.softmax(dim=-1).transpose(1, 2).contiguous(), offsets, anchors)


def _close_array(ours: Tensor, theirs: Any) -> Agreement:
    return agreement.close(ours, torch.from_numpy(theirs))


def _close_distance(ours: Tensor, theirs: Any) -> Agreement:
    return agreement.close(ours, torch.from_numpy(1 - theirs).float())
