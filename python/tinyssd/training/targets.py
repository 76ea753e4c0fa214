"""What every anchor is to learn."""

from __future__ import annotations

import torch
from torch import Tensor

from tinyssd.model.loss import IGNORED
from tinyssd.run.config import TrainConfig
from tinyssd_ops import assign_anchors, multibox_target


def make_targets(anchors: Tensor, labels: Tensor, settings: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`tinyssd_ops.multibox_target`, where background anchors that half fit an object are ignored.

    Beside an anchor that belongs to a small object lie others that see the same; called background, they would be its
    hardest negatives.
    """
    offset_targets, mask, classes = multibox_target(anchors, labels, settings.match_iou)
    if settings.ignore_iou < settings.match_iou:
        near = assign_anchors(anchors[0], labels[..., 1:], labels[..., 0] >= 0, settings.ignore_iou) >= 0
        classes = torch.where(near & (classes == 0), IGNORED, classes)
    return offset_targets, mask, classes
