"""Which anchor learns which object, by the rule of one's choice; ``docs/assignment.md`` says whose rule is whose.

What the network predicts now decides too in "task_aligned" and "simota", so their targets are made anew in every step.
Crowds, the objects that labels say to ignore, take the anchors that overlap them most out of the loss, in every rule
but "greedy" (see :mod:`tinyssd.training.targets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from tinyssd.data.source import IGNORED_FROM
from tinyssd.model.network import TinySSDConfig
from tinyssd.run.config import TrainConfig
from tinyssd_ops import (
    assign_anchors,
    assign_atss,
    assign_simota,
    assign_task_aligned,
    assign_threshold,
    assignment_target,
    decode_boxes,
)

Rule = Literal["greedy", "threshold", "atss", "task_aligned", "simota"]
RULES: tuple[Rule, ...] = get_args(Rule)

# The most candidates that the ops rank.
_MOST_TOPK = 64


@dataclass(frozen=True)
class Stages:
    """The anchors of a network, stage after stage.

    Attributes:
        sizes: How many anchors each stage has.
        per_cell: How many of them share a cell, stage by stage.
        strides: [A], the width of each anchor's cell in pixels of the input.
        scale: [4], what makes pixels of shares of the input: its width and height, twice.
    """

    sizes: list[int]
    per_cell: list[int]
    strides: Tensor
    scale: Tensor

    @classmethod
    def of(cls, config: TinySSDConfig, device: torch.device | str = "cpu") -> Stages:
        """Those of a network that ``config`` describes, its tensors where the anchors are."""
        cells = config.feature_sizes()
        per_cell = [len(s) + len(r) - 1 for s, r in zip(config.sizes, config.ratios, strict=True)]
        sizes = [rows * columns * count for (rows, columns), count in zip(cells, per_cell, strict=True)]
        height, width = config.image_size
        wide = [torch.full((size,), width / columns) for size, (_, columns) in zip(sizes, cells, strict=True)]
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        return cls(sizes, per_cell, torch.cat(wide).to(device), scale.to(device))


@torch.no_grad()
def assign(
    rule: Rule,
    stages: Stages,
    anchors: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    offsets: Tensor,
    settings: TrainConfig,
) -> tuple[Tensor, Tensor]:
    """The object of each anchor, and how well the anchor's prediction should score.

    Args:
        rule: One of ``RULES``.
        stages: The network's.
        anchors: [1, A, 4], corners as shares of the input.
        labels: [B, G, 5], as batches have them.
        probabilities: [B, A, C - 1], of the objects' classes, as the network has them now; 0..1.
        offsets: [B, 4A], as the network has them now.
        settings: Its ``match_iou`` and ``ignore_iou`` are the thresholds of "greedy" and "threshold".

    Returns:
        int64 [B, A], the index of the label, -1 for background, -2 for neither. [B, A], the target of the score of the
        object's class: the normalised alignment in "task_aligned", the IoU of the predicted box in "simota", 1 for the
        rules that look at anchors alone; 0 without an object.
    """
    classes, ids = labels[..., 0], labels[..., 0].long()
    ignored = classes <= IGNORED_FROM
    valid = (classes >= 0) | ignored
    # In pixels: a circle, and a cell, are as wide as high.
    own, gts = anchors[0] * stages.scale, (labels[..., 1:] * stages.scale).contiguous()
    if rule in ("task_aligned", "simota"):
        predicted = decode_boxes(own, offsets.detach().float().unflatten(1, (-1, 4)))
        points, scores = (own[:, :2] + own[:, 2:]) / 2, probabilities.detach().float()
        if rule == "task_aligned":
            return assign_task_aligned(scores, predicted, points, ids, gts, valid, ignored)
        return assign_simota(scores, predicted, points, stages.strides, ids, gts, valid, ignored)
    if rule == "atss":
        topk = min(_MOST_TOPK, 9 * max(stages.per_cell))  # the paper's nine, for each anchor of a cell
        assigned = assign_atss(own, stages.sizes, gts, valid, ignored, topk)
    elif rule == "threshold":
        low = min(settings.ignore_iou, settings.match_iou)
        assigned = assign_threshold(own, gts, valid, ignored, settings.match_iou, low, match_every_box=True)
    else:
        assigned = assign_anchors(own, gts, classes >= 0, settings.match_iou)
    return assigned, (assigned >= 0).to(anchors.dtype)


def targets_of(assigned: Tensor, anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the losses want of an assignment [B, A]: offsets, mask and classes, as ``make_targets`` returns them."""
    boxes, ids = labels[..., 1:].contiguous(), labels[..., 0].long()
    return assignment_target(assigned, ids, boxes, anchors[0])
