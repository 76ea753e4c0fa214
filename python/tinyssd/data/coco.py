"""COCO: one JSON file for many pictures, as COCO itself, CVAT, Label Studio and Roboflow write it.

A box is ``[x, y, width, height]`` in pixels. Objects with ``iscrowd`` are ignored ones. A category that is the parent
of others and has no box of its own is no class.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from tinyssd.data.draft import Box, Draft, Entry, Problems, Row
from tinyssd.data.splits import split_of
from tinyssd.data.text import read_text
from tinyssd.data.tree import Tree
from tinyssd.errors import DataError
from tinyssd.text import printable

_MOST_BYTES = 1 << 30
_MOST_PIXELS = 1e9


def find_coco(tree: Tree) -> list[str]:
    """The JSON files that hold boxes of pictures; of several for one split those that are called "instances"."""
    names = [name for name in tree.with_suffix(".json") if _looks_like_coco(tree.path(name))]
    by_split: dict[tuple[str | None, bool], list[str]] = {}
    for name in names:
        called = "instances" in posixpath.basename(name).lower()
        by_split.setdefault((split_of(name), called), []).append(name)
    return [name for (split, called), of in by_split.items() if called or (split, True) not in by_split for name in of]


def read_coco(tree: Tree, files: Sequence[str], problems: Problems) -> Draft:
    """The pictures and boxes of all files."""
    draft = Draft(tree.root)
    categories: dict[str, str] = {}  # the parent by the name, in the order of the files
    for name in files:
        document = _document(tree.path(name))
        names = _categories(document, categories, tree.path(name), problems)
        entries = _images(tree, name, document, draft, problems)
        for number, annotation in enumerate(_items(document, "annotations")):
            _add(annotation, number, names, entries, tree.path(name), problems)
    used = Counter(row.label for row in draft.rows())
    parents = set(categories.values()) - {""}
    kept = [name for name in categories if used[name] or name not in parents]
    draft.names = dict(enumerate(kept))
    left_out = [name for name in categories if name not in kept]
    if left_out:
        draft.notes.append(f"no class, but a parent of others without boxes: {', '.join(left_out)}")
    return draft


def _looks_like_coco(path: Path) -> bool:
    try:
        text = read_text(path, _MOST_BYTES)
    except DataError:
        return False
    # Whether the file is well-formed is said when it is read.
    return '"images"' in text and '"annotations"' in text and '"categories"' in text


def _document(path: Path) -> dict[str, Any]:
    text = read_text(path, _MOST_BYTES)
    try:
        document = json.loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise DataError(f"{path}: nested too deeply for a label file") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected an object with images, annotations and categories")
    return document


def _items(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = document.get(name)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _categories(document: dict[str, Any], known: dict[str, str], path: Path, problems: Problems) -> dict[str, str]:
    """The names of a file's categories by their id; ``known`` gets those that are new."""
    names: dict[str, str] = {}
    for item in _items(document, "categories"):
        key, name = _key(item.get("id")), item.get("name")
        if key is None or not isinstance(name, (str, int)) or not str(name).strip():
            problems.add("bad category", "error", f"a category without id or name: id {_short(item.get('id'))}", path)
            continue
        if key in names:
            problems.add("bad category", "warning", f"the category id {printable(key)[:60]} stands in it twice", path)
        names[key] = printable(str(name))
        parent = item.get("supercategory")
        known.setdefault(names[key], printable(parent) if isinstance(parent, str) else "")
    return names


def _images(
    tree: Tree, name: str, document: dict[str, Any], draft: Draft, problems: Problems
) -> dict[str, Entry | None]:
    """The pictures of a file by their id; None for one that is not there."""
    path, split = tree.path(name), split_of(name)
    entries: dict[str, Entry | None] = {}
    for item in _items(document, "images"):
        key, file_name = _key(item.get("id")), item.get("file_name")
        if key is None or not isinstance(file_name, str) or not file_name:
            problems.add("bad line", "error", f"an image without id or file_name: id {_short(item.get('id'))}", path)
            continue
        if key in entries:
            problems.add("bad line", "error", f"the image id {printable(key)[:60]} stands in it twice", path)
            continue
        picture = tree.look_up(file_name, posixpath.dirname(name), split, problems, path, None)
        entries[key] = None if picture is None else draft.entry(picture, split, path)
        entry, width, height = entries[key], item.get("width"), item.get("height")
        if entry is not None and _is_number(width) and _is_number(height):
            entry.size = (float(width), float(height))
    return entries


def _add(
    item: dict[str, Any],
    number: int,
    names: dict[str, str],
    entries: dict[str, Entry | None],
    path: Path,
    problems: Problems,
) -> None:
    """Puts an annotation to its picture."""
    where = f"annotation {_short(item['id'])}" if "id" in item else f"annotation number {number + 1}"
    image, category = _key(item.get("image_id")), _key(item.get("category_id"))
    if image not in entries:
        problems.add("bad line", "error", f"{where}: no image has the id {_short(item.get('image_id'))}", path)
        return
    entry = entries[image]
    if entry is None or entry.crowded:
        return  # Its picture is a problem already.
    if category not in names:
        message = f"{where}: no category has the id {_short(item.get('category_id'))}"
        problems.add("bad line", "error", message, path)
        return
    box = _box(item)
    if box is None:
        problems.add("bad line", "error", f"{where}: bbox must be four numbers", path)
        return
    ignored = bool(item.get("iscrowd")) or bool(item.get("ignore"))
    entry.rows.append(Row(names[category], box, path, None, ignored))


def _box(item: dict[str, Any]) -> Box | None:
    """The corners of ``bbox``; where there is none, of the outline."""
    values = item.get("bbox")
    if isinstance(values, list) and len(values) == 4 and all(_is_number(value) for value in values):
        x, y, width, height = (float(value) for value in values)
        return x, y, x + width, y + height
    outline = item.get("segmentation")
    if values or not isinstance(outline, list):
        return None
    points = [value for part in outline if isinstance(part, list) for value in part]
    if len(points) < 6 or len(points) % 2 or not all(_is_number(value) for value in points):
        return None
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST_PIXELS


def _key(value: Any) -> str | None:
    """An id as a text: some tools write numbers as such."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _short(value: Any) -> str:
    """The start of a value; one that holds others is not gone through."""
    return printable(repr(value)[:60]) if isinstance(value, (int, float, str)) else type(value).__name__
