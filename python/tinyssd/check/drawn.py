"""A picture of a data set and its labels as a piece of HTML."""

from __future__ import annotations

from tinyssd.check.examples import MOST_BOXES, class_label, drawn_corners
from tinyssd.check.snapshot import Snapshot
from tinyssd.data.images import read_picture
from tinyssd.data.labels import Picture
from tinyssd.drawing.page import PageBox, figure


def drawn_picture(snapshot: Snapshot, picture: Picture, caption: str) -> str:
    """A ``<figure>`` with the picture, its boxes and a caption."""
    boxes = [
        PageBox(
            drawn_corners(item, picture.size), item.class_id, class_label(snapshot, item.class_id), dashed=item.ignored
        )
        for item in picture.objects[:MOST_BOXES]
    ]
    return figure(read_picture(picture.path), boxes, caption)
