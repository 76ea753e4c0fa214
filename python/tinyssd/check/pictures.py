"""Checks of pictures: each takes a snapshot and yields what it found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tinyssd.check.boxes import overlap
from tinyssd.check.snapshot import Snapshot
from tinyssd.data.labels import Picture, Problem, Severity

# Between the outlines of two pictures. A picture saved again, smaller or brighter, has 0.97 and more with itself;
# unrelated photographs have 0.35 at most.
_ALIKE = 0.95
# The mean IoU of the boxes from which two pictures that look alike show the same, not only the same place.
_SAME_BOXES = 0.5
_ROWS = 1024
_MOST_BOXES = 1000


@dataclass(frozen=True)
class Twins:
    """Two pictures of different splits that look the same.

    Attributes:
        first: Of the earlier split, as the data set orders them.
        second: Of the later split.
        splits: Their splits.
        exact: All pixels are equal.
        boxes: The mean IoU of their boxes, 0 to 1.
    """

    first: Picture
    second: Picture
    splits: tuple[str, str]
    exact: bool
    boxes: float

    @property
    def same(self) -> bool:
        """Whether they show the same, and not only the same place."""
        return self.exact or self.boxes >= _SAME_BOXES


def unreadable_pictures(snapshot: Snapshot) -> Iterator[Problem]:
    """Pictures that cannot be decoded to their end."""
    for _, picture in snapshot.pictures():
        error = snapshot.pixels[picture.path].error
        if error:
            yield Problem("unreadable picture", "error", error, picture.path)


def same_pictures(snapshot: Snapshot) -> Iterator[Problem]:
    """Pictures that stand in two splits: what is learnt by heart counts as if it were understood."""
    places: dict[tuple[str, str], list[Twins]] = defaultdict(list)
    for twins in find_twins(snapshot):
        a, b = twins.splits
        what = f"({b}) and {snapshot.name(twins.first)} ({a})"
        if twins.exact:
            yield Problem("same picture in two splits", "error", f"this {what} are the same picture", twins.second.path)
        elif twins.same:
            message = f"this {what} are nearly the same picture, with nearly the same boxes"
            yield Problem("nearly the same picture in two splits", "warning", message, twins.second.path)
        else:
            places[twins.splits].append(twins)
    for (a, b), found in places.items():
        share = f"{len(found)} of {len(snapshot.data.splits[b])} pictures of {b}"
        message = (
            f"{share} look like one of {a} with other boxes, as this one and {snapshot.name(found[0].first)}: "
            f"good results on {b} say little about other places"
        )
        yield Problem("same place in two splits", "note", message, found[0].second.path)


def pictures_without_objects(snapshot: Snapshot) -> Iterator[Problem]:
    """How many pictures have no box: background to learn from, or labels that got lost."""
    empty = [picture for _, picture in snapshot.pictures() if not picture.objects]
    if empty:
        total = sum(len(pictures) for pictures in snapshot.data.splits.values())
        message = f"{len(empty)} of {total} pictures have no box, as this one; they train as background"
        severity: Severity = "warning" if 2 * len(empty) > total else "note"
        yield Problem("picture without objects", severity, message, empty[0].path)


def missing_splits(snapshot: Snapshot) -> Iterator[Problem]:
    """Splits without a picture."""
    for split in ("train", "val"):
        if not snapshot.data.splits.get(split):
            yield Problem("missing split", "error", f"no picture for {split}")


def find_twins(snapshot: Snapshot) -> list[Twins]:
    """Each picture that has one like it in an earlier split, with the one most like it."""
    found: list[Twins] = []
    readable = {
        split: [picture for picture in pictures if not snapshot.pixels[picture.path].error]
        for split, pictures in snapshot.data.splits.items()
    }
    for a, b in combinations(readable, 2):
        if readable[a] and readable[b]:
            found += _twins_of(snapshot, (a, b), readable[a], readable[b])
    return found


def _twins_of(
    snapshot: Snapshot, splits: tuple[str, str], first: list[Picture], second: list[Picture]
) -> Iterator[Twins]:
    by_digest = {snapshot.pixels[picture.path].digest: picture for picture in reversed(first)}
    directions = _directions(snapshot, first)
    for start in range(0, len(second), _ROWS):
        rows = second[start : start + _ROWS]
        likeness = _directions(snapshot, rows) @ directions.T
        for picture, alike, best in zip(rows, likeness.max(axis=1), likeness.argmax(axis=1), strict=True):
            exact = by_digest.get(snapshot.pixels[picture.path].digest)
            if exact is not None:
                yield Twins(exact, picture, splits, True, same_boxes(exact, picture))
            elif alike >= _ALIKE:
                yield Twins(first[best], picture, splits, False, same_boxes(first[best], picture))


def same_boxes(a: Picture, b: Picture) -> float:
    """The mean, over the objects of the picture that has more, of the IoU with the other's best box of that class.

    In shares of the pictures, as they may differ in size; 1 for two pictures without objects. Of more than a thousand
    objects the first thousand stand for all.
    """
    if len(a.objects) < len(b.objects):
        a, b = b, a
    if not a.objects:
        return 1.0
    others = [(item.class_id, _shares(item.box, b)) for item in b.objects[:_MOST_BOXES]]
    best = []
    for item in a.objects[:_MOST_BOXES]:
        box = _shares(item.box, a)
        best.append(max((overlap(box, other) for name, other in others if name == item.class_id), default=0.0))
    return sum(best) / len(best)


def _shares(box: tuple[float, float, float, float], picture: Picture) -> tuple[float, float, float, float]:
    (x1, y1, x2, y2), (width, height) = box, picture.size
    return x1 / width, y1 / height, x2 / width, y2 / height


def _directions(snapshot: Snapshot, pictures: list[Picture]) -> np.ndarray:
    """What two pictures are compared by: float32 [N, 512], of length 1, the steps from pixel to pixel of the outline.

    Steps rather than values: they are alike in hardly any two pictures, whatever their light and contrast. A picture of
    one colour has none, and is like no other.
    """
    outlines = np.stack([snapshot.pixels[picture.path].outline for picture in pictures]).astype(np.float32)
    across, down = np.diff(outlines, axis=2)[:, :-1], np.diff(outlines, axis=1)[:, :, :-1]
    steps = np.stack([across, down], axis=1).reshape(len(pictures), -1)
    steps -= steps.mean(axis=1, keepdims=True)
    return steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1.0)
