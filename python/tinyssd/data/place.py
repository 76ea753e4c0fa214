"""Where a picture lies in an input of another size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

# x1, y1, x2, y2 in pixels of a canvas.
Area = tuple[int, int, int, int]

# The colour around a picture that does not fill its canvas.
GRAY = (114, 114, 114)

# Shapes that differ by a smaller factor are made equal: a bar would cost more than the distortion does.
ALIKE = 1.15


@dataclass(frozen=True)
class Place:
    """Where a picture lies on a canvas, in pixels of the canvas; it may reach beyond.

    Attributes:
        x: The left edge.
        y: The upper edge.
        width: Of the whole picture.
        height: Of the whole picture.
    """

    x: float
    y: float
    width: float
    height: float

    def onto(self, boxes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
        """Boxes as shares of the picture, [N, 4], as shares of a canvas of ``canvas`` width and height."""
        scale, shift = self._as_shares(canvas)
        return (boxes * scale + shift).astype(np.float32)

    def back(self, boxes: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
        """The inverse of ``onto``, cut to the picture."""
        scale, shift = self._as_shares(canvas)
        return ((boxes - shift) / scale).clip(0, 1)

    def _as_shares(self, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        across = np.array(canvas * 2, dtype=np.float64)
        return np.array([self.width, self.height] * 2) / across, np.array([self.x, self.y] * 2) / across


def fitted(size: tuple[int, int], canvas: tuple[int, int], keep_shape: bool) -> Place:
    """The largest place for a picture on a canvas (width and height of both), in its middle, in whole pixels.

    Without ``keep_shape``, and where the shapes are nearly the same, the picture is stretched over the whole canvas.
    What uses an exported network does the same: ``examples/cpp`` and the README of :mod:`tinyssd.export.readme`.
    """
    across, down = canvas[0] / size[0], canvas[1] / size[1]
    if not keep_shape or max(across, down) < ALIKE * min(across, down):
        return Place(0, 0, *canvas)
    scale = min(across, down)
    # However long a picture is, a pixel of it is seen.
    width, height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    # Where Pillow's ImageOps.pad has it too.
    return Place(round((canvas[0] - width) / 2), round((canvas[1] - height) / 2), width, height)


def draw(image: Image.Image, place: Place, canvas: Image.Image, area: Area | None = None) -> None:
    """Draws what of a picture lies within ``area`` of a canvas (None: all), smoothed where it shrinks."""
    left, top, right, bottom = area or (0, 0, *canvas.size)
    x1, y1 = max(left, round(place.x)), max(top, round(place.y))
    x2, y2 = min(right, round(place.x + place.width)), min(bottom, round(place.y + place.height))
    if x2 <= x1 or y2 <= y1:
        return
    across, down = image.width / place.width, image.height / place.height
    box = ((x1 - place.x) * across, (y1 - place.y) * down, (x2 - place.x) * across, (y2 - place.y) * down)
    inside = (max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height))
    canvas.paste(image.resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, box=inside), (x1, y1))


def on_input(image: Image.Image, image_size: tuple[int, int], keep_shape: bool) -> tuple[Image.Image, Place]:
    """A picture as the network sees it, ``image_size`` being height and width, and where in it it lies."""
    canvas = (image_size[1], image_size[0])
    place = fitted(image.size, canvas, keep_shape)
    scaled = image.resize((round(place.width), round(place.height)), Image.Resampling.BILINEAR)
    if scaled.size == canvas:
        return scaled, place
    drawn = Image.new("RGB", canvas, GRAY)
    drawn.paste(scaled, (round(place.x), round(place.y)))
    return drawn, place
