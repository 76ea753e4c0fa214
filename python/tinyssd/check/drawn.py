"""A picture and its boxes as a piece of HTML: the browser has letters of every script."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from tinyssd.check.examples import MOST_BOXES, MOST_NAMES, class_label, drawn_corners
from tinyssd.check.snapshot import Snapshot
from tinyssd.data.images import read_picture
from tinyssd.data.labels import Object, Picture
from tinyssd.drawing.boxes import class_color
from tinyssd.text import printable

_SIDE = 400

Corners = tuple[float, float, float, float]


def drawn_picture(snapshot: Snapshot, picture: Picture, caption: str) -> str:
    """A ``<figure>`` with the picture, made small, its boxes as vectors, and a caption."""
    image = read_picture(picture.path)
    # Letters and lines are as large on a small picture as on a large one.
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    named = len(picture.objects) <= MOST_NAMES  # Others show under the pointer.
    shapes = "".join(
        _shape(snapshot, item, drawn_corners(item, picture.size), (width, height), named)
        for item in picture.objects[:MOST_BOXES]
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img"><image href="{source}" width="{width}" '
        f'height="{height}"/>{shapes}</svg><figcaption>{_text(caption)}</figcaption></figure>'
    )


def _shape(snapshot: Snapshot, item: Object, corners: Corners, size: tuple[int, int], named: bool) -> str:
    """A box with its name: above it, and from the edge of it that leaves more room."""
    width, height = size
    x1, y1, x2, y2 = corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height
    color, name = f"#{bytes(class_color(item.class_id)).hex()}", _text(class_label(snapshot, item.class_id))
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    dashes = ' stroke-dasharray="5 4"' if item.ignored else ""
    shape = (
        f'<rect {place} fill="#fff" fill-opacity="0" stroke="{color}" stroke-width="2"{dashes}>'
        f"<title>{name}</title></rect>"
    )
    if not named:
        return shape
    x, anchor = (x1 + 1, "start") if x1 + x2 < width else (min(x2, width) - 1, "end")
    return shape + (
        f'<text x="{x:.1f}" y="{max(y1 - 5, 16):.1f}" text-anchor="{anchor}" font-size="19" fill="{color}" '
        f'stroke="#000" stroke-width="4" paint-order="stroke">{name}</text>'
    )


def _text(text: str) -> str:
    return html.escape(printable(text))
