"""Which anchor learns which object, by the rule of one's choice; ``docs/assignment.md`` says whose rule is whose.

What the network predicts now decides too in "task_aligned" and "simota", so their targets are made anew in every step.
Crowds, the objects that labels say to ignore, take the anchors that overlap them most out of the loss.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from tinyssd.data.source import IGNORED_FROM, PADDING
from tinyssd.model.build import ModelConfig
from tinyssd.model.loss import LossConfig
from tinyssd.model.network import TinySSDConfig
from tinyssd_ops import (
    assign_anchors,
    assign_atss,
    assign_simota,
    assign_task_aligned,
    assign_threshold,
    assignment_target,
    iou_pairs,
)

# The most candidates that the ops rank.
_MOST_TOPK = 64


@dataclass(frozen=True)
class Stages:
    """The anchors of a network, stage after stage.

    Attributes:
        sizes: How many anchors each stage has.
        per_cell: The most of them that share a cell.
        strides: [A], the width of each anchor's cell in pixels of the input.
        scale: [4], what makes pixels of shares of the input: its width and height, twice.
    """

    sizes: list[int]
    per_cell: int
    strides: Tensor
    scale: Tensor


@functools.lru_cache(maxsize=8)
def stages_of(config: ModelConfig, device: torch.device) -> Stages:
    """Those of the network that ``config`` describes, on the device; made once, so that no step waits for a copy."""
    cells, (height, width) = config.feature_sizes(), config.image_size
    if isinstance(config, TinySSDConfig):
        per_cell = [len(s) + len(r) - 1 for s, r in zip(config.sizes, config.ratios, strict=True)]
    else:
        per_cell = [len(stage) for stage in config.anchors]
    sizes = [rows * columns * count for (rows, columns), count in zip(cells, per_cell, strict=True)]
    strides = [torch.full((size,), width / columns) for size, (_, columns) in zip(sizes, cells, strict=True)]
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return Stages(sizes, max(per_cell), torch.cat(strides).to(device), scale.to(device))


@torch.no_grad()
def assign(
    stages: Stages,
    anchors: Tensor,
    probabilities: Tensor,
    boxes: Tensor,
    labels: Tensor,
    config: LossConfig,
    match_iou: float = 0.5,
    ignore_iou: float = 0.4,
) -> tuple[Tensor, Tensor]:
    """The object of each anchor, and how well the anchor's prediction should score.

    Args:
        stages: The network's.
        anchors: [A, 4], corners as shares of the input.
        probabilities: [B, A, C - 1], of the objects' classes, as the network has them now; 0..1.
        boxes: [B, A, 4], as the network has them now, shares of the input.
        labels: [B, G, 5], as batches have them.
        config: Its ``assigner`` is the rule; "task_aligned" also has its ``topk``, ``alpha`` and ``beta``.
        match_iou: From which on "greedy" and "threshold" match an anchor.
        ignore_iou: From which on an anchor that "threshold" does not match is not background either.

    Returns:
        int64 [B, A], the index of the label, -1 for background, -2 for neither. [B, A], the target of the score of the
        object's class: the normalised alignment in "task_aligned", else the IoU of the predicted box; 0 without one.
    """
    ids = labels[..., 0].long()
    valid, ignored = ids != PADDING, ids <= IGNORED_FROM
    # In pixels: a cell is as wide as high.
    own, gts = anchors * stages.scale, (labels[..., 1:] * stages.scale).contiguous()
    predicted = boxes * stages.scale
    if config.assigner in ("task_aligned", "simota"):
        points = (own[:, :2] + own[:, 2:]) / 2
        if config.assigner == "simota":
            return assign_simota(probabilities, predicted, points, stages.strides, ids, gts, valid, ignored)
        rule = (config.topk, config.alpha, config.beta)
        return assign_task_aligned(probabilities, predicted, points, ids, gts, valid, ignored, *rule)
    if config.assigner == "atss":
        topk = min(_MOST_TOPK, 9 * stages.per_cell)  # the paper's nine, for each anchor of a cell
        assigned = assign_atss(own, stages.sizes, gts, valid, ignored, topk)
    elif config.assigner == "threshold":
        low = min(ignore_iou, match_iou)
        assigned = assign_threshold(own, gts, valid, ignored, match_iou, low, match_every_box=True)
    else:
        # At thresholds of 0 only crowds leave an anchor out.
        crowded = assign_threshold(own, gts, valid, ignored, 0.0, 0.0) == -2
        assigned = torch.where(crowded, -2, assign_anchors(own, gts, valid & ~ignored, match_iou))
    matched = gts.gather(1, assigned.clamp(min=0)[..., None].expand(-1, -1, 4))
    return assigned, torch.where(assigned >= 0, iou_pairs(predicted, matched, aligned=True), 0)


def offset_targets(assigned: Tensor, anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the textbook's losses want of an assignment [B, A]: offsets, mask and classes, as ``multibox_target``'s."""
    return assignment_target(assigned, labels[..., 0].long(), labels[..., 1:].contiguous(), anchors)
