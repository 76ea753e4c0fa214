"""What was found and decided, in three lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tinyssd.data.labels import DataSet, Picture, Problem
from tinyssd.data.read import TITLES
from tinyssd.text import plural

_MOST_CLASSES = 20
# What was done about each kind of problem.
_DONE = {
    "clipped": "boxes clipped",
    "no area": "boxes without area dropped",
    "outside": "boxes outside their picture dropped",
    "corners swapped": "boxes with swapped corners put right",
    "doubled": "doubled boxes dropped",
    "no class": "boxes of a class without name dropped",
    "EXIF turn": "pictures labelled before their EXIF turn",
    "bad line": "labels skipped",
    "bad category": "oddities in the list of classes",
    "no picture": "labels without a picture skipped",
    "unreadable picture": "unreadable pictures skipped",
    "unreadable file": "unreadable label files skipped",
    "other name": "pictures found under another name",
    "other size": "pictures of another size than labelled",
    "unlisted class": "classes that no list names",
    "names alike": "class names that differ by case alone",
    "in two splits": "pictures in both splits",
}


def summary(data_set: DataSet) -> list[str]:
    """Format and splits; classes; and what was clipped, dropped and skipped.

    Args:
        data_set: As :func:`tinyssd.data.clean.clean` returns it.
    """
    splits = "; ".join(_split_text(name, data_set.splits[name]) for name in _in_order(data_set.splits))
    notes = "".join(f"; {note}" for note in data_set.notes)
    return [
        f"data: {TITLES[data_set.format]}, {splits}{notes}",
        f"classes: {_classes_text(data_set)}",
        f"labels: {_problems_text(data_set.problems)}",
    ]


def counted(problems: Iterable[Problem]) -> dict[str, tuple[int, Problem]]:
    """For each kind of problem how many there are, and the first."""
    found: dict[str, tuple[int, Problem]] = {}
    for problem in problems:
        count, first = found.get(problem.kind, (0, problem))
        found[problem.kind] = (count + problem.count, first)
    return found


def _in_order(splits: Iterable[str]) -> list[str]:
    return sorted(set(splits) & {"train", "val", "test"}, key=("train", "val", "test").index)


def _split_text(name: str, pictures: tuple[Picture, ...]) -> str:
    objects = [item for picture in pictures for item in picture.objects]
    ignored = sum(item.ignored for item in objects)
    empty = sum(not picture.objects for picture in pictures)
    parts = [plural(len(objects) - ignored, "object")]
    if ignored:
        parts.append(f"{ignored} ignored")
    if empty:
        parts.append(f"{empty} without objects")
    unused = ", not used here" if name == "test" else ""
    return f"{name} {plural(len(pictures), 'picture')} ({', '.join(parts)}{unused})"


def _classes_text(data_set: DataSet) -> str:
    train, val = (_counts(data_set, split) for split in ("train", "val"))
    shown = []
    for index, name in enumerate(data_set.class_names[:_MOST_CLASSES]):
        total = train[index] + val[index]
        lacking = "train" if total and not train[index] else "validate" if total and not val[index] else ""
        shown.append(f"{name} {total}" + (f" (none to {lacking} on)" if lacking else ""))
    more = len(data_set.class_names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _counts(data_set: DataSet, split: str) -> Counter[int]:
    """How many objects of each class are not to be ignored."""
    return Counter(item.class_id for picture in data_set.splits[split] for item in picture.objects if not item.ignored)


def _problems_text(problems: Iterable[Problem]) -> str:
    parts = [f"{_DONE[kind]}: {count} (first: {first})" for kind, (count, first) in counted(problems).items()]
    return "; ".join(parts) or "nothing clipped, dropped or skipped"
