"""Checks of classes: each takes a snapshot and yields what it found."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from tinyssd.check.snapshot import Snapshot
from tinyssd.data.labels import Problem, Severity
from tinyssd.text import plural

# With fewer examples of a class a small network learns them by heart.
_FEW = 20
# The largest class over the smallest from which on the small one hardly counts.
_UNEVEN = 20
# Pictures are full of a class where half of them have so many of it; a picture with this many times fewer is thin.
_FULL = 4


def unknown_classes(snapshot: Snapshot) -> Iterator[Problem]:
    """Objects whose class has no name."""
    last = len(snapshot.data.class_names) - 1
    for _, picture, item in snapshot.objects():
        if not snapshot.names_class(item):
            hint = "; are the classes counted from 1?" if item.class_id == last + 1 and _from_one(snapshot) else ""
            message = f"class {item.class_id} in {picture.path.name} has no name; the last class is {last}{hint}"
            yield Problem("class without name", "error", message, item.file, item.line)


def names_alike(snapshot: Snapshot) -> Iterator[Problem]:
    """Names of classes that differ only in case, spaces, dashes or the way their letters are written."""
    names = snapshot.data.class_names
    counts = class_counts(snapshot)
    for group in alike(names):
        if len(group) > 1:
            listed = " and ".join(f"{names[i]!r} ({plural(counts[i], 'object')})" for i in group)
            message = f"the classes {listed} differ only in the way they are written"
            yield Problem("class names alike", "warning", message)


def phantom_classes(snapshot: Snapshot) -> Iterator[Problem]:
    """Classes that have a name and no object."""
    counts = class_counts(snapshot)
    empty = [name for i, name in enumerate(snapshot.data.class_names) if not counts[i]]
    for name in empty:
        message = f"the class {name!r} has no object; a network keeps scores for it all the same"
        yield Problem("class without objects", "warning", message)


def missing_from_split(snapshot: Snapshot) -> Iterator[Problem]:
    """Classes that some splits have and others lack."""
    per_split = {split: class_counts(snapshot, split) for split, found in snapshot.data.splits.items() if found}
    for i, name in enumerate(snapshot.data.class_names):
        having = [split for split, counts in per_split.items() if counts[i]]
        for split in per_split if having else ():
            if not per_split[split][i]:
                found = " and ".join(f"{per_split[other][i]} in {other}" for other in having)
                what = f"the class {name!r} has no object in {split}, but {found}"
                effect = "it cannot be learnt" if split == "train" else "nothing there measures it"
                severity: Severity = "error" if split == "train" else "warning"
                yield Problem("class missing from a split", severity, f"{what}; {effect}")


def class_balance(snapshot: Snapshot) -> Iterator[Problem]:
    """Classes with few objects to learn from, and how much they differ."""
    names, counts = snapshot.data.class_names, class_counts(snapshot, "train")
    present = sorted((counts[i], i) for i in range(len(names)) if counts[i])
    for count, i in present:
        if count < _FEW:
            message = f"the class {names[i]!r} has {plural(count, 'object')} to train on; {_FEW} are few already"
            yield Problem("class with few objects", "warning", message)
    if len(present) > 1:
        (least, rare), (most, common) = present[0], present[-1]
        message = (
            f"the largest class to train on, {names[common]!r}, has {plural(most, 'object')}, the smallest, "
            f"{names[rare]!r}, has {least}: {most / least:.1f} to 1"
        )
        yield Problem("class balance", "warning" if most >= _UNEVEN * least else "note", message)


def thinly_labelled(snapshot: Snapshot) -> Iterator[Problem]:
    """Pictures with few objects of a class that nearly all others are full of: some may lack a box."""
    pictures = [picture for _, picture in snapshot.pictures() if picture.objects]
    per_picture = [Counter(item.class_id for item in picture.objects) for picture in pictures]
    for i, name in enumerate(snapshot.data.class_names):
        usual = median(counts[i] for counts in per_picture) if pictures else 0
        for picture, counts in zip(pictures, per_picture, strict=True):
            if usual >= _FULL and counts[i] <= usual / _FULL:
                message = (
                    f"{picture.path.name} has {plural(counts[i], 'object')} of the class {name!r}, half of the "
                    f"pictures have {usual:g} or more; has each one a box?"
                )
                yield Problem("picture with few boxes", "warning", message, picture.file or picture.path, picture.line)


def class_counts(snapshot: Snapshot, split: str | None = None) -> Counter[int]:
    """The objects of each class, in one split or in all; ignored ones are left out."""
    return Counter(
        item.class_id for where, _, item in snapshot.objects() if split in (None, where) and not item.ignored
    )


def alike(names: Sequence[str]) -> list[list[int]]:
    """The classes, those together whose names differ only in the way they are written."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups["".join(letter for letter in plain if not letter.isspace() and letter not in "-_") or name].append(i)
    return list(groups.values())


def _from_one(snapshot: Snapshot) -> bool:
    return all(item.class_id > 0 for _, _, item in snapshot.objects())
