"""Boxes that were drawn before a photo was turned upright."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tinyssd.data.labels import Picture

Frame = Literal["upright", "stored", "either", "neither"]
_SLACK = 1.0  # pixels


def frame_of(picture: Picture) -> Frame:
    """Which frame holds all boxes of a picture: the upright one, that of the file before its EXIF turn, or both."""
    width, height = picture.size
    upright = _all_inside(picture, width, height)
    stored = picture.turned >= 5 and _all_inside(picture, height, width)
    if upright:
        return "either" if stored else "upright"
    return "stored" if stored else "neither"


def labelled_unturned(pictures: Iterable[Picture]) -> bool:
    """Whether turned pictures were labelled as they are stored: some boxes fit only so, and none only the other way.

    Pictures that are square, or turned by half, say nothing about it.
    """
    frames = {frame_of(picture) for picture in pictures if picture.turned >= 5 and picture.objects}
    return "stored" in frames and "upright" not in frames


def turned_box(
    box: tuple[float, float, float, float], size: tuple[int, int], turn: int
) -> tuple[float, float, float, float]:
    """A box of the stored file in the upright picture.

    Args:
        box: ``(x1, y1, x2, y2)`` in pixels of the file as it is stored.
        size: Width and height of the upright picture.
        turn: The EXIF turn, 1 to 8.
    """
    width, height = size
    x1, y1, x2, y2 = box
    if turn >= 5:  # Rows are columns.
        x1, y1, x2, y2 = y1, x1, y2, x2
    if turn in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if turn in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return x1, y1, x2, y2


def _all_inside(picture: Picture, width: int, height: int) -> bool:
    return all(
        min(x1, y1) >= -_SLACK and x2 <= width + _SLACK and y2 <= height + _SLACK
        for x1, y1, x2, y2 in (item.box for item in picture.objects)
    )
