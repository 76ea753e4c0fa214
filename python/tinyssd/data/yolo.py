"""YOLO: a text file a picture, a line ``class x y width height`` an object, as shares of the picture.

The label file of ``images/train/a.jpg`` is ``labels/train/a.txt``, or ``a.txt`` beside the picture. A line with three
or more corners after the class is an outline; its box is taken. A picture without a label file has no objects.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tinyssd.data.draft import Box, Draft, Entry, Problems, Row
from tinyssd.data.names import NAME_FILES
from tinyssd.data.progress import watched
from tinyssd.data.splits import split_of
from tinyssd.data.text import read_text
from tinyssd.data.tree import Tree
from tinyssd.errors import DataError
from tinyssd.text import plural, printable

_MOST_BYTES = 1 << 24
_MOST_DEPTH = 20
# A share is at most 1; what is a little more was rounded or lies outside, what is far more is in pixels.
_MOST_SHARE = 2.0


def find_yolo(tree: Tree) -> list[str]:
    """The description of the data set (``data.yaml``) where there is one, and the label files that have a picture."""
    return [*_descriptions(tree), *(label for label in _pairs(tree).values() if label is not None)]


def read_yolo(tree: Tree, files: Sequence[str], problems: Problems) -> Draft:
    """The pictures and boxes of all label files."""
    draft = Draft(tree.root)
    description: dict[str, Any] = {}
    descriptions = [name for name in files if name.endswith((".yaml", ".yml"))]
    if descriptions:
        description = _read_yaml(tree.path(descriptions[0]))
        draft.names = _names(description, tree.path(descriptions[0]), problems)
        draft.names_from = tree.path(descriptions[0])
    listed = _listed_splits(tree, posixpath.dirname(descriptions[0]), description, draft) if descriptions else {}
    poses = "kpt_shape" in description
    pairs = _pairs(tree)
    unlabelled = 0
    for picture, label in watched(list(pairs.items()), "reading labels", "files"):
        split = listed.get(picture) if listed else split_of(posixpath.dirname(picture))
        if listed and split is None:
            continue
        entry = draft.entry(picture, split, None if label is None else tree.path(label), None)
        if label is None:
            unlabelled += 1
        else:
            _read_labels(tree.path(label), entry, poses, problems)
    used = set(pairs.values())
    for name in _label_files(tree) - used:
        if posixpath.basename(posixpath.dirname(name)).lower() == "labels" or "/labels/" in f"/{name}":
            problems.add("no picture", "error", "no picture has the name of this label file", tree.path(name))
    if unlabelled:
        draft.notes.append(f"{plural(unlabelled, 'picture')} without a label file taken as without objects")
    return draft


class _Loader(yaml.BaseLoader):
    """Makes lists, dictionaries and texts only: so ``no`` is a name. No aliases, no nesting without end."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases, which no description of a data set needs")
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {_MOST_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(read_text(path, _MOST_BYTES), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise DataError(f"{path}{line}: not YAML ({problem})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected the keys train, val and names")
    return found


def _descriptions(tree: Tree) -> list[str]:
    """The YAML files that describe a data set, the uppermost first."""
    found = []
    for name in sorted(tree.with_suffix(".yaml", ".yml"), key=lambda name: (name.count("/"), name)):
        try:
            keys = set(_read_yaml(tree.path(name)))
        except DataError:
            # The one that is called so by all tools must be well-formed.
            keys = {"names"} if posixpath.basename(name) in ("data.yaml", "data.yml") else set()
        if "names" in keys or {"train", "nc"} <= set(keys):
            found.append(name)
    return found


def _names(description: dict[str, Any], path: Path, problems: Problems) -> dict[int, str]:
    names = description.get("names", {})
    items = (
        list(enumerate(names)) if isinstance(names, list) else list(names.items()) if isinstance(names, dict) else []
    )
    found: dict[int, str] = {}
    for key, name in items:
        number = _whole(str(key))
        if number is None or not isinstance(name, str) or not name.strip():
            problems.add("bad category", "error", f"names: expected numbers and names, got {str(key)[:40]!r}", path)
        else:
            found[number] = printable(name)
    wanted = description.get("nc")
    if isinstance(wanted, str) and found and _whole(wanted) != len(found):
        message = f"nc is {printable(wanted[:40])}, but there are {len(found)} names"
        problems.add("bad category", "warning", message, path)
    return found


def _listed_splits(tree: Tree, folder: str, description: dict[str, Any], draft: Draft) -> dict[str, str]:
    """The split of each picture by the folders and lists that the description names; empty where it names none."""
    splits: dict[str, str] = {}
    base = str(description.get("path") or "")
    for split in ("test", "val", "train"):
        places = description.get(split) or []
        for place in [places] if isinstance(places, str) else places if isinstance(places, list) else []:
            inside = _inside(tree, folder, base, str(place))
            if inside is None:
                message = (
                    f"{split} is {printable(str(place)[:80])!r}, which is not in the folder; looked for it by name"
                )
                draft.notes.append(message)
                continue
            for picture in _pictures_of(tree, inside):
                splits[picture] = split
    return splits if "train" in splits.values() else {}


def _inside(tree: Tree, folder: str, base: str, place: str) -> str | None:
    """A folder or list of the tree; Roboflow writes ``../train/images`` for the folder beside the description."""
    plain = place.replace("\\", "/").rstrip("/")
    stripped = plain
    while stripped.startswith(("../", "./")):
        stripped = stripped.partition("/")[2]
    for start in (posixpath.join(folder, base), folder, ""):
        for end in (plain, stripped):
            candidate = posixpath.normpath(posixpath.join(start, end))
            candidate = "" if candidate == "." else candidate
            if candidate in tree.files or any(name.startswith(f"{candidate}/") for name in tree.pictures):
                return candidate
    return None


def _pictures_of(tree: Tree, inside: str) -> Iterator[str]:
    if inside in tree.files:
        for line in read_text(tree.path(inside)).splitlines():
            found = tree.find(line.strip(), posixpath.dirname(inside))
            if found is not None:
                yield found
    else:
        yield from (name for name in tree.pictures if name.startswith(f"{inside}/"))


def _label_files(tree: Tree) -> set[str]:
    return {name for name in tree.with_suffix(".txt") if posixpath.basename(name).lower() not in NAME_FILES}


def _pairs(tree: Tree) -> dict[str, str | None]:
    """The label file of each picture, in the folders where some picture has one."""
    labels = _label_files(tree)
    pairs = {
        picture: next((name for name in _candidates(picture) if name in labels), None) for picture in tree.pictures
    }
    folders = {posixpath.dirname(picture) for picture, label in pairs.items() if label is not None}
    return {picture: label for picture, label in pairs.items() if posixpath.dirname(picture) in folders}


def _candidates(picture: str) -> Iterator[str]:
    stem = posixpath.splitext(picture)[0]
    head, images, tail = f"/{stem}".rpartition("/images/")
    if images:
        yield f"{head}/labels/{tail}.txt".lstrip("/")
    yield f"{stem}.txt"
    yield posixpath.join(posixpath.dirname(stem), "labels", f"{posixpath.basename(stem)}.txt")


def _read_labels(path: Path, entry: Entry, poses: bool, problems: Problems) -> None:
    try:
        lines = read_text(path, _MOST_BYTES).splitlines()
    except DataError as error:
        problems.add("unreadable file", "error", str(error).removeprefix(f"{path}: "), path)
        return
    for line, text in enumerate(lines, start=1):
        fields = text.split()
        if not fields:
            continue
        if entry.crowded:
            return
        try:
            number, box = _object(fields, poses)
        except ValueError as error:
            problems.add("bad line", "error", str(error), path, line)
            continue
        entry.rows.append(Row(number, box, path, line, unit="shares"))


def _object(fields: Sequence[str], poses: bool) -> tuple[int, Box]:
    """The class and the box of a line.

    Raises:
        ValueError: If it is none.
    """
    number = _whole(fields[0])
    if number is None:
        raise ValueError(f"the class must be a whole number from 0, got {fields[0][:40]!r}")
    if len(fields) != 5 and not poses and (len(fields) < 7 or len(fields) % 2 == 0):
        raise ValueError(f"expected class x y width height, or class and corners x y, got {len(fields)} fields")
    if len(fields) < 5:
        raise ValueError(f"expected class x y width height and points, got {len(fields)} fields")
    values = [_share(field) for field in (fields[1:5] if poses else fields[1:])]
    if len(values) == 4:
        x, y, width, height = values
        return number, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return number, (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))


def _share(field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a number, got {field[:40]!r}")
    if abs(value) > _MOST_SHARE:
        raise ValueError(f"expected shares of the picture from 0 to 1, got {field[:40]}; are these pixels?")
    return value


def _whole(text: str) -> int | None:
    digits, dot, rest = text.partition(".")
    whole = digits.isascii() and digits.isdigit() and len(digits) < 10 and (not dot or not rest.strip("0"))
    return int(digits) if whole else None
