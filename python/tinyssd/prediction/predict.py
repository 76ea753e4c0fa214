"""From a picture to the objects in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from tinyssd.data.images import to_rgb
from tinyssd.data.loader import to_input
from tinyssd.data.place import Place, on_input
from tinyssd.drawing.boxes import Box, class_color, draw_boxes
from tinyssd.errors import CheckpointError
from tinyssd.model.detector import Detector

# The least confidence of a detection, of all classes or of each.
Threshold = float | Sequence[float]


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
    model: Detector, picture: Image.Image, class_names: Sequence[str], score_threshold: Threshold
) -> list[Detection]:
    """The objects in one upright picture of any size and mode, by falling confidence.

    Args:
        model: In evaluation mode.
        picture: See :func:`tinyssd.data.images.read_picture`, which also turns photos upright.
        class_names: The classes without background.
        score_threshold: The least confidence of a detection, or of each class's detections.

    Raises:
        CheckpointError: If the network answers NaN or infinity.
    """
    return predict_pictures(model, [picture], class_names, score_threshold)[0]


@torch.no_grad()
def predict_pictures(
    model: Detector, pictures: Sequence[Image.Image], class_names: Sequence[str], score_threshold: Threshold
) -> list[list[Detection]]:
    """:func:`predict_picture` of several pictures, which go through the network together."""
    if not pictures:
        return []
    config = model.config
    inputs = [on_input(to_rgb(one), config.image_size, config.keep_shape) for one in pictures]
    pixels = np.stack([np.array(image) for image, _ in inputs])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(model.anchors.device)
    # Pillow has the channels of a pixel side by side: so they stay.
    anchors, scores, offsets = model(to_input(images, channels_last=True))
    limits = np.broadcast_to(score_threshold, len(class_names))
    rows, counts = model.select(anchors, scores, offsets, float(limits.min()))
    if not all(values.isfinite().all() for values in (scores, offsets, rows)):
        raise CheckpointError("the network answers NaN or infinity: its weights are damaged, or its training diverged")
    return [
        to_detections(_sure(_on_picture(found[:count], *one), limits), class_names)
        for found, count, one in zip(rows.cpu().numpy(), counts.tolist(), inputs, strict=True)
    ]


def _on_picture(rows: np.ndarray, image: Image.Image, place: Place) -> np.ndarray:
    """Rows whose boxes are shares of the input, as shares of the picture at ``place`` in it."""
    return np.concatenate((rows[:, :2], place.back(rows[:, 2:], image.size)), axis=1)


def _sure(rows: np.ndarray, limits: np.ndarray) -> list[list[float]]:
    """The rows that reach the limit of their class."""
    return rows[rows[:, 1] >= limits[rows[:, 0].astype(int) - 1]].tolist()


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
