"""What the detector is trained to make small.

Nearly all of a picture's anchors are background, so the plain mean over anchors is almost minimal where everything is
called background. The default instead keeps, in each picture, only the three worst background anchors for each
matched one, and divides by the number of matches.

Every function is built of fixed shapes and never waits for the device, so a step can be compiled or captured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from tinyssd.errors import ConfigError

# The class of an anchor that is neither an object nor background: it takes no part in the classification loss.
IGNORED = -1

ClassLoss = Literal["mined", "focal", "mean", "varifocal"]
BoxLoss = Literal["smooth_l1", "l1", "iou", "giou", "diou", "ciou"]
Assigner = Literal["greedy", "threshold", "atss", "task_aligned", "simota"]


@dataclass(frozen=True)
class LossConfig:
    """Which loss, and how strong its parts are. ``LossConfig.classic()`` is the textbook's.

    ``LossConfig.aligned()`` is that of the pyramid network (:mod:`tinyssd.model.aligned`), the others are those of the
    textbook's.

    Attributes:
        classes: "mined" (hard negatives), "focal", or "mean" (cross-entropy, all anchors alike);
            "varifocal" for the pyramid network.
        boxes: "smooth_l1" or "l1"; "iou", "giou", "diou" or "ciou" for the pyramid network.
        negative_ratio: For "mined": background anchors kept for each matched one.
        focal_gamma: For "focal": how strongly well-classified anchors fade; for "varifocal" those of background.
        focal_alpha: For "focal": the weight of matched anchors; background weighs ``1 - focal_alpha``. For "varifocal":
            the weight of background; matched anchors weigh as much as they are worth.
        smooth_l1_beta: For "smooth_l1": the offset error at which the square turns into a line.
        box_weight: Factor of the box loss.
        normalize: Divide by the "matches" of each picture, or take the mean over all "anchors".
        assigner: Which anchors learn an object: "greedy" is the rule of :func:`tinyssd_ops.multibox_target`, the others
            are those of :mod:`tinyssd_ops.assigners`; see :mod:`tinyssd.model.assigners`.
        topk: For "task_aligned": the most anchors of an object; the two that follow are its powers.
        alpha: Of the score.
        beta: Of the IoU.
    """

    classes: ClassLoss = "mined"
    boxes: BoxLoss = "smooth_l1"
    negative_ratio: float = 3.0
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    smooth_l1_beta: float = 1.0
    box_weight: float = 1.0
    normalize: Literal["matches", "anchors"] = "matches"
    assigner: Assigner = "greedy"
    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("classes", self.classes, get_args(ClassLoss)),
            ("boxes", self.boxes, get_args(BoxLoss)),
            ("normalize", self.normalize, ("matches", "anchors")),
            ("assigner", self.assigner, get_args(Assigner)),
        ):
            if value not in allowed:
                raise ConfigError(f"loss: {name} must be one of {', '.join(allowed)}, got {value!r}")
        weights = ("negative_ratio", "focal_gamma", "focal_alpha", "smooth_l1_beta", "box_weight")
        for name in (*weights, "topk", "alpha", "beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"loss: {name}: expected a number from 0, got {getattr(self, name)}")
        if (self.classes == "varifocal") != self.boxes.endswith("iou"):
            raise ConfigError(f"loss: classes {self.classes!r} and boxes {self.boxes!r} are not of one network")

    @property
    def is_aligned(self) -> bool:
        """Whether this is the loss of the pyramid network."""
        return self.classes == "varifocal"

    @classmethod
    def aligned(cls) -> LossConfig:
        """Varifocal loss, and GIoU of the anchors that ATSS chooses, weighed as in PP-YOLOE."""
        return cls(classes="varifocal", boxes="giou", assigner="atss", focal_alpha=0.75, box_weight=2.5)

    @classmethod
    def classic(cls) -> LossConfig:
        """Mean cross-entropy over anchors plus mean masked L1 over 4A, for each picture."""
        return cls(classes="mean", boxes="l1", normalize="anchors")


def detection_loss(
    scores: Tensor, offsets: Tensor, classes: Tensor, offset_targets: Tensor, mask: Tensor, config: LossConfig
) -> Tensor:
    """The loss of each picture.

    Args:
        scores: [B, A, C], logits.
        offsets: [B, 4A], predicted.
        classes: int64 [B, A], 0 for background, ``IGNORED`` for neither.
        offset_targets: [B, 4A].
        mask: [B, 4A], 1 where the anchor is matched, else 0.
        config: Which loss.

    Returns:
        [B], float32.
    """
    class_losses = class_loss(scores.float(), classes, config)
    box_losses = box_loss(offsets.float(), offset_targets, mask, config)
    if config.normalize == "anchors":
        return class_losses / classes.shape[1] + config.box_weight * box_losses / offsets.shape[1]
    return (class_losses + config.box_weight * box_losses) / _matches(classes)


def class_loss(scores: Tensor, classes: Tensor, config: LossConfig) -> Tensor:
    """The summed classification loss of each picture, [B]; arguments as in :func:`detection_loss`."""
    # log_softmax and gather: cross_entropy would want the classes in dimension 1, a copy of the scores.
    log_likelihood = scores.log_softmax(dim=-1).gather(-1, classes.clamp(min=0)[..., None]).squeeze(-1)  # [B, A]
    cross_entropy = torch.where(classes == IGNORED, 0, -log_likelihood)
    if config.classes == "mean":
        return cross_entropy.sum(dim=1)
    if config.classes == "focal":
        weight = torch.where(classes > 0, config.focal_alpha, 1 - config.focal_alpha)
        return (weight * (1 - log_likelihood.exp()) ** config.focal_gamma * cross_entropy).sum(dim=1)
    return _mined_sum(cross_entropy, classes, config.negative_ratio)


def box_loss(offsets: Tensor, targets: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """The summed offset loss of each picture's matched anchors, [B]; arguments as in :func:`detection_loss`."""
    predicted, wanted = offsets * mask, targets * mask
    if config.boxes == "l1":
        return functional.l1_loss(predicted, wanted, reduction="none").sum(dim=1)
    return functional.smooth_l1_loss(predicted, wanted, reduction="none", beta=config.smooth_l1_beta).sum(dim=1)


def _mined_sum(cross_entropy: Tensor, classes: Tensor, negative_ratio: float) -> Tensor:
    """Sum over the matched anchors and, for each of them, the ``negative_ratio`` worst background ones: [B, A] to [B].

    A picture without objects counts as one with a single match, so that it still teaches what background is.
    """
    background = classes == 0
    # Losses are not negative: matched anchors, set to 0, rank last and add nothing even where they are kept.
    worst_first = torch.where(background, cross_entropy, 0).sort(dim=1, descending=True).values
    rank = torch.arange(classes.shape[1], device=classes.device)
    keep = rank < negative_ratio * _matches(classes)[:, None]
    negatives = torch.where(keep, worst_first, 0).sum(dim=1)
    positives = torch.where(background, 0, cross_entropy).sum(dim=1)  # ignored anchors have a loss of 0
    return positives + negatives


def _matches(classes: Tensor) -> Tensor:
    """Matched anchors of each picture, [B], at least 1."""
    return (classes > 0).sum(dim=1).clamp(min=1)
