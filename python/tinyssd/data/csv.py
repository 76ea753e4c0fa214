"""Tables: a line an object, as d2l's banana data, TensorFlow's and others have it.

Columns are known by their names, in any order and case. Where there is no header, the lines must be
``picture,class,xmin,ymin,xmax,ymax`` or ``picture,xmin,ymin,xmax,ymax,class``. A line without numbers is a picture
without objects. Separators may be commas, semicolons, tabs or bars.
"""

from __future__ import annotations

import csv
import io
import math
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeGuard

from tinyssd.data.draft import Draft, Problems, Row
from tinyssd.data.images import PICTURE_SUFFIXES
from tinyssd.data.splits import split_of
from tinyssd.data.text import read_start, read_text
from tinyssd.data.tree import Tree, suffix
from tinyssd.errors import DataError

_DELIMITERS = ",;\t|"
_ROUNDING = 0.01
_MOST_PIXELS = 1e9
_WHOLE = re.compile(r"\d{1,9}(\.0*)?")
_NOTHING = ("", "nan", "none", "null", "na", "n/a")

_COLUMNS: dict[str, tuple[str, ...]] = {
    "picture": (
        *("img_name", "image_name", "filename", "file_name", "image", "img", "file", "path", "image_path", "img_path"),
        *("image_id", "imageid", "picture", "name"),
    ),
    "label": ("label", "class", "class_name", "classname", "category", "label_name", "labelname", "class_id", "name"),
    "xmin": ("xmin", "x_min", "x1", "left", "bbox_xmin"),
    "ymin": ("ymin", "y_min", "y1", "top", "bbox_ymin"),
    "xmax": ("xmax", "x_max", "x2", "right", "bbox_xmax"),
    "ymax": ("ymax", "y_max", "y2", "bottom", "bbox_ymax"),
    "x": ("x", "bbox_x"),
    "y": ("y", "bbox_y"),
    "w": ("w", "bbox_width", "bbox_w", "width"),
    "h": ("h", "bbox_height", "bbox_h", "height"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "split": ("split", "set", "subset", "usage"),
    "ignored": ("difficult", "iscrowd", "ignore"),
}
_CORNERS, _CORNER_AND_SIZE = ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "w", "h")
EXPECTED = (
    "a column for the picture (img_name, filename, ...), one for the class (label, class, ...) and the corners "
    "xmin, ymin, xmax, ymax in pixels (or x, y, w, h)"
)


@dataclass(frozen=True)
class Table:
    """How a table is to be read.

    Attributes:
        delimiter: Between its fields.
        columns: The place of each column that is known, by the names above.
        header: The names of its columns; empty where it has no header.
    """

    delimiter: str
    columns: dict[str, int]
    header: tuple[str, ...]

    @cached_property
    def box(self) -> tuple[str, ...] | None:
        """The columns of the box, where they are all there."""
        return next((names for names in (_CORNERS, _CORNER_AND_SIZE) if all(n in self.columns for n in names)), None)


def find_csv(tree: Tree) -> list[str]:
    """The tables that name pictures and boxes."""
    return [name for name in tree.with_suffix(".csv", ".tsv") if _usable(table_of(tree, name))]


def table_of(tree: Tree, name: str) -> Table | None:
    """How a table is to be read, by its first line; None where it cannot be."""
    lines = read_start(tree.path(name)).splitlines()
    first = next((line for line in lines if line.strip(_DELIMITERS + " \t\r")), "")
    best: Table | None = None
    for delimiter in _DELIMITERS:
        fields = [field.strip() for field in _split(first, delimiter)]
        table = Table(delimiter, _columns(fields), tuple(fields))
        if table.columns.get("picture") is None:
            table = _without_header(delimiter, fields)
        if best is None or len(table.columns) > len(best.columns):
            best = table
    return best


def read_csv(tree: Tree, files: Sequence[str], problems: Problems) -> Draft:
    """The pictures and boxes of all tables."""
    draft = Draft(tree.root)
    for name in files:
        table = table_of(tree, name)
        if not _usable(table):
            header = "" if table is None else f"has the columns {', '.join(table.header)}; "
            raise DataError(f"{tree.path(name)}: {header}expected {EXPECTED}")
        _read_table(tree, name, table, draft, problems)
    _numbers(draft)
    return draft


def lines_of(tree: Tree, name: str, table: Table, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table without its header and blank ones: the line's number, and its fields."""
    path = tree.path(name)
    reader = csv.reader(
        io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""),
        delimiter=table.delimiter,
        skipinitialspace=True,
        strict=True,
    )
    header = bool(table.header)
    while True:
        line = reader.line_num + 1
        try:
            fields = [field.strip() for field in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            problems.add("bad line", "error", f"the rest of the file cannot be read as CSV ({error})", path, line)
            return
        if not any(fields):
            continue
        if header:
            header = False
        else:
            yield line, fields


def _columns(header: Sequence[str]) -> dict[str, int]:
    """The place of each known column; each place stands for one."""
    plain = [re.sub(r"[\s-]+", "_", name.strip().strip("\ufeff").lower()) for name in header]
    places: dict[str, int] = {}
    corners = {alias for key in _CORNERS for alias in _COLUMNS[key]} & set(plain)
    for key, aliases in _COLUMNS.items():
        if key in _CORNER_AND_SIZE and len(corners) >= 4:
            continue  # Width and height are then those of the picture.
        place = next((plain.index(alias) for alias in aliases if alias in plain), None)
        if place is not None and place not in places.values():
            places[key] = place
    return places


def _without_header(delimiter: str, fields: Sequence[str]) -> Table:
    """A table whose first line is data already."""
    if len(fields) < 6 or suffix(fields[0]) not in PICTURE_SUFFIXES:
        return Table(delimiter, {}, tuple(fields))
    last = not _is_number(fields[5]) and all(_is_number(field) or not field for field in fields[1:5])
    order = ("picture", *_CORNERS, "label") if last and fields[5] else ("picture", "label", *_CORNERS)
    return Table(delimiter, {key: place for place, key in enumerate(order)}, ())


def _usable(table: Table | None) -> TypeGuard[Table]:
    return table is not None and table.box is not None and "picture" in table.columns and "label" in table.columns


def _read_table(tree: Tree, name: str, table: Table, draft: Draft, problems: Problems) -> None:
    path, folder, split = tree.path(name), posixpath.dirname(name), split_of(name)
    pictures: dict[tuple[str, str | None], str | None] = {}
    rows: list[Row] = []
    for line, fields in lines_of(tree, name, table, problems):
        if len(fields) <= max(table.columns.values()) or (table.header and len(fields) != len(table.header)):
            wanted = len(table.header) or len(table.columns)
            problems.add("bad line", "error", f"expected {wanted} fields, got {len(fields)}", path, line)
            continue
        values = {key: fields[place] for key, place in table.columns.items()}
        here = (split_of(values["split"]) or split) if "split" in values else split
        key = (values["picture"], here)
        if key not in pictures:
            pictures[key] = tree.look_up(values["picture"], folder, here, problems, path, line)
        picture = pictures[key]
        if picture is None:
            continue
        entry = draft.entry(picture, here, path, line)
        if entry.crowded:
            continue
        entry.size = _size(values)
        row = _row(values, table, path, line, problems)
        if row is not None:
            entry.rows.append(row)
            rows.append(row)
    if rows and _are_shares(rows):
        draft.notes.append(f"{name} has its boxes as shares of the picture")
        for row in rows:
            row.unit = "shares"


def _row(values: dict[str, str], table: Table, path: Path, line: int, problems: Problems) -> Row | None:
    """The object of a line; None for a picture without objects, and for a line that is wrong."""
    assert table.box is not None
    if all(values[name].lower() in _NOTHING for name in (*table.box, "label")):
        return None
    numbers = []
    for name in table.box:
        text = values[name] if table.delimiter == "," else values[name].replace(",", ".")
        number = float(text) if _is_number(text) else math.nan
        if not math.isfinite(number) or abs(number) > _MOST_PIXELS:
            problems.add("bad line", "error", f"{name} must be a number, got {values[name][:40]!r}", path, line)
            return None
        numbers.append(number)
    label = values["label"]
    if label.lower() in _NOTHING or (_is_number(label) and not _WHOLE.fullmatch(label)):
        message = f"the class must be a name or a whole number from 0, got {label[:40]!r}"
        problems.add("bad line", "error", message, path, line)
        return None
    x, y, right, bottom = numbers
    if table.box == _CORNER_AND_SIZE:
        right, bottom = x + right, y + bottom
    ignored = values.get("ignored", "").lower() in ("1", "1.0", "true", "yes")
    return Row(label, (x, y, right, bottom), path, line, ignored)


def _are_shares(rows: Sequence[Row]) -> bool:
    """Whether all boxes lie within 0..1 and are no whole numbers."""
    values = [value for row in rows for value in row.box]
    return all(0 <= value <= 1 + _ROUNDING for value in values) and any(value != int(value) for value in values)


def _numbers(draft: Draft) -> None:
    """Classes are numbers where all of them are."""
    rows = list(draft.rows())
    if all(_WHOLE.fullmatch(str(row.label)) for row in rows):
        for row in rows:
            row.label = int(float(row.label))


def _size(values: dict[str, str]) -> tuple[float, float] | None:
    if _is_number(values.get("width", "")) and _is_number(values.get("height", "")):
        return float(values["width"]), float(values["height"])
    return None


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
