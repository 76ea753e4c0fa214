"""From a folder, whatever it holds, to the snapshot of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tinyssd.data.boxes import in_pixels
from tinyssd.data.coco import find_coco, read_coco
from tinyssd.data.config import FORMATS, Choice
from tinyssd.data.csv import EXPECTED, find_csv, read_csv
from tinyssd.data.draft import MOST_OBJECTS, Draft, Entry, Problems
from tinyssd.data.foreign import ARCHIVES, foreign_labels
from tinyssd.data.images import Header, read_header
from tinyssd.data.labels import DataSet, Object, Picture
from tinyssd.data.lists import apply_choice, apply_lists, split_lists
from tinyssd.data.names import name_classes
from tinyssd.data.progress import watched
from tinyssd.data.splits import divide, split_of
from tinyssd.data.tree import Tree, suffix
from tinyssd.data.voc import find_voc, read_voc
from tinyssd.data.yolo import find_yolo, read_yolo
from tinyssd.errors import DataError
from tinyssd.text import plural, printable

TITLES = {"voc": "Pascal VOC", "coco": "COCO", "yolo": "YOLO", "csv": "CSV"}

_FIND: Mapping[str, Callable[[Tree], list[str]]] = {
    "voc": find_voc,
    "coco": find_coco,
    "yolo": find_yolo,
    "csv": find_csv,
}
_READ: Mapping[str, Callable[[Tree, Sequence[str], Problems], Draft]] = {
    "voc": read_voc,
    "coco": read_coco,
    "yolo": read_yolo,
    "csv": read_csv,
}


def read_data_set(path: Path, choice: Choice | None = None) -> DataSet:
    """Reads a data set of any format that is known, and decides what is not said.

    Nothing is changed and nothing skipped in silence: boxes are as the labels have them, and what could not be read is
    among the problems. :func:`tinyssd.data.clean.clean` makes of it what can be trained on.

    Args:
        path: A folder; or a label file, which stands for the folder that it is in and is the only one read.
        choice: What the user decides; None leaves all to looking.

    Returns:
        The snapshot. It has the splits "train" and "val".

    Raises:
        DataError: If there is no such folder, nothing in it is known, or no picture can be read.
    """
    choice = choice or Choice()
    if path.is_file() and suffix(path.name) in ARCHIVES:
        raise DataError(f"{path}: an archive; unpack it and name the folder")
    tree = Tree(path.parent if path.is_file() else path)
    only = path.name if path.is_file() else None
    found = {name: find(tree) for name, find in _FIND.items()}
    if only is not None:
        found = {name: [only] for name, files in found.items() if only in files or choice.format == name}
    kind = choice.format or _recognised(tree, {name: files for name, files in found.items() if files}, only)
    problems = Problems()
    files = found.get(kind, [])
    draft = _READ[kind](tree, files, problems)
    if not draft.entries:
        raise DataError(f"{path}: no labelled picture in it{_first(problems)}" if files else _nothing_found(tree))
    crowded = _crowded(draft, tree, problems)
    left_out = sorted(set(tree.pictures) - {entry.picture for entry in draft.entries})
    if left_out:
        are = plural(len(left_out), "picture is", "pictures are")
        draft.notes.append(f"{are} not used, as no label file or list names them (first: {printable(left_out[0])})")
    others = [TITLES[name] for name, files in found.items() if files and name != kind]
    if others and not choice.format:
        draft.notes.append(f"read as {TITLES[kind]}, though there is {' and '.join(others)} too (--format)")
    if all(entry.split is None for entry in draft.entries):
        apply_lists(draft, tree, problems)
    apply_choice(draft, tree, choice.train, choice.val)
    names = name_classes(draft, tree, choice.classes, problems)
    headers = _headers(draft, tree, problems)
    had_training = any(split_of(name) == "train" for name in files) or any(e.split == "train" for e in draft.entries)
    draft.entries = [entry for entry in draft.entries if entry.picture in headers and entry.picture not in crowded]
    if not draft.entries or (had_training and all(entry.split != "train" for entry in draft.entries)):
        raise DataError(f"{path}: no training picture is there or can be read{_first(problems)}")
    objects = in_pixels(draft, headers, problems)
    try:
        divided = divide(draft)
    except DataError as error:
        raise DataError(f"{error}{_first(problems)}") from error
    splits = {name: tuple(_picture(entry, tree, headers, objects) for entry in of) for name, of in divided.items()}
    return DataSet(kind, tree.root, names, splits, tuple(draft.notes), problems.all())


def _first(problems: Problems) -> str:
    """The first problem that may be the reason of an error, as the end of its sentence."""
    return next((f"; {problem}" for problem in problems.all() if problem.severity == "error"), "")


def _recognised(tree: Tree, found: dict[str, list[str]], only: str | None) -> str:
    """The format, by what there is: the one that says which pictures are for training, in the order of FORMATS."""
    if not found:
        raise DataError(_nothing_found(tree, only))
    if len(found) == 1:
        return next(iter(found))
    lists = any(split_of(name) in ("train", "trainval") for name in split_lists(tree))
    described = any(suffix(name) in (".yaml", ".yml") for name in found.get("yolo", []))

    def rank(kind: str) -> tuple[bool, bool, int]:
        has_split = any(split_of(name) in ("train", "trainval") for name in found[kind])
        return kind == "yolo" and described, has_split or (lists and kind in ("voc", "yolo")), -FORMATS.index(kind)

    return max(found, key=rank)


def _nothing_found(tree: Tree, only: str | None = None) -> str:
    counts = Counter(suffix(name) or "without suffix" for name in tree.files)
    there = ", ".join(f"{count} {name}" for name, count in counts.most_common(5)) or "nothing"
    what = f"{tree.path(only)}: no label file" if only is not None else f"{tree.root}: no labels"
    tables = [name for name in tree.with_suffix(".csv", ".tsv") if only in (None, name)]
    header = f"; {tables[0]} has no {EXPECTED}" if tables else ""
    hint = header or foreign_labels(tree, only)
    return f"{what} of a known format (VOC's XML, COCO's JSON, YOLO's text files, or a table), but {there}{hint}"


def _crowded(draft: Draft, tree: Tree, problems: Problems) -> set[str]:
    """The pictures with more objects than one may have."""
    found = set()
    for entry in draft.entries:
        if entry.crowded:
            message = f"left out: {printable(entry.picture)} has more than {MOST_OBJECTS:,} objects"
            problems.add("too many objects", "error", message, entry.file or tree.path(entry.picture), entry.line)
            found.add(entry.picture)
    return found


def _headers(draft: Draft, tree: Tree, problems: Problems) -> dict[str, Header]:
    """The header of each picture that can be read."""
    first = {entry.picture: entry for entry in reversed(draft.entries)}
    headers = {}
    for name in watched(sorted(first), "looking at pictures", "pictures"):
        try:
            headers[name] = read_header(tree.path(name))
        except DataError as error:
            message = str(error).removeprefix(f"{tree.path(name)}: ")
            problems.add("unreadable picture", "error", message, tree.path(name))
    return headers


def _picture(
    entry: Entry, tree: Tree, headers: Mapping[str, Header], objects: Mapping[int, tuple[Object, ...]]
) -> Picture:
    header = headers[entry.picture]
    path = tree.path(entry.picture)
    return Picture(path, header.size, objects[id(entry)], header.turned, entry.file, entry.line)
