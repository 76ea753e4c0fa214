"""From a data set as it was found to one that can be trained on."""

from __future__ import annotations

from dataclasses import replace

from tinyssd.data.draft import Problems
from tinyssd.data.labels import DataSet, Object, Picture
from tinyssd.data.turns import frame_of, labelled_unturned, turned_box
from tinyssd.text import printable

# So far outside is rounding, as in a share of 1.000001.
_ROUNDING = 0.5


def clean(data_set: DataSet) -> DataSet:
    """Clips boxes to their pictures and drops what is no box, each with a problem that says so.

    Corners in the wrong order are put right, boxes without area and those outside their picture are dropped, doubled
    ones are kept once, those of a class that has no name are dropped. Boxes that were drawn before the EXIF turn are
    turned where the whole data set agrees on that; else a picture whose boxes fit only so is left out.

    Returns:
        Another snapshot. Every box in it lies in its picture, has an area, and a class with a name.
    """
    problems = Problems()
    turn = labelled_unturned(picture for pictures in data_set.splits.values() for picture in pictures)
    splits = {}
    for name, pictures in data_set.splits.items():
        cleaned = (_clean(picture, len(data_set.class_names), turn, problems) for picture in pictures)
        splits[name] = tuple(picture for picture in cleaned if picture is not None)
    return replace(data_set, splits=splits, problems=(*data_set.problems, *problems.all()))


def _clean(picture: Picture, num_classes: int, turn: bool, problems: Problems) -> Picture | None:
    if picture.turned > 1 and picture.objects:
        if turn:
            message = "its boxes are those before its EXIF turn; they were turned with it"
            problems.add("EXIF turn", "warning", message, picture.path)
            picture = replace(picture, objects=tuple(_turned(item, picture) for item in picture.objects))
        elif frame_of(picture) == "stored":
            message = "skipped: its boxes fit only the picture before its EXIF turn"
            problems.add("EXIF turn", "error", message, picture.path)
            return None
    kept: dict[tuple[int, tuple[float, ...]], Object] = {}
    for item in picture.objects:
        mended = _mended(item, picture, num_classes, problems)
        if mended is None:
            continue
        key = (mended.class_id, mended.box)
        if key in kept:
            problems.add("doubled", "warning", f"{_text(item, picture)} stands there twice", item.file, item.line)
        else:
            kept[key] = mended
    return replace(picture, objects=tuple(kept.values()))


def _turned(item: Object, picture: Picture) -> Object:
    return replace(item, box=turned_box(item.box, picture.size, picture.turned))


def _mended(item: Object, picture: Picture, num_classes: int, problems: Problems) -> Object | None:
    """The object with a box that can be trained on; None where there is none."""
    if not 0 <= item.class_id < num_classes:
        message = (
            f"class {item.class_id} of {printable(picture.path.name)} has no name; the last class is {num_classes - 1}"
        )
        problems.add("no class", "error", message, item.file, item.line)
        return None
    x1, y1, x2, y2 = item.box
    if x1 == x2 or y1 == y2:
        problems.add("no area", "warning", f"{_text(item, picture)} has no area", item.file, item.line)
        return None
    if x2 < x1 or y2 < y1:
        message = f"{_text(item, picture)} has its corners in the wrong order"
        problems.add("corners swapped", "warning", message, item.file, item.line)
        x1, x2 = min(x1, x2), max(x1, x2)
        y1, y2 = min(y1, y2), max(y1, y2)
    width, height = (float(extent) for extent in picture.size)
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height))
    where = f"its {picture.size[0]}x{picture.size[1]} picture"
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        problems.add("outside", "warning", f"{_text(item, picture)} is outside {where}", item.file, item.line)
        return None
    if max(-min(x1, y1), x2 - width, y2 - height) > _ROUNDING:
        message = f"{_text(item, picture)} reaches beyond {where}"
        problems.add("clipped", "warning", message, item.file, item.line)
    return item if inside == item.box else replace(item, box=inside)


def _text(item: Object, picture: Picture) -> str:
    return f"the box ({', '.join(f'{value:g}' for value in item.box)}) of {printable(picture.path.name)}"
