"""The classes of a data set: their names and their numbers."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tinyssd.data.draft import Draft, Problems, Row
from tinyssd.data.text import read_text
from tinyssd.data.tree import Tree
from tinyssd.errors import DataError
from tinyssd.text import printable

# Where tools keep the names of classes, one a line.
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "classes.names", "labels.txt")


def read_class_file(path: Path) -> list[str]:
    """The names in a text file, one a line.

    Raises:
        DataError: If there is none in it, or one twice.
    """
    names = [printable(line) for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: no class name in it")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: the class name {twice[0]} stands in it twice")
    return names


def name_classes(draft: Draft, tree: Tree, chosen: Sequence[str], problems: Problems) -> tuple[str, ...]:
    """Decides the classes, and gives each row the number of its own.

    Args:
        draft: Its rows get numbers; one that is not among the classes gets a number beyond them.
        tree: May hold a file with names.
        chosen: The names that the user gave; empty where none.
        problems: What was noticed.
    """
    rows = list(draft.rows())
    numbered = bool(rows) and all(isinstance(row.label, int) for row in rows)
    if chosen:
        draft.names, draft.names_from = dict(enumerate(chosen)), None
    elif not draft.names:
        file = next(
            (name for name in sorted(tree.files, key=_depth) if posixpath.basename(name).lower() in NAME_FILES), None
        )
        if file is not None:
            draft.names_from = tree.path(file)
            draft.names = dict(enumerate(read_class_file(draft.names_from)))
    if numbered or not rows:
        return _by_number(rows, draft)
    return _by_name(rows, draft, bool(chosen), problems)


def _by_number(rows: Sequence[Row], draft: Draft) -> tuple[str, ...]:
    present = sorted({int(row.label) for row in rows})
    if not draft.names:
        numbers = present
        only = _only_class(draft) if len(numbers) == 1 else ""
        names = [only] if only else [f"class {number}" for number in numbers]
        if not only:
            draft.notes.append("nothing names the classes; --classes gives them names")
    else:
        numbers = sorted(draft.names)
        names = [draft.names[number] for number in numbers]
        if 0 in draft.names and 0 not in present and present and present[-1] == len(numbers):
            draft.notes.append("classes are counted from 1")
            numbers = [number + 1 for number in numbers]
    place = {number: index for index, number in enumerate(numbers)}
    for row in rows:
        number = int(row.label)
        row.label = place.get(number, max(number, len(names)))
    return tuple(names)


def _by_name(rows: Sequence[Row], draft: Draft, chosen: bool, problems: Problems) -> tuple[str, ...]:
    names = list(draft.names.values())
    for row in rows:
        row.label = printable(str(row.label))
    others = sorted({str(row.label) for row in rows} - set(names))
    if chosen and others:
        draft.notes.append(f"not among --classes, so their boxes are left out: {', '.join(others)}")
    elif others:
        if names:
            problems.add("unlisted class", "warning", f"not listed as classes: {', '.join(others)}", draft.names_from)
        names += others
    _say_alike(names, draft.root, problems)
    place = {name: index for index, name in enumerate(names)}
    for entry in draft.entries:
        entry.rows = [row for row in entry.rows if row.label in place]
        for row in entry.rows:
            row.label = place[str(row.label)]
    return tuple(names)


def _say_alike(names: Sequence[str], root: Path, problems: Problems) -> None:
    """Names that differ by case alone are most often one class."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            problems.add("names alike", "warning", f"the classes {other} and {name} differ by case alone", root)


def _only_class(draft: Draft) -> str:
    """The name of the only class: that of ``pikachu_train``, as d2l's sets have it."""
    folders = {row.file.relative_to(draft.root).parts[0] for row in draft.rows()}
    names = {folder[: -len("_train")] for folder in folders if folder.endswith("_train")}
    return names.pop() if len(names) == 1 else ""


def _depth(name: str) -> tuple[int, str]:
    return name.count("/"), name
