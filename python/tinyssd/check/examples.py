"""Labelled training examples to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyssd.check.snapshot import Snapshot
from tinyssd.data.images import read_picture
from tinyssd.data.labels import Object, Picture
from tinyssd.drawing.boxes import Box, class_color, draw_boxes, make_grid
from tinyssd.files import write_atomically

# Names of more objects than this would cover a picture, and so would the boxes of very many.
MOST_NAMES = 12
MOST_BOXES = 500
_COLUMNS = 4
_TILE = 480


def choose_examples(snapshot: Snapshot, count: int = 12) -> list[Picture]:
    """Pictures to train on that show as many classes as so few can; those with an EXIF turn come first.

    The choice is by chance, and the same every time.
    """
    pictures = snapshot.data.splits.get("train") or [picture for _, picture in snapshot.pictures()]
    readable = [picture for picture in pictures if not snapshot.pixels[picture.path].error]
    order = np.random.default_rng(0).permutation(len(readable))
    left = sorted((readable[i] for i in order), key=lambda picture: (picture.turned == 1, not picture.objects))
    chosen: list[Picture] = []
    seen: set[int] = set()
    while left and len(chosen) < count:
        best = max(left, key=lambda picture: len({item.class_id for item in picture.objects} - seen))
        left.remove(best)
        chosen.append(best)
        seen |= {item.class_id for item in best.objects}
    return chosen


def save_examples(snapshot: Snapshot, path: Path) -> None:
    """Draws the examples side by side into a PNG file.

    Raises:
        OSError: If the file cannot be written.
    """
    tiles = [draw_boxes(read_picture(picture.path), _boxes(snapshot, picture)) for picture in choose_examples(snapshot)]
    names = snapshot.data.class_names
    caption = f"{len(tiles)} labelled examples of {snapshot.data.root.name}; ignored objects are dashed"
    grid = make_grid(tiles, min(_COLUMNS, max(len(tiles), 1)), _TILE, caption if names else "")
    write_atomically(path, lambda temporary: grid.save(temporary, format="PNG"))


def drawn_corners(item: Object, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The corners of an object in order, as shares of its picture; those far outside are brought near."""
    (x1, y1, x2, y2), (width, height) = item.box, size
    left, right = sorted(min(max(x / width, -1.0), 2.0) for x in (x1, x2))
    top, bottom = sorted(min(max(y / height, -1.0), 2.0) for y in (y1, y2))
    return left, top, right, bottom


def class_label(snapshot: Snapshot, class_id: int) -> str:
    """The name of a class, or its number where it has none."""
    names = snapshot.data.class_names
    return names[class_id] if 0 <= class_id < len(names) else f"class {class_id}"


def _boxes(snapshot: Snapshot, picture: Picture) -> list[Box]:
    named = len(picture.objects) <= MOST_NAMES
    return [
        Box(
            drawn_corners(item, picture.size),
            class_color(item.class_id),
            class_label(snapshot, item.class_id) if named else "",
            dashed=item.ignored,
        )
        for item in picture.objects[:MOST_BOXES]
    ]
