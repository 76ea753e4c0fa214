"""Splits that stand in files of their own, or that the user names."""

from __future__ import annotations

import contextlib
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from tinyssd.data.csv import Table, lines_of, table_of
from tinyssd.data.draft import Draft, Entry, Problems
from tinyssd.data.splits import split_of
from tinyssd.data.text import read_text
from tinyssd.data.tree import Tree
from tinyssd.errors import DataError
from tinyssd.text import plural


def apply_lists(draft: Draft, tree: Tree, problems: Problems) -> None:
    """Gives pictures without a split that of the list that names them.

    A list is a text file called as a split (``ImageSets/Main/train.txt``), a name of a picture a line; or a table with
    a column for the picture that is called as a split, or has a column for it. Of several folders with lists that one
    counts which names most of the pictures.
    """
    known = _Known(draft.entries)
    found: dict[str, dict[int, str]] = defaultdict(dict)  # by folder: the split of each picture
    unknown: Counter[str] = Counter()
    for name in split_lists(tree):
        folder = posixpath.dirname(name)
        for written, split in _lines(tree, name, problems):
            place = known.find(written)
            if place is None:
                unknown[folder] += 1
            elif split != "trainval":  # It repeats the other two; where they are not, the pictures are for training.
                found[folder][place] = split
            else:
                found[folder].setdefault(place, "train")
    if not found:
        return
    folder = max(found, key=lambda name: (len(found[name]), posixpath.basename(name) == "Main"))
    draft.notes.append(f"the splits are those of the lists in {folder or draft.root.name}/")
    if unknown[folder]:
        message = f"{plural(unknown[folder], 'picture')} of the lists without labels or not there"
        problems.add("no picture", "error", message, tree.path(folder))
    for place, split in found[folder].items():
        draft.entries[place].split = split


def split_lists(tree: Tree) -> list[str]:
    """The files that may be such lists."""
    texts = [name for name in tree.with_suffix(".txt") if _is_called(name)]
    tables = []
    for name in tree.with_suffix(".csv"):
        table = table_of(tree, name)
        if table is not None and "picture" in table.columns and ("split" in table.columns or _is_called(name)):
            tables.append(name)
    return texts + tables


def apply_choice(draft: Draft, tree: Tree, train: str, val: str) -> None:
    """Makes the pictures of what the user names those of a split.

    Args:
        draft: Its pictures.
        tree: The folder.
        train: A folder, label file or list of pictures in the folder, or a split's name ("trainval": both); or empty.
        val: The same, for validation.

    Raises:
        DataError: If there is no such thing, or no labelled picture in it.
    """
    chosen = {"train": _chosen(draft, tree, train), "val": _chosen(draft, tree, val)}
    for split, places in chosen.items():
        if not places:
            continue
        for place, entry in enumerate(draft.entries):
            if place in places:
                entry.split = split
            elif entry.split == split:
                entry.split = None
    _leave_rest(draft, named="val" if val else "", rest="train")
    _leave_rest(draft, named="train" if train else "", rest="val")


def _leave_rest(draft: Draft, named: str, rest: str) -> None:
    """Where the user names one of the two splits and nothing is of the other, what has no split is."""
    if named and all(entry.split != rest for entry in draft.entries):
        for entry in draft.entries:
            entry.split = entry.split or rest


def _chosen(draft: Draft, tree: Tree, what: str) -> set[int]:
    if not what:
        return set()
    name = _inside(tree, what)
    if name is None:
        split = split_of(what)
        named = {"trainval", "train", "val"} if split == "trainval" else {split}
        places = {
            place for place, entry in enumerate(draft.entries) if entry.split is not None and entry.split in named
        }
    else:
        path = tree.path(name)
        places = {
            place
            for place, entry in enumerate(draft.entries)
            if entry.picture.startswith(f"{name}/")
            or (entry.file is not None and (entry.file == path or path in entry.file.parents))
        }
        if not places and name in tree.files:
            known = _Known(draft.entries)
            found = (known.find(line) for line in read_text(path).splitlines())
            places = {place for place in found if place is not None}
    if not places:
        splits = ", ".join(sorted({entry.split for entry in draft.entries if entry.split})) or "none"
        raise DataError(f"{draft.root}: no labelled picture is in {what!r}; splits found by looking: {splits}")
    return places


def _inside(tree: Tree, what: str) -> str | None:
    """A file or folder of the tree, named relative to it or to the working folder."""
    plain = posixpath.normpath(what.replace("\\", "/"))
    options = [plain]
    with contextlib.suppress(ValueError):  # It may lie elsewhere.
        options.append(Path(what).resolve().relative_to(tree.root.resolve()).as_posix())
    return next(
        (name for name in options if name in tree.files or any(file.startswith(f"{name}/") for file in tree.files)),
        None,
    )


class _Known:
    """The pictures of a draft by what a list may call them."""

    def __init__(self, entries: list[Entry]) -> None:
        self._places: dict[str, set[int]] = defaultdict(set)
        for place, entry in enumerate(entries):
            base = posixpath.basename(entry.picture).casefold()
            for name in {entry.picture.casefold(), base, posixpath.splitext(base)[0]}:
                self._places[name].add(place)

    def find(self, written: str) -> int | None:
        """The place of the picture that a line means; None where none or several fit."""
        plain = written.strip().replace("\\", "/").casefold()
        for name in (plain, posixpath.basename(plain), posixpath.splitext(posixpath.basename(plain))[0]):
            places = self._places.get(name, set())
            if len(places) == 1:
                return next(iter(places))
        return None


def _is_called(name: str) -> bool:
    """Whether a file is called as a split; ``aeroplane_train.txt`` is VOC's list of one class."""
    stem = posixpath.splitext(posixpath.basename(name))[0]
    return split_of(stem) is not None and stem.isalnum()


def _lines(tree: Tree, name: str, problems: Problems) -> Iterator[tuple[str, str]]:
    """What each line of a list calls a picture, and its split."""
    split = split_of(posixpath.splitext(posixpath.basename(name))[0]) or ""
    if name.endswith(".txt"):
        for line in read_text(tree.path(name)).splitlines():
            if line.strip():
                yield _without_flag(line.strip()), split
        return
    table = table_of(tree, name)
    assert isinstance(table, Table)
    place, split_place = table.columns["picture"], table.columns.get("split")
    for _, fields in lines_of(tree, name, table, problems):
        if len(fields) > max(place, split_place or 0):
            here = split if split_place is None else split_of(fields[split_place])
            if here:
                yield fields[place], here


def _without_flag(line: str) -> str:
    """VOC's lists of a class have 1, 0 or -1 behind the name."""
    head, _, flag = line.rpartition(" ")
    return head.strip() if flag in ("1", "0", "-1") and head.strip() else line
