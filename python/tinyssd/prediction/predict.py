"""From a picture to the objects in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from tinyssd.data.images import to_rgb
from tinyssd.data.loader import to_input
from tinyssd.drawing.boxes import Box, class_color, draw_boxes
from tinyssd.model.network import TinySSD


@dataclass(frozen=True)
class Detection:
    """One object found.

    Attributes:
        label: The name of its class.
        class_index: Its class, from 0 without background.
        score: The confidence, 0..1.
        box: ``(x1, y1, x2, y2)`` as shares of the picture.
    """

    label: str
    class_index: int
    score: float
    box: tuple[float, float, float, float]


def predict_picture(
    model: TinySSD, picture: Image.Image, class_names: Sequence[str], score_threshold: float
) -> list[Detection]:
    """The objects in one upright picture of any size and mode, by falling confidence.

    Args:
        model: In evaluation mode.
        picture: See :func:`tinyssd.data.images.read_picture`, which also turns photos upright.
        class_names: The classes without background.
        score_threshold: The least confidence of a detection.
    """
    height, width = model.config.image_size
    pixels = np.array(to_rgb(picture).resize((width, height), Image.Resampling.BILINEAR))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(model.anchors.device)
    rows, counts = model.predict(to_input(images), score_threshold)
    return to_detections(rows[0, : int(counts[0])].tolist(), class_names)


def to_detections(rows: Iterable[Sequence[float]], class_names: Sequence[str]) -> list[Detection]:
    """Rows ``(class from 1, confidence, x1, y1, x2, y2)`` with names."""
    return [
        Detection(class_names[int(row[0]) - 1], int(row[0]) - 1, row[1], (row[2], row[3], row[4], row[5]))
        for row in rows
    ]


def drawn_detections(picture: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """A copy of the picture with the detections on it, the surest on top."""
    boxes = [Box(d.box, class_color(d.class_index), f"{d.label} {d.score:.0%}") for d in reversed(detections)]
    return draw_boxes(to_rgb(picture), boxes)
