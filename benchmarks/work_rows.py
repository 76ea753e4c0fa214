"""The rows of ``benchmarks.work``: inputs, the least bytes of each, and what the modelled time must not exceed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.assigner_cases import YOLO, arguments
from benchmarks.work_model import floor_seconds
from tinyssd_ops import multibox_prior

Args = tuple[Any, ...]
_RATIOS = (1.0, 2.0, 0.5)
_RATIOS_5 = (1.0, 2.0, 0.5, 3.0, 1 / 3)


@dataclass(frozen=True)
class Row:
    """A call to count.

    Attributes:
        op: Its name among the ops.
        label: Inputs and size.
        make: The op's arguments, from a seed.
        floor: The least seconds, from the arguments and the results.
        most_seconds: The goal; None: there is none.
        most_scratch: The goal for scratch memory, in bytes.
        floor_ratio: The goal as a multiple of the floor.
    """

    op: str
    label: str
    make: Callable[[], Args]
    floor: Callable[[Args, tuple[Tensor, ...]], float]
    most_seconds: float | None = None
    most_scratch: float | None = None
    floor_ratio: float | None = None

    @property
    def name(self) -> str:
        """What ``--filter`` searches."""
        return f"{self.op} {self.label}"


def rows() -> Iterator[Row]:
    """Every row."""
    yield from nms_rows()
    yield from soft_nms_rows()
    yield from detection_rows()
    yield from matrix_rows()
    yield from assigner_rows()


def nms_rows() -> Iterator[Row]:
    """``nms`` of one list at IoU 0.5."""
    goals = {1_000: 30e-6, 4_096: 70e-6, 100_000: 0.6e-3, 500_000: 5e-3}
    for size, goal in goals.items():

        def random(size: int = size) -> Args:
            return inputs.random_boxes(size, 0), inputs.scores(size, 0), 0.5

        yield Row("nms", f"random N={size:,}", random, _nms_floor, goal)
    yield Row("nms", "chain N=20,000", lambda: chain(20_000), _nms_floor, 1.5e-3)

    def identical() -> Args:
        return inputs.identical_boxes(100_000, 0), inputs.scores(100_000, 0), 0.5

    yield Row("nms", "identical N=100,000", identical, _nms_floor, 0.3e-3)


def soft_nms_rows() -> Iterator[Row]:
    """``soft_nms`` of a batch, of which 100 boxes a picture are kept: the depth grows with what is kept."""
    for name, gaussian in (("linear", False), ("gaussian", True)):

        def make(gaussian: bool = gaussian) -> Args:
            boxes = torch.stack([inputs.clustered_boxes(1_000, seed) for seed in range(32)])
            scores = torch.stack([inputs.scores(1_000, seed) for seed in range(32)])
            return boxes, scores, gaussian, 0.3, 0.5, None, 0.001, 100

        yield Row("soft_nms", f"{name} B=32 N=1,000", make, _bytes_floor)


def chain(count: int) -> Args:
    """Each box is suppressed by the one before it alone, in the order of ranks: every other one is kept."""
    left = 0.25 * torch.arange(count, dtype=torch.float32)
    boxes = torch.stack((left, torch.zeros(count), left + 1, torch.ones(count)), dim=1)
    return boxes, torch.linspace(1, 0, count), 0.5


def detection_rows() -> Iterator[Row]:
    """``multibox_detection`` and ``detect`` of a batch of predictions."""

    def random() -> Args:
        found = inputs.random_predictions(32, 2, 0, inputs.ssd_anchors())
        return found.logits.softmax(dim=-1).transpose(1, 2).contiguous(), found.offsets, found.anchors

    def multibox() -> Args:
        return (*random(), 0.5, 0.01)

    def small() -> Args:
        return (*random(), 0.5, 0.01, 100, False)

    yield Row("multibox_detection", "B=32 A=5444 C=2", multibox, _detection_floor, 150e-6)
    yield Row("detect", "B=32 A=5444 C=2", small, _detection_floor, 150e-6)
    yield Row(
        "detect", "B=32 A=8732 C=81", lambda: (*ssd300(32), 0.5, 0.01, 200, False), _detection_floor, 400e-6, 100e6
    )


def ssd300(num_images: int) -> Args:
    """Probabilities, offsets and anchors as of an SSD300 for 80 classes.

    An image has 20 objects, whose class the anchors that overlap them well predict with probabilities from 0.01 to 1;
    all else is background, some of it with a doubt.
    """
    stages = ((38, _RATIOS), (19, _RATIOS_5), (10, _RATIOS_5), (5, _RATIOS_5), (3, _RATIOS), (1, _RATIOS))
    scales = torch.linspace(0.1, 0.9, len(stages)).tolist()
    anchors = torch.cat(
        [multibox_prior(n, n, (s, 1.2 * s), ratios) for (n, ratios), s in zip(stages, scales, strict=True)], dim=1
    )
    random = inputs.generator(0)
    num_anchors = anchors.shape[1]
    logits = torch.randn(num_images, num_anchors, 81, generator=random)
    logits[..., 0] += 10
    objects = inputs.labels(num_images, 20, 80, 0)
    from tinyssd_ops import box_iou

    iou = box_iou(anchors.expand(num_images, -1, -1), objects[..., 1:])
    best, which = iou.max(dim=2)
    classes = objects[..., 0].gather(1, which).long() + 1
    sure = torch.where(best > 0.4, 20 * best - 2 + torch.randn(best.shape, generator=random), torch.zeros(()))
    logits.scatter_add_(2, classes[..., None], sure[..., None])
    offsets = 0.5 * torch.randn(num_images, 4 * num_anchors, generator=random)
    return logits.softmax(dim=-1).transpose(1, 2).contiguous(), offsets, anchors


def retina_anchors() -> Tensor:
    """[1, 120087, 4]: nine a cell, as a RetinaNet has for a picture of 800 x 800."""
    sizes = tuple(0.04 * 1.26**k for k in range(7))
    levels = ((100, 1), (50, 2), (25, 4), (13, 8), (7, 16))
    return torch.cat([multibox_prior(n, n, tuple(s * size for size in sizes), _RATIOS) for n, s in levels], dim=1)


def matrix_rows() -> Iterator[Row]:
    """``multibox_target``, ``box_iou`` and its gradient."""
    yield Row(
        "multibox_target",
        "B=32 A=5444 G=32",
        lambda: (inputs.ssd_anchors(), inputs.labels(32, 32, 20, 0), 0.5),
        _bytes_floor,
        20e-6,
    )
    yield Row(
        "multibox_target",
        "B=16 A=120087 G=100",
        lambda: (retina_anchors(), inputs.labels(16, 100, 20, 0), 0.5),
        _bytes_floor,
        90e-6,
    )

    def pairs() -> Args:
        return inputs.random_boxes(5_444, 0), inputs.random_boxes(5_444, 500)

    def backward() -> Args:
        grad = torch.randn(1, 5_444, 5_444, generator=inputs.generator(0))
        return (grad, *(boxes[None] for boxes in pairs()), 0, False, 0.0, 0.0)

    yield Row("box_iou", "5,444 x 5,444", pairs, _bytes_floor, floor_ratio=1.15)
    yield Row("iou_pairs_backward", "5,444 x 5,444", backward, _bytes_floor)


def assigner_rows() -> Iterator[Row]:
    """Every rule on ordinary pictures and on one of a crowd, at their defaults."""
    ops = "assign_threshold", "assign_atss", "assign_task_aligned", "assign_simota", "assignment_target"
    for op in ops:
        for images, boxes in ((16, 20), (1, 500)):

            def make(op: str = op, images: int = images, boxes: int = boxes) -> Args:
                args = arguments(op, YOLO, images, boxes, 0)
                # RetinaNet's thresholds: the boxes keep anchors, which is a pass more.
                return (*args, None, 0.5, 0.4, True) if op == "assign_threshold" else args

            yield Row(op, f"B={images} A={sum(YOLO.sizes)} G={boxes}", make, _bytes_floor)


def tensor_bytes(values: tuple[Any, ...]) -> float:
    """Of the tensors among the values."""
    return float(sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor)))


def _bytes_floor(args: Args, results: tuple[Tensor, ...]) -> float:
    return floor_seconds(tensor_bytes(args) + tensor_bytes(results))


def _nms_floor(args: Args, results: tuple[Tensor, ...]) -> float:
    return floor_seconds(tensor_bytes(args) + tensor_bytes(results), len(args[0]), len(args[0]))


def _detection_floor(args: Args, results: tuple[Tensor, ...]) -> float:
    """With a sort of what the score leaves of an image."""
    candidates = (args[0][:, 1:] >= 0.01).sum(dim=(1, 2)).clamp(max=8_192)
    moved = tensor_bytes(args) + tensor_bytes(results)
    return floor_seconds(moved, float(candidates.sum()), float(candidates.max()))
