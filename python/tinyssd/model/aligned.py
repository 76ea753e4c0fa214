"""What the pyramid network is trained to make small: scores that say how good a box is, and boxes that overlap.

An assignment rule of :mod:`tinyssd_ops` says which anchors learn which object, and how well each does already: that
quality, an IoU, is what the score of the object's class is to become (0 for all other classes and anchors). The boxes
are judged by their GIoU, weighted by the same quality. Both are divided by the sum of the qualities of the batch.

Sources: Zhang et al., "VarifocalNet", 2021 (the loss of the scores); Feng et al., "TOOD", 2021; Xu et al.,
"PP-YOLOE", 2022; Rezatofighi et al., "Generalized Intersection over Union", 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tinyssd import processes
from tinyssd.model.assigners import assign, stages_of
from tinyssd.model.loss import LossConfig
from tinyssd.model.pyramid import PyramidConfig
from tinyssd_ops import decode_boxes, iou_pairs

# Boxes that grow without limit would be infinite before the first steps have tamed them.
_MAX_GROWTH = 1000 / 16


class Parts(NamedTuple):
    """The parts of the loss of a batch, scalars."""

    classes: Tensor
    boxes: Tensor


def aligned_loss(
    anchors: Tensor, scores: Tensor, offsets: Tensor, labels: Tensor, network: PyramidConfig, config: LossConfig
) -> Parts:
    """The parts of the loss of a batch.

    Args:
        anchors: [1, A, 4].
        scores: [B, A, C - 1], logits of the classes without background.
        offsets: [B, 4A], predicted.
        labels: [B, G, 5], as batches have them, ignored objects too.
        network: What the network looks like.
        config: Which rule and losses.
    """
    scores = scores.float()
    offsets = offsets.float().unflatten(1, (-1, 4))  # [B, A, 4]
    with torch.no_grad():
        boxes = decode_boxes(anchors, offsets, max_growth=_MAX_GROWTH)
        stages = stages_of(network, anchors.device)
        assigned, quality = assign(stages, anchors[0], scores.sigmoid(), boxes, labels, config)
        matched = assigned >= 0
        rows = labels.gather(1, assigned.clamp(min=0)[..., None].expand(-1, -1, 5))  # [B, A, 5]
        quality = torch.where(matched, quality, 0)
        # Such that the mean of the losses of several processes is the loss of all their pictures.
        total = processes.summed(quality.sum()).clamp(min=1) / processes.count()
        class_ids = rows[..., 0].long().clamp(min=0)
        targets = torch.zeros_like(scores).scatter_(2, class_ids[..., None], quality[..., None])
    errors = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    with torch.no_grad():
        # What is background beyond doubt fades; what is an object counts in full, by its quality.
        weights = torch.where(targets > 0, targets, config.focal_alpha * scores.sigmoid() ** config.focal_gamma)
        weights = weights * (assigned > -2)[..., None]
    own = anchors.expand_as(offsets)[matched]
    boxes = decode_boxes(own, offsets[matched], max_growth=_MAX_GROWTH)
    overlap = iou_pairs(boxes, rows[..., 1:][matched], kind=config.boxes, aligned=True)
    box_errors = (1 - overlap) * quality[matched]
    return Parts((errors * weights).sum() / total, config.box_weight * box_errors.sum() / total)
