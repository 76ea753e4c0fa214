"""A data set as it was found: the snapshot that every format's reader makes.

A reader does not raise at the first blemish. What can be represented is in the snapshot as the labels say it (a box may
lie outside its picture or have no area, a class may have no name); what cannot is left out, and a :class:`Problem` says
so. Who trains decides what to do with blemishes; who checks lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)  # There may be a million.
class Object:
    """One labelled object.

    Attributes:
        class_id: Index into the names of the data set; one that is out of range has no name.
        box: ``(x1, y1, x2, y2)``, float64 pixels of the upright picture, x2 and y2 exclusive; finite, otherwise as the
            labels say.
        ignored: Neither trained on nor counted (VOC's ``difficult``, COCO's ``iscrowd``).
        file: The label file.
        line: Its line, from 1; None where lines mean nothing.
    """

    class_id: int
    box: tuple[float, float, float, float]
    ignored: bool = False
    file: Path | None = None
    line: int | None = None


@dataclass(frozen=True)
class Picture:
    """A picture file and what the labels say is on it.

    Attributes:
        path: The file.
        size: Width and height of the upright picture in pixels, from the file's header.
        turned: The EXIF turn, 1 to 8 as the standard numbers it; from 5 on width and height change places.
        objects: In the order of the labels.
        file: The label file that names the picture; None for one that no label file names.
        line: The first line that names it, from 1; None where lines mean nothing.
    """

    path: Path
    size: tuple[int, int]
    objects: tuple[Object, ...] = ()
    turned: int = 1
    file: Path | None = None
    line: int | None = None


@dataclass(frozen=True)
class Problem:
    """Something found while reading.

    Attributes:
        kind: A short name of the kind, such as "unreadable picture"; what is counted together.
        severity: "error" where something was left out or cannot be trusted, "warning" where it was changed, "note" for
            what is only said.
        message: One sentence; it does not name the place.
        file: Where.
        line: Of the file, from 1.
        count: How many of these it stands for; the place is that of the first.
    """

    kind: str
    severity: Severity
    message: str
    file: Path | None = None
    line: int | None = None
    count: int = 1

    def __str__(self) -> str:
        place = (
            "" if self.file is None else f"{self.file}: " if self.line is None else f"{self.file}, line {self.line}: "
        )
        return f"{place}{self.message}"


@dataclass(frozen=True)
class DataSet:
    """A data set as it was found.

    Attributes:
        format: "csv", "voc", "coco" or "yolo".
        root: The folder that was opened.
        class_names: Class 0 first; background is none of them.
        splits: The pictures by split: "train", "val" and, where there is one, "test". A split may be missing.
        notes: What was decided, a sentence each: where the names and the splits come from.
        problems: What was found while reading.
    """

    format: str
    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Picture, ...]]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
