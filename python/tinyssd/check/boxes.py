"""Checks of boxes: each takes a snapshot and yields what it found."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import product

from tinyssd.check.snapshot import Snapshot
from tinyssd.data.labels import Object, Picture, Problem, Severity
from tinyssd.data.turns import frame_of
from tinyssd.text import plural

# Half a pixel beyond the edge is a matter of rounding.
TOLERANCE = 0.5
# Two boxes of one class that overlap by this much are one object labelled twice.
DOUBLED_IOU = 0.9
# Sides are of one level within this factor; where they begin is told in this share of the level's length.
_LEVEL, _STEP = 1.25, 0.25
# More than what rounding does to the bounds of a search.
_ROUNDING = 0.001

Corners = tuple[float, float, float, float]
# The level of a side's length, and where it begins in steps of that level.
Side = tuple[int, int]


def boxes_outside(snapshot: Snapshot) -> Iterator[Problem]:
    """Boxes that reach beyond their picture; a training clips them, and drops those with nothing inside."""
    for _, picture, item in snapshot.objects():
        if has_area(item.box) and not _fits(item.box, picture.size) and not _before_turn(picture):
            width, height = picture.size
            x1, y1, x2, y2 = clipped(item.box, picture.size)
            gone = x2 <= x1 or y2 <= y1
            where = "wholly outside" if gone else "partly outside"
            hint = _shares_hint(item.box, picture) if gone else ""
            yield _finding(
                "box outside its picture",
                "error" if gone else "warning",
                f"the box {show(item.box)} lies {where} its {width}x{height} picture {picture.path.name}{hint}",
                item,
            )


def boxes_without_area(snapshot: Snapshot) -> Iterator[Problem]:
    """Boxes that hold no pixel, or whose corners stand in the wrong order."""
    for _, picture, item in snapshot.objects():
        if has_area(item.box):
            continue
        x1, y1, x2, y2 = item.box
        swapped = x2 != x1 and y2 != y1
        what = "has its corners in the wrong order (or is x, y, width, height)" if swapped else "has no area"
        yield _finding("box without area", "error", f"the box {show(item.box)} in {picture.path.name} {what}", item)


def doubled_boxes(snapshot: Snapshot) -> Iterator[Problem]:
    """Objects that are labelled twice, with one class or with two."""
    for _, picture in snapshot.pictures():
        for item, earlier in doubles(picture):
            if item.class_id == earlier.class_id:
                what = f"stands there twice: {_name(snapshot, item)}"
            else:
                what = f"has two classes: {_name(snapshot, earlier)} and {_name(snapshot, item)}"
            first = "" if earlier.line is None else f", first in line {earlier.line}"
            message = f"the box {show(item.box)} in {picture.path.name} {what}{first}"
            yield _finding("doubled box", "warning", message, item)


def boxes_before_turn(snapshot: Snapshot) -> Iterator[Problem]:
    """Pictures that their EXIF data turn and whose boxes fit the stored picture only."""
    for _, picture in snapshot.pictures():
        if _before_turn(picture):
            width, height = picture.size
            message = (
                f"{picture.path.name} is {height}x{width} as stored and {width}x{height} after its EXIF turn "
                f"{picture.turned}; its boxes fit only as stored: they were drawn on the picture before the turn"
            )
            yield Problem("boxes before the EXIF turn", "error", message, picture.file or picture.path, picture.line)


def turned_pictures(snapshot: Snapshot) -> Iterator[Problem]:
    """Pictures that their EXIF data turn and whose boxes do not tell the two ways apart."""
    turned = [picture for _, picture in snapshot.pictures() if picture.turned != 1 and picture.objects]
    unclear = [picture for picture in turned if not _before_turn(picture)]
    if unclear:
        have = plural(len(unclear), "picture has", "pictures have")
        message = (
            f"{have} an EXIF turn, as this one; their boxes are taken to be those of the upright "
            "picture, unless others say the opposite: see whether the examples agree"
        )
        yield Problem("EXIF turn", "note", message, unclear[0].path)


def _before_turn(picture: Picture) -> bool:
    return bool(picture.objects) and frame_of(picture) == "stored"


def doubles(picture: Picture) -> Iterator[tuple[Object, Object]]:
    """Each object that repeats an earlier one of its picture, with that one.

    Any class counts where the boxes are equal, the same class only where they are nearly so.
    """
    exact: dict[Corners, Object] = {}
    # By class, size and place, with the number in the picture: so few have to be compared, however many there are.
    kept: dict[tuple[int, Side, Side], list[tuple[int, Object]]] = defaultdict(list)
    for number, item in enumerate(picture.objects):
        if not has_area(item.box):
            continue
        earlier = exact.get(item.box) or _nearly_the_same(item, kept)
        if earlier is not None:
            yield item, earlier
        else:
            exact[item.box] = item
            x1, y1, x2, y2 = item.box
            kept[item.class_id, _side(x1, x2), _side(y1, y2)].append((number, item))


def has_area(box: Corners) -> bool:
    """Whether a box holds anything."""
    return box[0] < box[2] and box[1] < box[3]


def clipped(box: Corners, size: tuple[int, int]) -> Corners:
    """The part of a box inside a picture of ``size`` (width, height); without area if there is none."""
    width, height = size
    x1, y1, x2, y2 = box
    return (min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height))


def overlap(a: Corners, b: Corners) -> float:
    """Intersection over union; 0 where neither has an area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def show(box: Corners) -> str:
    """A box as messages write it."""
    return "(" + ", ".join(f"{round(value, 2):g}" for value in box) + ")"


def _nearly_the_same(item: Object, kept: Mapping[tuple[int, Side, Side], list[tuple[int, Object]]]) -> Object | None:
    """The first object, in the order of the picture, that overlaps ``item`` enough."""
    x1, y1, x2, y2 = item.box
    repeated = [
        found
        for sides in product(_like(x1, x2), _like(y1, y2))
        for found in kept.get((item.class_id, *sides), ())
        if overlap(item.box, found[1].box) >= DOUBLED_IOU
    ]
    return min(repeated, key=lambda found: found[0])[1] if repeated else None


def _side(low: float, high: float) -> Side:
    level = _level(_length(low, high))
    return level, math.floor(low / _step(level))


def _like(low: float, high: float) -> list[Side]:
    """All that a side may be which shares so much with this one that two boxes reach DOUBLED_IOU."""
    length, least = _length(low, high), DOUBLED_IOU * (1 - _ROUNDING)
    reach = length * (1 / least - 1)
    sides = []
    for level in range(_level(length * least), _level(length / least) + 1):
        begin, around = low / _step(level), reach / _step(level)
        sides += [(level, place) for place in range(math.floor(begin - around), math.floor(begin + around) + 1)]
    return sides


def _length(low: float, high: float) -> float:
    """Between bounds that leave room for arithmetic; no label file holds numbers so large or so small."""
    return min(max(high - low, 1e-290), 1e290)


def _level(length: float) -> int:
    return math.floor(math.log(length, _LEVEL))


def _step(level: int) -> float:
    return _STEP * _LEVEL**level


def _fits(box: Corners, size: tuple[int, int]) -> bool:
    low, (width, height) = -TOLERANCE, size
    return min(box[:2]) >= low and box[2] <= width + TOLERANCE and box[3] <= height + TOLERANCE


def _shares_hint(box: Corners, picture: Picture) -> str:
    """A box that lies outside since its numbers were multiplied by the picture's size twice."""
    width, height = picture.size
    if max(box[0] / width, box[2] / width) > width / 4 or max(box[1] / height, box[3] / height) > height / 4:
        return "; are its numbers pixels where shares of the picture are expected?"
    return ""


def _name(snapshot: Snapshot, item: Object) -> str:
    return snapshot.data.class_names[item.class_id] if snapshot.names_class(item) else f"class {item.class_id}"


def _finding(kind: str, severity: Severity, message: str, item: Object) -> Problem:
    return Problem(kind, severity, message, item.file, item.line)
