"""``python -m benchmarks.sanitize``: every op on the GPU, small and large, as the program that compute-sanitizer runs.

Results are copied to the host, so that initcheck sees what a kernel left unwritten. With
``PYTORCH_NO_CUDA_MEMORY_CACHING=1`` each tensor has an allocation of its own, and memcheck sees where it ends.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import tinyssd_ops
from benchmarks import inputs

# Boxes, images, anchors and ground truth: nothing at all, less than a warp, a little more than a block, large.
_SIZES = ((0, 1, 0, 0), (1, 1, 1, 1), (7, 2, 20, 3), (300, 3, 261, 17), (2_049, 4, 5_444, 33))
_MANY_BOXES = 20_000
# Inputs of more numbers are tried in one dtype: racecheck makes a kernel a hundred times as slow.
_LARGE = 50_000


def calls() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every op and its arguments, on the CPU."""
    for size, images, anchors, num_gt in _SIZES:
        boxes = torch.stack([inputs.clustered_boxes(max(size, 1), seed)[:size] for seed in range(images)])
        scores = torch.stack([inputs.scores(size, seed) for seed in range(images)])
        ids = torch.stack([inputs.class_ids(size, 5, seed) for seed in range(images)])
        yield from _nms_calls(boxes, scores, ids)
        priors = inputs.random_boxes(anchors, 1)
        labels = inputs.labels(images, num_gt, 4, 1)
        yield "box_iou", (priors, labels[..., 1:])
        yield "assign_anchors", (priors, labels[..., 1:], labels[..., 0] > 0)
        yield "multibox_target", (priors, labels)
        yield from _assigner_calls(priors, labels)
        for classes in (1, 2, 21):
            found = inputs.random_predictions(images, classes, 1, priors[None])
            probs = found.logits.softmax(dim=-1).transpose(1, 2).contiguous()
            yield "multibox_detection", (probs, found.offsets, priors)
            yield "detect", (probs, found.offsets, priors)
            yield "detect", (probs, found.offsets, priors, 0.5, 0.3, 10, True)
    boxes, scores = inputs.random_boxes(_MANY_BOXES, 1)[None], inputs.scores(_MANY_BOXES, 1)[None]
    yield from _nms_calls(boxes, scores, inputs.class_ids(_MANY_BOXES, 80, 1)[None])
    yield "multibox_target", (inputs.ssd_anchors(), inputs.labels(32, 32, 20, 1))
    yield "multibox_target", (inputs.ssd_anchors(8), inputs.labels(2, 20, 20, 1))  # many tiles: another way to match


def _nms_calls(boxes: Tensor, scores: Tensor, ids: Tensor) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield "nms", (boxes[0], scores[0], 0.5)
    yield "batched_nms", (boxes[0], scores[0], ids[0], 0.5)
    yield "nms_padded", (boxes, scores, 0.5)
    yield "nms_padded", (boxes, scores, 0.3, ids, 0.2, 50)
    yield "soft_nms", (boxes, scores, False, 0.3, 0.5, ids, 0.2, 50)
    yield "soft_nms", (boxes, scores, True, 0.3, 0.5, None, 0.2, 50)


def _assigner_calls(anchors: Tensor, labels: Tensor) -> Iterator[tuple[str, tuple[Any, ...]]]:
    ids, gts = labels[..., 0].long(), labels[..., 1:].contiguous()
    flags = ids > 0, ids == 1
    scores = torch.full((len(labels), len(anchors), 4), 0.5)
    head = scores, anchors.expand(len(labels), -1, -1).contiguous(), anchors[:, :2].contiguous()
    yield "assign_threshold", (anchors, gts, *flags, 0.5, 0.4, True, True)
    yield "assign_atss", (anchors, [len(anchors) // 2, -(-len(anchors) // 2)], gts, *flags)
    yield "assign_task_aligned", (*head, ids, gts, *flags)
    yield "assign_simota", (*head, torch.full((len(anchors),), 0.1), ids, gts, *flags)
    yield "assignment_target", (scores[..., 0].long(), ids, gts, anchors)


def headline_calls() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """A call of every op at a size that fills a GPU: what a profiler looks at."""
    anchors, predictions = inputs.ssd_anchors(), inputs.random_predictions(32, 2, 1, inputs.ssd_anchors())
    probs = predictions.logits.softmax(dim=-1).transpose(1, 2).contiguous()
    for size in (1_000, 100_000):
        yield "nms", (inputs.random_boxes(size, 1), inputs.scores(size, 1), 0.5)
    yield "box_iou", (inputs.random_boxes(5_444, 1), inputs.random_boxes(5_444, 2))
    yield "multibox_target", (anchors, inputs.labels(32, 32, 20, 1))
    yield "multibox_target", (inputs.ssd_anchors(4), inputs.labels(16, 100, 20, 1))
    yield from _assigner_calls(anchors[0], inputs.labels(32, 32, 4, 1))
    yield "multibox_detection", (probs, predictions.offsets, anchors)
    yield "detect", (probs, predictions.offsets, anchors)


def main(argv: Sequence[str]) -> None:
    """Calls everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"), help="cpu: a rehearsal")
    parser.add_argument("--headline", action="store_true", help="one large call of every op instead")
    options = parser.parse_args(argv)
    serving = tinyssd_ops.info()["backends"][options.device]
    if serving["backend"] != "native":
        raise SystemExit(f"no native kernels for {options.device}: {serving['why']}")
    count = 0
    for op, args in headline_calls() if options.headline else calls():
        large = max(arg.numel() for arg in args if isinstance(arg, Tensor)) > _LARGE
        for dtype in (torch.float32,) if large else (torch.float32, torch.float64, torch.float16):
            on_device = tree_map_only(Tensor, lambda t, d=dtype: _move(t, d, options.device), args)
            tree_map_only(Tensor, lambda t: t.cpu(), getattr(tinyssd_ops, op)(*on_device))
            count += 1
    grad, boxes1, boxes2 = (_move(t, torch.float32, options.device) for t in _backward_inputs(options.headline))
    gradients = torch.ops.tinyssd_ops.iou_pairs_backward(grad, boxes1, boxes2, 0, False, 0.0, 0.0)
    tree_map_only(Tensor, lambda t: t.cpu(), gradients)
    print(f"{count + 1} calls", flush=True)


def _backward_inputs(large: bool) -> tuple[Tensor, Tensor, Tensor]:
    if large:
        return torch.rand(1, 5_444, 5_444), inputs.random_boxes(5_444, 1)[None], inputs.random_boxes(5_444, 2)[None]
    boxes1, boxes2 = inputs.random_boxes(600, 1).view(2, 300, 4), inputs.random_boxes(140, 2).view(2, 70, 4)
    return torch.rand(2, 300, 70), boxes1, boxes2


def _move(tensor: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    """To the device, converted on the CPU: no kernel but ours runs where it can be helped."""
    return (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().to(device)


if __name__ == "__main__":
    main(sys.argv[1:])
