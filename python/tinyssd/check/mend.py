"""A data set without what a check can put right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tinyssd.check.boxes import doubles
from tinyssd.check.classes import alike, class_counts
from tinyssd.check.pictures import find_twins
from tinyssd.check.snapshot import Snapshot
from tinyssd.data.clean import clean
from tinyssd.data.labels import DataSet, Picture


@dataclass(frozen=True)
class Mended:
    """What became of a data set.

    Attributes:
        data: The data set.
        changes: How often each kind of change was made.
    """

    data: DataSet
    changes: Counter[str]


def mend(snapshot: Snapshot) -> Mended:
    """Puts right what has one right way, and leaves out what cannot be used.

    Boxes become what :func:`tinyssd.data.clean.clean` makes of them, and of two that are one object one is kept. Names
    that differ in the way they are written become the one used most; classes without objects go. Pictures that cannot
    be decoded are left out, as are those that are the same as one of a later split: training pictures give way to
    validation ones, and those to test ones.
    """
    changes: Counter[str] = Counter()
    data = _with_usable_pictures(snapshot, changes)
    cleaned = clean(replace(data, notes=(), problems=()))
    for problem in cleaned.problems:
        changes[problem.kind] += problem.count
    # Before names are merged, two boxes of one object may have two classes.
    merged = _with_merged_names(cleaned, snapshot, changes)
    single = _map_pictures(merged, lambda picture: _without_doubles(picture, changes))
    used = _without_empty_classes(single, changes)
    return Mended(replace(used, problems=()), +changes)


def _with_usable_pictures(snapshot: Snapshot, changes: Counter[str]) -> DataSet:
    data = snapshot.data
    total = sum(map(len, data.splits.values()))
    data = _only(data, lambda picture: not snapshot.pixels[picture.path].error)
    readable = sum(map(len, data.splits.values()))
    # A picture may have several like it, of which one is found at a time.
    while leaking := {twins.first.path for twins in find_twins(replace(snapshot, data=data)) if twins.same}:
        data = _without(data, leaking)
    changes["unreadable picture"] += total - readable
    changes["picture of a later split"] += readable - sum(map(len, data.splits.values()))
    return data


def _without_doubles(picture: Picture, changes: Counter[str]) -> Picture:
    """Without objects that repeat one of their class; which of two classes is the right one, nobody can tell."""
    repeated = {id(item) for item, earlier in doubles(picture) if item.class_id == earlier.class_id}
    changes["doubled"] += len(repeated)
    return replace(picture, objects=tuple(item for item in picture.objects if id(item) not in repeated))


def _with_merged_names(data: DataSet, snapshot: Snapshot, changes: Counter[str]) -> DataSet:
    counts = class_counts(snapshot)
    places: dict[int, int] = {}
    kept: list[str] = []
    for group in alike(data.class_names):
        places |= dict.fromkeys(group, len(kept))
        kept.append(data.class_names[max(group, key=lambda i: counts[i])])
        changes["names alike"] += len(group) - 1
    return _renumbered(replace(data, class_names=tuple(kept)), places)


def _without_empty_classes(data: DataSet, changes: Counter[str]) -> DataSet:
    objects = (item for pictures in data.splits.values() for picture in pictures for item in picture.objects)
    used = sorted({item.class_id for item in objects})
    changes["class without objects"] += len(data.class_names) - len(used)
    names = tuple(data.class_names[i] for i in used)
    return _renumbered(replace(data, class_names=names), {class_id: place for place, class_id in enumerate(used)})


def _renumbered(data: DataSet, places: Mapping[int, int]) -> DataSet:
    return _map_pictures(data, lambda picture: _with_classes(picture, places))


def _with_classes(picture: Picture, places: Mapping[int, int]) -> Picture:
    objects = tuple(replace(item, class_id=places[item.class_id]) for item in picture.objects)
    return replace(picture, objects=objects)


def _map_pictures(data: DataSet, change: Callable[[Picture], Picture]) -> DataSet:
    return replace(data, splits={split: tuple(map(change, found)) for split, found in data.splits.items()})


def _without(data: DataSet, paths: Container[Path]) -> DataSet:
    return _only(data, lambda picture: picture.path not in paths)


def _only(data: DataSet, keep: Callable[[Picture], bool]) -> DataSet:
    return replace(data, splits={split: tuple(filter(keep, found)) for split, found in data.splits.items()})
