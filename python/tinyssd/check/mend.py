"""A data set without what a check can put right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinyssd.check.boxes import before_turn, clipped, doubles, has_area
from tinyssd.check.classes import alike, class_counts
from tinyssd.check.pictures import find_twins
from tinyssd.check.snapshot import Snapshot
from tinyssd.check.turn import turn_box
from tinyssd.data.labels import DataSet, Object, Picture


@dataclass(frozen=True)
class Mended:
    """What became of a data set.

    Attributes:
        data: The data set.
        changes: How often each change was made.
    """

    data: DataSet
    changes: Counter[str]


def mend(snapshot: Snapshot) -> Mended:
    """Puts right what has one right way, and leaves out what cannot be used.

    Boxes are turned upright, their corners put in order, and clipped; those without area or class and those that
    repeat another are left out. Names that differ in the way they are written become the one used most; classes without
    objects go. Pictures that cannot be decoded are left out, as are those that are the same as one of a later split:
    training pictures give way to validation ones, and those to test ones.
    """
    changes: Counter[str] = Counter()
    leaking = {twins.first.path for twins in find_twins(snapshot) if twins.same}
    names, new_ids = _merged_names(snapshot, changes)
    splits = {}
    for split, pictures in snapshot.data.splits.items():
        kept = []
        for picture in pictures:
            if snapshot.pixels[picture.path].error:
                changes["unreadable picture left out"] += 1
            elif picture.path in leaking:
                changes["picture that is in a later split too left out"] += 1
            else:
                kept.append(replace(picture, objects=_mended_objects(picture, new_ids, changes)))
        splits[split] = tuple(kept)
    used = sorted({item.class_id for pictures in splits.values() for picture in pictures for item in picture.objects})
    changes["class without objects left out"] += len(names) - len(used)
    final = {class_id: i for i, class_id in enumerate(used)}
    data = replace(
        snapshot.data,
        class_names=tuple(names[i] for i in used),
        splits={split: tuple(_renumbered(picture, final) for picture in found) for split, found in splits.items()},
        notes=(),
        problems=(),
    )
    return Mended(data, +changes)


def _merged_names(snapshot: Snapshot, changes: Counter[str]) -> tuple[list[str], dict[int, int]]:
    """The names that stay, and for each class the place of its name among them."""
    names, counts = snapshot.data.class_names, class_counts(snapshot)
    kept, new_ids = [], {}
    for group in alike(names):
        kept.append(names[max(group, key=lambda i: counts[i])])
        new_ids |= {i: len(kept) - 1 for i in group}
        changes["class name written in another way merged"] += len(group) - 1
    return kept, new_ids


def _mended_objects(picture: Picture, new_ids: dict[int, int], changes: Counter[str]) -> tuple[Object, ...]:
    if before_turn(picture):
        changes["picture whose boxes were turned upright"] += 1
        turned = tuple(replace(item, box=turn_box(item.box, picture.size, picture.turned)) for item in picture.objects)
        picture = replace(picture, objects=turned)
    kept = []
    for item in picture.objects:
        if item.class_id not in new_ids:
            changes["box of a class without name left out"] += 1
            continue
        x1, y1, x2, y2 = item.box
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        changes["box whose corners were put in order"] += box != item.box
        inside = clipped(box, picture.size)
        if not has_area(inside):
            changes["box without area inside its picture left out"] += 1
            continue
        changes["box clipped to its picture"] += inside != box
        kept.append(replace(item, box=inside, class_id=new_ids[item.class_id]))
    return _without_doubles(replace(picture, objects=tuple(kept)), changes)


def _without_doubles(picture: Picture, changes: Counter[str]) -> tuple[Object, ...]:
    """The objects without those of one class that repeat another; which of two classes is right, nobody can tell."""
    repeated = [item for item, earlier in doubles(picture) if item.class_id == earlier.class_id]
    changes["doubled box left out"] += len(repeated)
    gone = {id(item) for item in repeated}
    return tuple(item for item in picture.objects if id(item) not in gone)


def _renumbered(picture: Picture, ids: dict[int, int]) -> Picture:
    objects: Sequence[Object] = picture.objects
    return replace(picture, objects=tuple(replace(item, class_id=ids[item.class_id]) for item in objects))
