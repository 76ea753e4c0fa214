"""A picture and its boxes as a piece of HTML: the browser has letters of every script."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from tinyssd.check.examples import MOST_NAMES, class_label
from tinyssd.check.snapshot import Snapshot
from tinyssd.data.images import read_picture
from tinyssd.data.labels import Picture
from tinyssd.drawing.boxes import class_color
from tinyssd.text import printable

_SIDE = 400


def drawn_picture(snapshot: Snapshot, picture: Picture, caption: str) -> str:
    """A ``<figure>`` with the picture, made small, its boxes as vectors, and a caption."""
    image = read_picture(picture.path)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    width, height = image.size
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    scale = (width / picture.size[0], height / picture.size[1])
    names = len(picture.objects) <= MOST_NAMES  # Others show under the pointer.
    shapes = "".join(
        _box(item.box, scale, class_color(item.class_id), class_label(snapshot, item.class_id), item.ignored, names)
        for item in picture.objects
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img"><image href="{source}" width="{width}" '
        f'height="{height}"/>{shapes}</svg><figcaption>{_text(caption)}</figcaption></figure>'
    )


def _box(
    box: tuple[float, float, float, float],
    scale: tuple[float, float],
    color: tuple[int, int, int],
    name: str,
    ignored: bool,
    named: bool,
) -> str:
    x1, x2 = sorted((box[0] * scale[0], box[2] * scale[0]))
    y1, y2 = sorted((box[1] * scale[1], box[3] * scale[1]))
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    dashes = ' stroke-dasharray="5 4"' if ignored else ""
    line = f'stroke="#{bytes(color).hex()}" stroke-width="2"{dashes}'
    shape = f'<rect {place} fill="#fff" fill-opacity="0" {line}><title>{_text(name)}</title></rect>'
    if named:
        shape += (
            f'<text x="{max(x1, 0) + 1:.1f}" y="{max(y1 - 5, 16):.1f}" font-size="19" fill="#{bytes(color).hex()}" '
            f'stroke="#000" stroke-width="4" paint-order="stroke">{_text(name)}</text>'
        )
    return shape


def _text(text: str) -> str:
    return html.escape(printable(text))
