"""What every detector here has in common: its anchors, and the way from its outputs to the objects in a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tinyssd_ops import clip_boxes, detect

Self = TypeVar("Self", bound="Detector")


class NetworkConfig(Protocol):
    """What the configuration of any network tells.

    Attributes:
        num_classes: Classes counting background, which is class 0.
        image_size: Height and width of the input in pixels.
        keep_shape: Whether pictures keep their shape in the input, with bars beside them where it has another one.
    """

    @property
    def num_classes(self) -> int:
        """See above."""

    @property
    def image_size(self) -> tuple[int, int]:
        """See above."""

    @property
    def keep_shape(self) -> bool:
        """See above."""


class Detector(nn.Module, ABC):
    """A single-shot detector: ``forward`` scores and shifts every anchor, ``select`` keeps the objects.

    Args:
        config: What the network looks like.
        anchors: [1, A, 4], corners as shares of the input.
    """

    anchors: Tensor
    config: Any

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        # Made from the configuration, so a checkpoint need not hold it.
        self.register_buffer("anchors", self.make_anchors(), persistent=False)

    @abstractmethod
    def make_anchors(self) -> Tensor:
        """The anchors that the configuration asks for: [1, A, 4]."""

    @abstractmethod
    def probabilities(self, scores: Tensor) -> Tensor:
        """The scores of ``forward`` as :func:`tinyssd_ops.detect` wants them: [B, C, A], class 0 is background."""

    def _apply(self: Self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """As every module moves, but that the anchors are made anew: ``to_empty`` leaves memory unwritten."""
        super()._apply(fn, recurse)
        if not self.anchors.is_meta:
            self.anchors.copy_(self.make_anchors())
        return self

    def expect_size(self, images: Tensor) -> None:
        """Raises :class:`ValueError` where the pictures, [B, 3, H, W], are not of the configured size."""
        if images.shape[-2:] != self.config.image_size:
            height, width = self.config.image_size
            raise ValueError(f"images: expected [B, 3, {height}, {width}], got {list(images.shape)}")

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        max_detections: int = 100,
    ) -> tuple[Tensor, Tensor]:
        """The objects in the pictures, [B, 3, H, W]: ``forward`` and ``select``.

        Raises:
            RuntimeError: If the network is in training mode, where a picture's results depend on the others.
        """
        if self.training:
            raise RuntimeError("predict: expected a network in evaluation mode; call eval() first")
        anchors, scores, offsets = self(images)
        return self.select(anchors, scores, offsets, score_threshold, nms_threshold, max_detections)

    @torch.no_grad()
    def select(
        self,
        anchors: Tensor,
        scores: Tensor,
        offsets: Tensor,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        max_detections: int = 100,
    ) -> tuple[Tensor, Tensor]:
        """The objects that the outputs of ``forward`` stand for.

        Args:
            anchors: As ``forward`` returns them, like the next two.
            scores: Likewise.
            offsets: Likewise.
            score_threshold: The least confidence of a result.
            nms_threshold: Of two results of one class that overlap by more than this IoU the weaker one is dropped; the
                default is that of the SSD paper.
            max_detections: K, the most results a picture.

        Returns:
            rows: [B, K, 6], ``(class, confidence, x1, y1, x2, y2)`` by falling confidence, the boxes as shares of the
                input and cut to it; rows without a result have class -1.
            counts: int64 [B], the results in each picture.
        """
        # Mixed precision ends here: boxes want float32.
        probabilities = self.probabilities(scores.float())
        rows, counts = detect(probabilities, offsets.float(), anchors, nms_threshold, score_threshold, max_detections)
        return torch.cat((rows[..., :2], clip_boxes(rows[..., 2:])), dim=-1), counts
