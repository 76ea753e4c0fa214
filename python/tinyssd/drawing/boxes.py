"""Boxes on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from tinyssd.drawing.fonts import Font, font_for

Color = tuple[int, int, int]

# Bright on dark and on light ground, and apart from each other for most colour-blind people.
PALETTE: tuple[Color, ...] = (
    (255, 176, 0),
    (100, 220, 255),
    (255, 90, 150),
    (120, 230, 100),
    (190, 150, 255),
    (255, 120, 60),
    (60, 150, 255),
    (240, 240, 90),
)
WHITE: Color = (255, 255, 255)
INK: Color = (20, 20, 24)

# Smaller pictures are enlarged so that the text on them can be read.
_LEAST_SIDE = 512


@dataclass(frozen=True)
class Box:
    """A box to draw.

    Attributes:
        corners: ``(x1, y1, x2, y2)`` as shares of the picture.
        color: Of the line and the label's ground.
        text: The label; empty for none.
        dashed: Draw a thin dashed line.
    """

    corners: tuple[float, float, float, float]
    color: Color
    text: str = ""
    dashed: bool = False


def class_color(index: int) -> Color:
    """The colour of a class, counted from 0 without background."""
    return PALETTE[index % len(PALETTE)]


def draw_boxes(picture: Image.Image, boxes: Sequence[Box], least_side: int = _LEAST_SIDE) -> Image.Image:
    """A copy of ``picture`` with boxes; enlarged to ``least_side`` pixels on its longer side if it is smaller."""
    scale = max(1.0, least_side / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    canvas = picture.resize(size, Image.Resampling.BICUBIC) if size != picture.size else picture.copy()
    draw = ImageDraw.Draw(canvas)
    line = max(2, round(max(size) / 256))
    font_size = max(13, round(max(size) / 34))
    # Labels last, so that no line crosses them.
    for box in boxes:
        _draw_outline(draw, _pixels(box, size), box, line)
    for box in boxes:
        if box.text:
            _draw_label(draw, _pixels(box, size), box, font_size, size)
    return canvas


def make_grid(tiles: Sequence[Image.Image], columns: int, tile_side: int, caption: str = "") -> Image.Image:
    """Tiles side by side on a dark ground, each row as high as its highest one, with a caption under them."""
    gap = max(4, tile_side // 40)
    fitted = [ImageOps.contain(tile, (tile_side, tile_side)) if max(tile.size) > tile_side else tile for tile in tiles]
    rows = [fitted[start : start + columns] for start in range(0, len(fitted), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    width, height = columns * (tile_side + gap) + gap, sum(heights) + (len(rows) + 1) * gap
    font_size = max(14, tile_side // 18)
    caption, font = font_for(caption, font_size)
    lines = _wrapped(caption, font, width - 2 * gap) if caption else []
    line_height = round(1.5 * font_size)
    grid = Image.new("RGB", (width, height + len(lines) * line_height + (gap if lines else 0)), INK)
    y = gap
    for row, row_height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            x = gap + column * (tile_side + gap) + (tile_side - tile.width) // 2
            grid.paste(tile, (x, y + (row_height - tile.height) // 2))
        y += row_height + gap
    draw = ImageDraw.Draw(grid)
    for i, text in enumerate(lines):
        draw.text((gap, height + i * line_height), text, fill=(225, 225, 230), font=font)
    return grid


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _pixels(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.corners
    width, height = size[0] - 1, size[1] - 1
    return x1 * width, y1 * height, x2 * width, y2 * height


def _draw_outline(draw: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], box: Box, line: int) -> None:
    if box.dashed:
        _draw_dashes(draw, corners, box.color, max(1, line // 2), 4 * line)
        return
    x1, y1, x2, y2 = corners
    # A dark rim keeps the line visible on ground of its own colour.
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=INK, width=line + 2)
    draw.rectangle(corners, outline=box.color, width=line)


def _draw_dashes(
    draw: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], color: Color, line: int, dash: int
) -> None:
    x1, y1, x2, y2 = corners
    for (ax, ay), (bx, by) in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        length = max(abs(bx - ax), abs(by - ay), 1e-6)
        start = 0.0
        while start < length:
            stop = min(start + dash, length)
            at, to = start / length, stop / length
            ends = (ax + (bx - ax) * at, ay + (by - ay) * at, ax + (bx - ax) * to, ay + (by - ay) * to)
            draw.line(ends, fill=color, width=line)
            start += 2 * dash


def _draw_label(
    draw: ImageDraw.ImageDraw,
    corners: tuple[float, float, float, float],
    box: Box,
    font_size: int,
    size: tuple[int, int],
) -> None:
    """The text above the box, or inside it at the picture's upper edge; always within the picture."""
    text, font = font_for(box.text, font_size)
    left, top, right, bottom = font.getbbox(text, anchor="lt")
    pad = 3
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = min(max(corners[0] - 1, 0), max(size[0] - width, 0))
    y = corners[1] - height if corners[1] >= height else min(corners[1], size[1] - height)
    x, y = round(x), round(y)
    draw.rectangle((x, y, x + width, y + height), fill=box.color)
    luminance = 0.299 * box.color[0] + 0.587 * box.color[1] + 0.114 * box.color[2]
    ink = INK if luminance > 110 else WHITE
    draw.text((x + pad - left, y + pad - top), text, fill=ink, font=font, anchor="lt")
