"""Pascal VOC: an XML file a picture.

The corners are taken as they stand. A picture is found by the name of its XML file, else by ``<filename>``; what
``<path>`` and ``<folder>`` say is of another machine. ``difficult`` objects are ignored ones; where there is no
``<bndbox>``, a ``<polygon>``'s outline is the box.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from tinyssd.data.draft import Box, Draft, Problems, Row
from tinyssd.data.progress import watched
from tinyssd.data.splits import split_of
from tinyssd.data.text import read_start, read_text
from tinyssd.data.tree import Tree
from tinyssd.errors import DataError
from tinyssd.text import printable

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MOST_BYTES = 1 << 24
_MOST_DEPTH = 64
_MOST_PIXELS = 1e9


def find_voc(tree: Tree) -> list[str]:
    """The XML files with an ``<annotation>``; by the look of the first ones, for there may be many."""
    names = tree.with_suffix(".xml")
    seen = [name for name in names[:20] if re.search(r"<annotation[\s>]", read_start(tree.path(name)))]
    return names if seen else []


def read_voc(tree: Tree, files: Sequence[str], problems: Problems) -> Draft:
    """The pictures and boxes of all annotations."""
    draft = Draft(tree.root)
    for name in watched(files, "reading annotations", "files"):
        path = tree.path(name)
        try:
            root = _parse(path)
        except DataError as error:
            problems.add("unreadable file", "error", str(error).removeprefix(f"{path}: "), path)
            continue
        if root.tag != "annotation":
            continue
        split = split_of(posixpath.dirname(name))
        picture = _picture(tree, name, root, split, problems)
        if picture is None:
            continue
        entry = draft.entry(picture, split, path, 1)
        entry.size = _size(root)
        entry.rows += [row for row in (_row(item, path, problems) for item in root.findall("object")) if row]
    return draft


class _Parser(DefusedXMLParser):
    """Remembers the line of each element, and refuses nesting without end."""

    depth = 0

    def _start(self, tag: str, attributes: Any) -> Any:
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            raise ParseError(f"nested deeper than {_MOST_DEPTH} elements")
        element = super()._start(tag, attributes)  # type: ignore[misc]  # Of Python's own parser, not in its stubs.
        element.line = self.parser.CurrentLineNumber
        return element

    def _end(self, tag: str) -> Any:
        self.depth -= 1
        return super()._end(tag)  # type: ignore[misc]


def _parse(path: Path) -> Element:
    try:
        parser = _Parser()
        parser.feed(read_text(path, _MOST_BYTES).removeprefix("\ufeff"))
        return parser.close()
    except DefusedXmlException as error:
        raise DataError(f"{path}: declares XML entities ({type(error).__name__}), which no annotation needs") from error
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not XML ({error})") from error


def _picture(tree: Tree, name: str, root: Element, split: str | None, problems: Problems) -> str | None:
    """The picture of the same name as the annotation, else the one that it names."""
    stem = posixpath.splitext(posixpath.basename(name))[0]
    written = (root.findtext("filename") or "").strip()
    if tree.by_stem(stem):
        found = tree.find(stem, posixpath.dirname(name), split)
        if found is None and written:
            found = tree.find(written, posixpath.dirname(name), split)
        if found is not None:
            return found
    return tree.look_up(
        written or stem, posixpath.dirname(name), split, problems, tree.path(name), _line(root.find("filename"))
    )


def _row(item: Element, path: Path, problems: Problems) -> Row | None:
    line = _line(item)
    name = (item.findtext("name") or "").strip()
    if not name:
        problems.add("bad line", "error", "an object without a name", path, line)
        return None
    try:
        box = _box(item)
    except ValueError as error:
        problems.add("bad line", "error", f"the box of {printable(name)}: {error}", path, line)
        return None
    ignored = (item.findtext("difficult") or "").strip().lower() in ("1", "true")
    return Row(name, box, path, line, ignored)


def _box(item: Element) -> Box:
    corners = item.find("bndbox")
    if corners is not None:
        x1, y1, x2, y2 = (_number(corners.findtext(name), name) for name in _CORNERS)
        return x1, y1, x2, y2
    polygon = item.find("polygon")
    if polygon is None:
        raise ValueError("it has neither <bndbox> nor <polygon>")
    xs, ys = ([_number(value.text, axis) for value in polygon.iter() if _axis(value.tag) == axis] for axis in "xy")
    if len(xs) < 2 or len(ys) < 2:
        raise ValueError("its <polygon> has too few points")
    return min(xs), min(ys), max(xs), max(ys)


def _axis(tag: str) -> str:
    """ "x" of ``<x>``, ``<x1>``, ``<x2>``, ...; empty for others."""
    return tag[0] if tag[:1] in ("x", "y") and (len(tag) == 1 or tag[1:].isdigit()) else ""


def _number(text: str | None, name: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not abs(number) <= _MOST_PIXELS:
        raise ValueError(f"{name} must be a number, got {(text or '')[:40]!r}")
    return number


def _size(root: Element) -> tuple[float, float] | None:
    try:
        width, height = (_number(root.findtext(f"size/{name}"), name) for name in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _line(element: Element | None) -> int | None:
    return getattr(element, "line", None)
