"""The loss of a batch, by the network that is trained."""

from __future__ import annotations

from torch import Tensor

from tinyssd.model.aligned import aligned_loss
from tinyssd.model.loss import detection_loss
from tinyssd.model.pyramid import PyramidConfig
from tinyssd.run.config import RunConfig
from tinyssd.training.targets import make_targets


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
    offset_targets, mask, classes = make_targets(anchors, labels, config.train, ignored)
    return detection_loss(scores, offsets, classes, offset_targets, mask, config.loss).mean(), {}
