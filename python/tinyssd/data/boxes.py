"""From the numbers of a label file to boxes in pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tinyssd.data.draft import Box, Draft, Entry, Problems, Row
from tinyssd.data.images import Header
from tinyssd.data.labels import Object

# From this share of boxes on whose second corner lies before the first, they are no corners.
_MANY = 0.25


def in_pixels(draft: Draft, headers: Mapping[str, Header], problems: Problems) -> dict[int, tuple[Object, ...]]:
    """The objects of each entry, by the entry's id; rows have numbers for classes by now.

    Where the corners of a file make no sense, but all its lines do as ``x, y, width, height``, they are read so.
    """
    _find_sizes(draft, headers)
    objects = {}
    for entry in draft.entries:
        header = headers[entry.picture]
        _compare_sizes(entry, header, problems)
        width, height = header.size
        objects[id(entry)] = tuple(
            Object(int(row.label), _scaled(row, width, height), row.ignored, row.file, row.line) for row in entry.rows
        )
    return objects


def _scaled(row: Row, width: int, height: int) -> Box:
    if row.unit == "pixels":
        return row.box
    x1, y1, x2, y2 = row.box
    return x1 * width, y1 * height, x2 * width, y2 * height


def _find_sizes(draft: Draft, headers: Mapping[str, Header]) -> None:
    by_file: dict[Path, list[tuple[Row, tuple[int, int]]]] = defaultdict(list)
    for entry in draft.entries:
        for row in entry.rows:
            if row.unit == "pixels":
                by_file[row.file].append((row, headers[entry.picture].size))
    for path, rows in by_file.items():
        swapped = sum(row.box[2] < row.box[0] or row.box[3] < row.box[1] for row, _ in rows)
        if swapped >= _MANY * len(rows) > 0 and all(_fits_as_size(row.box, size) for row, size in rows):
            name = path.relative_to(draft.root).as_posix()
            draft.notes.append(f"{name} has x, y, width, height where it says corners, and is read so")
            for row, _ in rows:
                x, y, width, height = row.box
                row.box = (x, y, x + width, y + height)


def _fits_as_size(box: Box, size: tuple[int, int]) -> bool:
    x, y, width, height = box
    return min(x, y) >= 0 and min(width, height) > 0 and x + width <= size[0] + 1 and y + height <= size[1] + 1


def _compare_sizes(entry: Entry, header: Header, problems: Problems) -> None:
    """Says where the labels were made for a picture of another size."""
    if entry.size is None or not entry.rows or entry.size == header.size or min(entry.size) <= 0:
        return
    width, height = header.size
    labelled = f"{entry.size[0]:g}x{entry.size[1]:g}"
    if entry.size == (height, width):
        message = f"labelled as {labelled}, the upright picture has {width}x{height}: its EXIF turn?"
    else:
        message = f"labelled as {labelled}, the picture has {width}x{height}"
    problems.add("other size", "warning", message, entry.file, entry.line)
