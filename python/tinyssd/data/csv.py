"""The layout of d2l's banana data set: ``label.csv`` and ``images/``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyssd.data.images import picture_size, read_picture
from tinyssd.data.source import Example
from tinyssd.errors import DataError

COLUMNS = ("img_name", "label", "xmin", "ymin", "xmax", "ymax")


class FolderSource:
    """Pictures of a folder with ``label.csv`` and ``images/``: the layout of d2l's banana data set.

    A line of ``label.csv`` is a box: ``img_name,label,xmin,ymin,xmax,ymax``, the class from 0, the corners in pixels.
    Lines that name the same picture are boxes of that picture; ``img_name,,,,,`` is a picture without objects. Pictures
    that no line names are not used.

    Args:
        folder: The folder of one split.
        class_names: The names of the classes; any other class is an error.

    Raises:
        DataError: If a file is missing or a line is wrong; it names the file and the line.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        boxes = read_label_file(folder / "label.csv", len(class_names))
        self.paths = list(boxes)
        self._labels = [_normalized(path, rows, folder / "label.csv") for path, rows in boxes.items()]
        self.max_boxes = max(len(labels) for labels in self._labels)

    def __len__(self) -> int:
        return len(self.paths)

    def example(self, index: int, epoch: int) -> Example:
        """The picture ``index`` with its boxes; the same in every epoch."""
        return Example(read_picture(self.paths[index]), self._labels[index])


@dataclass(frozen=True)
class LabelRow:
    """One line of a label file: the line's number, the class, and the corners in pixels."""

    line: int
    label: int
    box: tuple[float, float, float, float]


def read_label_file(path: Path, num_classes: int | None = None) -> dict[Path, list[LabelRow]]:
    """The boxes of every picture that a ``label.csv`` names, in the order of the file.

    Args:
        path: The label file; its pictures are in ``images/`` beside it.
        num_classes: Classes without background; None accepts any class from 0.

    Raises:
        DataError: If the file, a column, a number or a picture is missing or wrong.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a label file with the columns {','.join(COLUMNS)}")
    boxes: dict[Path, list[LabelRow]] = {}
    for line, fields in _read_csv(path):
        where = f"{path}, line {line}"
        image = path.parent / "images" / fields["img_name"]
        if image not in boxes and not image.is_file():
            raise DataError(f"{where}: no such picture: {image}")
        rows = boxes.setdefault(image, [])
        if any(fields[column] for column in COLUMNS[1:]):
            rows.append(_label_row(fields, line, where, num_classes))
    if not any(boxes.values()):
        raise DataError(f"{path}: no box in it")
    return boxes


def _read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a label file, without blank ones: the line's number, and its fields by column."""
    rows, line = [], 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            header, line = [name.strip() for name in next(reader, [])], 1
            missing = [column for column in COLUMNS if column not in header]
            if missing:
                raise DataError(f"{path}, line 1: missing column {', '.join(missing)}; it has {', '.join(header)!r}")
            for fields in reader:
                line, values = reader.line_num, [value.strip() for value in fields]
                if not any(values):
                    continue
                if len(values) != len(header):
                    raise DataError(f"{path}, line {line}: expected {len(header)} fields, got {len(values)}")
                rows.append((line, dict(zip(header, values, strict=True))))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}, after line {line}: not a CSV file in UTF-8 ({error})") from error
    return rows


def _label_row(fields: dict[str, str], line: int, where: str, num_classes: int | None) -> LabelRow:
    numbers = []
    for column in COLUMNS[1:]:
        try:
            number = float(fields[column])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{where}: {column} must be a number, got {fields[column]!r}")
        numbers.append(number)
    label, x1, y1, x2, y2 = numbers
    if label != int(label) or label < 0:
        raise DataError(f"{where}: label must be a whole number from 0, got {fields['label']}")
    if num_classes is not None and label >= num_classes:
        raise DataError(f"{where}: label {int(label)} has no name; the last class is {num_classes - 1}")
    if x2 <= x1 or y2 <= y1:
        raise DataError(f"{where}: the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area")
    return LabelRow(line, int(label), (x1, y1, x2, y2))


def _normalized(path: Path, rows: list[LabelRow], label_file: Path) -> np.ndarray:
    """The rows of one picture as float32 [G, 5], coordinates as shares of the picture."""
    width, height = picture_size(path)
    for row in rows:
        x1, y1, x2, y2 = row.box
        if min(x1, y1) < 0 or x2 > width or y2 > height:
            box = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
            raise DataError(f"{label_file}, line {row.line}: the box {box} is outside its {width}x{height} picture")
    labels = np.array([(row.label, *row.box) for row in rows], dtype=np.float32).reshape(-1, 5)
    labels[:, 1:] /= np.array([width, height, width, height], dtype=np.float32)
    return labels
