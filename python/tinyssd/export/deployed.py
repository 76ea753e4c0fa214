"""What an exported file computes: from pixels to the objects in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tinyssd.data.loader import to_input
from tinyssd.run.checkpoint import Trained

Predictor = Callable[[Tensor], tuple[Tensor, Tensor]]


class Deployed(nn.Module):
    """The network with its pixels' scale before it, and decoding and suppression behind it.

    Args:
        model: A detector in evaluation mode; ``forward`` and ``select`` are all that is asked of it.
        score_thresholds: The least confidence of a result, for each class without background.
        nms_threshold: As ``select`` has it.
        max_detections: K, the most results a picture.
    """

    least: Tensor

    def __init__(
        self, model: Any, score_thresholds: tuple[float, ...], nms_threshold: float = 0.45, max_detections: int = 100
    ) -> None:
        super().__init__()
        self.model = model
        self.score_threshold, self.nms_threshold = min(score_thresholds), nms_threshold
        self.max_detections = max_detections
        self.alike = len(set(score_thresholds)) == 1
        # Of the class of each row; the first is that of rows without a result.
        self.register_buffer("least", torch.tensor([torch.inf, *score_thresholds]))

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, H, W], RGB, to the rows [B, K, 6] and counts [B] of ``select``."""
        anchors, scores, offsets = self.model(to_input(images))
        rows, counts = self.model.select(
            anchors, scores, offsets, self.score_threshold, self.nms_threshold, self.max_detections
        )
        return (rows, counts) if self.alike else self._by_class(rows)

    def _by_class(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Drops the rows below the threshold of their class, and moves the others up."""
        kept = rows[..., 1] >= self.least[rows[..., 0].clamp(min=0).long()]
        order = (~kept).to(torch.int32).argsort(dim=1, stable=True)
        kept, rows = kept.gather(1, order), rows.gather(1, order[..., None].expand(-1, -1, 6))
        none = torch.nn.functional.pad(torch.full_like(rows[..., :1], -1), (0, 5))
        return torch.where(kept[..., None], rows, none), kept.sum(dim=1)


def deployed(trained: Trained, score_threshold: float | None = None) -> Deployed:
    """The network of a run as it is exported; ``score_threshold`` takes the place of the run's own."""
    if score_threshold is not None:
        thresholds: tuple[float, ...] = (score_threshold,) * len(trained.config.class_names)
    else:
        thresholds = trained.score_thresholds
    return Deployed(trained.model, thresholds).eval()
