"""Sheets of pictures that show what a detector does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tinyssd.data.source import Example, Source
from tinyssd.drawing.boxes import WHITE, Box, class_color, draw_boxes, make_grid
from tinyssd.files import write_atomically
from tinyssd.model.detector import Detector
from tinyssd.prediction.predict import Threshold, predict_picture
from tinyssd_ops import assign_anchors

_TILE = 320
_COLUMNS = 4


def save_predictions(model: Detector, source: Source, path: Path, score_threshold: Threshold, count: int = 12) -> None:
    """Draws what the detector finds in ``count`` pictures spread over a source, and what is there.

    Args:
        model: In evaluation mode.
        source: Pictures with labels.
        path: A PNG file.
        score_threshold: The least confidence of a detection, or of each class's detections.
        count: Pictures.
    """
    tiles = []
    for index in _spread(len(source), count):
        example = source.example(index, 0)
        found = predict_picture(model, example.image, source.class_names, score_threshold)
        boxes = [Box(_corners(row), WHITE, dashed=True) for row in example.labels]
        boxes += [Box(d.box, class_color(d.class_index), f"{d.label} {d.score:.0%}") for d in reversed(found)]
        tiles.append(_tile(example, boxes))
    limits = sorted({f"{limit:.0%}" for limit in np.broadcast_to(score_threshold, len(source.class_names))})
    least = limits[0] if len(limits) == 1 else f"{limits[0]} to {limits[-1]}, by class"
    caption = (
        f"Coloured: what the detector finds, with its confidence (at least {least}). White, dashed: the true boxes."
    )
    _save(make_grid(tiles, _COLUMNS, _TILE, caption), path)


def save_anchors(model: Detector, source: Source, path: Path, count: int = 4, match_iou: float = 0.5) -> None:
    """Draws the anchors that belong to the objects of the pictures with the most objects.

    Args:
        model: Its anchors are drawn.
        source: Pictures with labels.
        path: A PNG file.
        count: Pictures.
        match_iou: The IoU from which an anchor belongs to an object.
    """
    examples = [source.example(index, 0) for index in range(min(len(source), 8 * count))]
    examples.sort(key=lambda example: len(example.labels), reverse=True)
    tiles = [_tile(example, _matched(model, example, match_iou)) for example in examples[:count]]
    caption = (
        f"White: the true boxes. Coloured, dashed: the anchors that meet them, of {model.anchors.shape[1]:,} in "
        f"each picture; those with an IoU of at least {match_iou:g}, and at least one for each object."
    )
    _save(make_grid(tiles, _COLUMNS, _TILE, caption), path)


def _tile(example: Example, boxes: list[Box]) -> Image.Image:
    """The picture at the size of a tile, drawn on after it has shrunk: text keeps its size."""
    picture = example.image.copy()
    picture.thumbnail((_TILE, _TILE), Image.Resampling.LANCZOS)
    return draw_boxes(picture, boxes, _TILE)


def _matched(model: Detector, example: Example, match_iou: float) -> list[Box]:
    anchors = model.anchors[0].cpu()
    assigned = assign_anchors(anchors, torch.from_numpy(example.labels[:, 1:]), iou_threshold=match_iou)
    boxes = []
    for anchor, gt in zip(anchors[assigned >= 0].tolist(), assigned[assigned >= 0].tolist(), strict=True):
        boxes.append(Box((anchor[0], anchor[1], anchor[2], anchor[3]), class_color(gt), dashed=True))
    return boxes + [Box(_corners(row), WHITE) for row in example.labels]


def _corners(row: np.ndarray) -> tuple[float, float, float, float]:
    _, x1, y1, x2, y2 = (float(value) for value in row)
    return x1, y1, x2, y2


def _spread(length: int, count: int) -> list[int]:
    """``count`` indices, or fewer, evenly spread over ``range(length)``."""
    count = min(length, count)
    return [index * length // count for index in range(count)]


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
