"""What every anchor is to learn."""

from __future__ import annotations

import torch
from torch import Tensor

from tinyssd.data.source import IGNORED_FROM
from tinyssd.model.loss import IGNORED
from tinyssd.run.config import TrainConfig
from tinyssd_ops import assign_anchors, multibox_target


def make_targets(
    anchors: Tensor, labels: Tensor, settings: TrainConfig, ignored: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`tinyssd_ops.multibox_target`, where background anchors that half fit an object are ignored.

    Beside an anchor that belongs to a small object lie others that see the same; called background, they would be its
    hardest negatives. So would the anchors on an object that its labels say to ignore.

    Args:
        anchors: [1, A, 4].
        labels: [B, G, 5], as batches have them.
        settings: The two thresholds.
        ignored: [B, I, 4], what :func:`ignored_boxes` returns; None where no label says to ignore an object.

    Returns:
        As :func:`tinyssd_ops.multibox_target`, the classes with ``IGNORED`` for anchors that are left out of the loss.
    """
    offset_targets, mask, classes = multibox_target(anchors, labels, settings.match_iou)
    left_out = torch.zeros_like(classes, dtype=torch.bool)
    if settings.ignore_iou < settings.match_iou:
        left_out |= assign_anchors(anchors[0], labels[..., 1:], labels[..., 0] >= 0, settings.ignore_iou) >= 0
    if ignored is not None and ignored.shape[1] > 0:
        left_out |= _share_inside(anchors[0], ignored) >= settings.match_iou
    return offset_targets, mask, torch.where(left_out & (classes == 0), IGNORED, classes)


def ignored_boxes(labels: Tensor) -> Tensor:
    """The boxes of the objects that are to be ignored: [B, G, 5] to [B, I, 4], padded with boxes without area.

    Called before the labels are copied to the device: I depends on them.
    """
    is_ignored = labels[..., 0] <= IGNORED_FROM
    count = int(is_ignored.sum(dim=1).max()) if labels.numel() else 0
    first = is_ignored.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
    boxes = labels[..., 1:].gather(1, first[..., None].expand(-1, -1, 4))
    return torch.where(is_ignored.gather(1, first)[..., None], boxes, 0)


def _share_inside(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The largest share of each anchor that lies in one of the boxes: [A, 4], [B, I, 4] to [B, A].

    Not the IoU: an ignored box may be that of a crowd, and each of its members is as large as one anchor. Where the IoU
    reaches a threshold, this share does too.
    """
    shares = anchors.new_zeros(len(boxes), len(anchors))
    size = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)
    for box in boxes.unbind(dim=1):  # [B, 4]
        low = torch.maximum(anchors[:, :2], box[:, None, :2])
        high = torch.minimum(anchors[:, 2:], box[:, None, 2:])
        shares = torch.maximum(shares, (high - low).clamp(min=0).prod(dim=-1) / size)
    return shares
