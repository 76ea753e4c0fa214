"""The rows of ``assign_anchors`` and ``multibox_target``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

import tinyssd_ops as ops
from benchmarks import agreement, floors, inputs, peers
from benchmarks.agreement import Agreement
from benchmarks.case import Case, Peer, on_one_thread
from benchmarks.measure import Args
from tinyssd_ops import reference


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

    # One large image, whose work several threads share.
    anchors = inputs.ssd_anchors(5)
    num_anchors, boxes = anchors.shape[1], 100

    def large_inputs(seed: int) -> Args:
        return anchors, inputs.labels(1, boxes, 20, seed)

    def large_assign_inputs(seed: int) -> Args:
        anchors, labels = large_inputs(seed)
        return anchors[0], labels[0, :, 1:].contiguous()

    work, size, label = floors.all_pairs(num_anchors * boxes), num_anchors * boxes, f"B=1 A={num_anchors} G={boxes}"
    one = Peer("one thread", on_one_thread(ops.assign_anchors), agreement.exact)
    yield Case("assign_anchors", "one image", size, label, large_assign_inputs, ops.assign_anchors, (one,), (work,))
    one = Peer("one thread", on_one_thread(ops.multibox_target), agreement.close)
    yield Case("multibox_target", "one image", size, label, large_inputs, ops.multibox_target, (one,), (work,))


def _matching_rule(ours: Tensor, theirs: Tensor) -> Agreement:
    different = int((ours != theirs).sum())
    note = f"another matching rule: {different} of {ours.numel()} anchors differ" if different else ""
    return Agreement(different == 0, note)
