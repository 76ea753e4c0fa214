"""The loss of a batch, by the network that is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from tinyssd.model.aligned import aligned_loss
from tinyssd.model.assigners import assign, offset_targets, stages_of
from tinyssd.model.loss import detection_loss
from tinyssd.model.pyramid import PyramidConfig
from tinyssd.run.config import RunConfig
from tinyssd.training.targets import make_targets
from tinyssd_ops import decode_boxes


def batch_loss(
    outputs: tuple[Tensor, Tensor, Tensor], labels: Tensor, ignored: Tensor, config: RunConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is made small, a scalar, and its parts where it has some.

    Args:
        outputs: What the network returned: anchors, scores, offsets.
        labels: [B, G, 5], as batches have them.
        ignored: [B, I, 4], what :func:`tinyssd.training.targets.ignored_boxes` returns.
        config: Of the run.
    """
    anchors, scores, offsets = outputs
    if isinstance(config.model, PyramidConfig):
        parts = aligned_loss(anchors, scores, offsets, labels, config.model, config.loss)
        return parts.classes + parts.boxes, {"class_loss": parts.classes, "box_loss": parts.boxes}
    if config.loss.assigner == "greedy":
        targets, mask, classes = make_targets(anchors, labels, config.train, ignored)
    else:
        targets, mask, classes = _rule_targets(outputs, labels, config)
    return detection_loss(scores, offsets, classes, targets, mask, config.loss).mean(), {}


@torch.no_grad()
def _rule_targets(
    outputs: tuple[Tensor, Tensor, Tensor], labels: Tensor, config: RunConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``make_targets``, by the rule of the configuration."""
    anchors, scores, offsets = outputs
    boxes = decode_boxes(anchors, offsets.float().unflatten(1, (-1, 4)))
    probabilities = scores.float().softmax(dim=-1)[..., 1:]
    stages, settings = stages_of(config.model, anchors.device), config.train
    assigned, _ = assign(
        stages, anchors[0], probabilities, boxes, labels, config.loss, settings.match_iou, settings.ignore_iou
    )
    return offset_targets(assigned, anchors[0], labels)
