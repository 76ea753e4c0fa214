"""Boxes through the eight EXIF turns."""

from __future__ import annotations

Corners = tuple[float, float, float, float]


def stored_size(upright: tuple[int, int], turned: int) -> tuple[int, int]:
    """Width and height of a picture as it is stored."""
    return (upright[1], upright[0]) if turned >= 5 else upright


def turn_box(box: Corners, upright: tuple[int, int], turned: int) -> Corners:
    """A box of the picture as it is stored as a box of the upright picture.

    Args:
        box: ``(x1, y1, x2, y2)``, pixels of the stored picture.
        upright: Width and height of the upright picture.
        turned: The EXIF turn, 1 to 8.
    """
    width, height = upright
    x1, y1, x2, y2 = box
    if turned >= 5:  # Mirrored at the diagonal; then as the turn without that.
        x1, y1, x2, y2 = y1, x1, y2, x2
    if turned in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if turned in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return x1, y1, x2, y2
