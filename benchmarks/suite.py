"""The rows of the suite: for every op its inputs, sizes, peers and floors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tinyssd_ops as ops
from benchmarks import agreement, floors, inputs, peers
from benchmarks.agreement import Agreement
from benchmarks.floors import Floor
from benchmarks.measure import Args
from tinyssd_ops import reference

_SIZES = (100, 1_000, 5_000, 20_000, 100_000, 500_000)
_THRESHOLD = 0.5
_CLASSES = 80
# Kind, images and classes of the rows of `multibox_detection` and `detect`; 2 classes are background and object.
_PREDICTIONS = (
    ("random", 1, 2),
    ("random", 4, 2),
    ("random", 32, 2),
    ("21 classes", 4, 21),
    ("detector", 1, 2),
    ("detector", 32, 2),
)
# Peers that compare all pairs take seconds from here on, those with a spatial index somewhat later.
_QUADRATIC, _INDEXED = 20_000, 100_000


@dataclass(frozen=True)
class Peer:
    """Something else that does the job of an op.

    Attributes:
        name: As printed.
        run: Takes what ``prepare`` returns.
        agree: Compares the op's result with the peer's.
        package: What must be importable, or None.
        prepare: Turns the op's arguments into the peer's; not timed.
        largest: The largest size at which it ends in reasonable time; None: any.
        same_job: False if its definition differs; the row then says in how much.
        cpu_only: True for NumPy packages.
    """

    name: str
    run: Callable[..., Any]
    agree: Callable[[Any, Any], Agreement]
    package: str | None = None
    prepare: Callable[..., Args] = lambda *args: args
    largest: int | None = None
    same_job: bool = True
    cpu_only: bool = False


@dataclass(frozen=True)
class Case:
    """A row to measure.

    Attributes:
        op: The stem of the op's name.
        inputs: The kind of inputs.
        size: What the plots have on their x axis.
        label: The size in words.
        make: The op's arguments, on the CPU, from a seed.
        run: The op.
        peers: The reference first.
        floors: The larger is the floor.
    """

    op: str
    inputs: str
    size: int
    label: str
    make: Callable[[int], Args]
    run: Callable[..., Any]
    peers: tuple[Peer, ...]
    floors: tuple[Floor, ...]

    @property
    def name(self) -> str:
        """What ``--filter`` searches."""
        return f"{self.op} {self.inputs} {self.label}"


@dataclass(frozen=True)
class Trained:
    """Where real detector output comes from: pictures to train on (or None), and the run folder."""

    data: str | None
    run: Path

    def predictions(self, num_images: int, seed: int) -> inputs.Predictions:
        """See :func:`benchmarks.inputs.detector_predictions`."""
        return inputs.detector_predictions(self.data, self.run, num_images, seed)


def cases(trained: Trained, quick: bool) -> Iterator[Case]:
    """Every row, op by op; ``quick``: only the small sizes."""
    from benchmarks import assigner_cases  # it builds on this module

    everything = (
        *box_iou_cases(),
        *assignment_cases(),
        *nms_cases(trained),
        *batched_nms_cases(),
        *nms_padded_cases(trained),
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


def assignment_cases() -> Iterator[Case]:
    """``assign_anchors`` and ``multibox_target`` on B images, A anchors, G boxes; the size is B * A * G."""
    assign_peers = (
        Peer("reference", reference.assign_anchors, agreement.exact),
        Peer("torch loop", peers.loop_assign, agreement.exact),
        Peer("torchvision", peers.torchvision_assign, _matching_rule, "torchvision", same_job=False),
    )
    target_peers = (
        Peer("reference", reference.multibox_target, agreement.close),
        Peer("torch loop", peers.loop_target, agreement.close),
        Peer("torchvision", peers.torchvision_target, agreement.matched_anchors, "torchvision", same_job=False),
    )
    for images, scale, boxes in ((1, 1, 1), (1, 1, 8), (32, 1, 1), (32, 1, 8), (32, 1, 32), (32, 1, 64), (32, 2, 32)):
        anchors = inputs.ssd_anchors(scale)
        num_anchors = anchors.shape[1]
        pairs = images * num_anchors * boxes
        label = f"B={images} A={num_anchors} G={boxes}"

        def target_inputs(seed: int, images: int = images, boxes: int = boxes, anchors: Tensor = anchors) -> Args:
            return anchors, inputs.labels(images, boxes, 20, seed)

        def assign_inputs(seed: int, make: Callable[[int], Args] = target_inputs) -> Args:
            anchors, labels = make(seed)
            return anchors[0], labels[..., 1:].contiguous()

        work = floors.all_pairs(pairs)
        # int64 counts as two float32 values.
        assigned = floors.write(lambda a, g: ((len(g), 2 * len(a)),))
        written = floors.write(lambda a, g: tuple((len(g), n * a.shape[1]) for n in (4, 4, 2)))
        yield Case(
            "assign_anchors", "random", pairs, label, assign_inputs, ops.assign_anchors, assign_peers, (work, assigned)
        )
        yield Case(
            "multibox_target", "random", pairs, label, target_inputs, ops.multibox_target, target_peers, (work, written)
        )


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
                return boxes(size, seed), inputs.scores(size, seed), _THRESHOLD

            yield Case("nms", kind, size, f"N={size:,}", make, ops.nms, kind_peers, (floors.sort(1),))

    def detector(seed: int) -> Args:
        boxes, scores, threshold = detector_batch(trained, 1, seed)
        return boxes[0], scores[0], threshold

    yield Case("nms", "detector", 5_444, "N=5,444", detector, ops.nms, others, (floors.sort(1),))


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
                return boxes(size, seed), inputs.scores(size, seed), ids, _THRESHOLD

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
            return boxes, torch.stack([inputs.scores(size, s) for s in seeds]), _THRESHOLD

        label = f"B={images} N={size:,}"
        yield Case("nms_padded", "random", images * size, label, make, ops.nms_padded, others, (floors.sort(1),))

    def detector(seed: int) -> Args:
        return detector_batch(trained, 32, seed)

    size = 32 * 5_444
    yield Case("nms_padded", "detector", size, "B=32 N=5,444", detector, ops.nms_padded, others, (floors.sort(1),))


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
    from benchmarks import training

    def given(*args: Any) -> Tensor:
        return training.step(None, *args)

    def with_reference(*args: Any) -> Tensor:
        return training.step(reference.multibox_target, *args)

    def with_loop(*args: Any) -> Tensor:
        return training.step(peers.loop_target, *args)

    def native(*args: Any) -> Tensor:
        return training.step(ops.multibox_target, *args)

    others = (Peer("reference", with_reference, agreement.close), Peer("torch loop", with_loop, agreement.close))
    floor = Floor("the step with its targets given", given)
    for images in (2, 8, 32):

        def make(seed: int, images: int = images) -> Args:
            return training.make_step_inputs(images, seed)

        yield Case("train_step", "random", images, f"B={images}", make, native, others, (floor,))


def predictions(trained: Trained, kind: str, images: int, classes: int, seed: int) -> inputs.Predictions:
    """Random ones, or a trained detector's."""
    if kind == "detector":
        return trained.predictions(images, seed)
    return inputs.random_predictions(images, classes, seed, inputs.ssd_anchors())


def detector_batch(trained: Trained, images: int, seed: int) -> Args:
    """Boxes [B, A, 4] and scores [B, A] of a trained detector's object class, and the threshold.

    The scores are ranks in 0..1, in the detector's order: a detector has equal scores, which peers order differently.
    """
    found = trained.predictions(images, seed)
    boxes = ops.decode_boxes(found.anchors, found.offsets.unflatten(1, (-1, 4)))
    logits = found.logits[..., 1] - found.logits[..., 0]
    rank = logits.argsort(dim=1, stable=True).argsort(dim=1)
    return boxes, (rank + 0.5) / logits.shape[1], _THRESHOLD


def _detect_logits(logits: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    return ops.detect(logits.softmax(dim=-1).transpose(1, 2).contiguous(), offsets, anchors)


def _reference_detect_logits(logits: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    return reference.detect(logits.softmax(dim=-1).transpose(1, 2).contiguous(), offsets, anchors)


def _matching_rule(ours: Tensor, theirs: Tensor) -> Agreement:
    different = int((ours != theirs).sum())
    note = f"another matching rule: {different} of {ours.numel()} anchors differ" if different else ""
    return Agreement(different == 0, note)


def _close_array(ours: Tensor, theirs: Any) -> Agreement:
    return agreement.close(ours, torch.from_numpy(theirs))


def _close_distance(ours: Tensor, theirs: Any) -> Agreement:
    return agreement.close(ours, torch.from_numpy(1 - theirs).float())
