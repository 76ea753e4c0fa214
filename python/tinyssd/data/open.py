"""From the name of a data set to its pictures."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tinyssd.data.clean import clean
from tinyssd.data.config import SEED_LIMIT, Choice, DataConfig
from tinyssd.data.fetch import cache_folder, fetch_banana
from tinyssd.data.labels import DataSet, Picture, Problem
from tinyssd.data.read import read_data_set
from tinyssd.data.source import PictureFiles, Source
from tinyssd.data.summary import counted, summary
from tinyssd.data.synthetic import SyntheticSource
from tinyssd.errors import DataError

# Generated validation pictures come from another seed than any the training may use.
_VALIDATION_SEED = SEED_LIMIT

# From this share of boxes on whose class has no name, it is the list of names that is wrong.
_MANY = 0.01
_MOST_LISTED = 20


def open_data(
    config: DataConfig, image_size: tuple[int, int], seed: int = 0, say: Callable[[str], None] | None = None
) -> tuple[Source, Source]:
    """The training and the validation pictures.

    Args:
        config: Which data set.
        image_size: Height and width at which generated pictures are drawn; stored ones keep theirs.
        seed: Of the generated training pictures.
        say: Is given the lines of :func:`tinyssd.data.summary.summary` for stored pictures.

    Raises:
        DataError: If the data set is missing or cannot be trained on.
    """
    if config.name == "synthetic":
        side = max(image_size)
        train = SyntheticSource(config.train_size, side, seed, fresh=True)
        return train, SyntheticSource(config.val_size, side, _VALIDATION_SEED)
    if config.name == "banana":
        path = fetch_banana(cache_folder())
    else:
        path = Path(config.name)
        if not path.exists():
            raise DataError(f"{path}: no such folder; expected one, or the name 'synthetic' or 'banana'")
    return _open(path, config.choice, config.strict, say)


def open_folder(folder: Path | str) -> tuple[PictureFiles, PictureFiles]:
    """The training and the validation pictures of a folder in any format that is known, recognised by looking.

    Boxes that reach beyond their picture are clipped, what is no box is dropped, and broken pictures are left out;
    :func:`tinyssd.data.read.read_data_set` says which.

    Raises:
        DataError: If there is no such folder, or it cannot be trained on.
    """
    return _open(Path(folder), Choice(), strict=False, say=None)


def training_set(path: Path, choice: Choice, strict: bool = False) -> DataSet:
    """A data set as a training takes it.

    Args:
        path: As in :func:`tinyssd.data.read.read_data_set`.
        choice: As there.
        strict: Refuse what would have to be changed or skipped.

    Raises:
        DataError: If it cannot be trained on.
    """
    data_set = clean(read_data_set(path, choice))
    data_set = replace(data_set, problems=(*data_set.problems, *_in_two_splits(data_set)))
    wrong = [problem for problem in data_set.problems if problem.severity != "note"]
    if strict and wrong:
        first = "\n  ".join(str(problem) for problem in wrong[:_MOST_LISTED])
        more = len(wrong) - _MOST_LISTED
        raise DataError(
            f"{path}: --strict, and {sum(problem.count for problem in wrong)} things are wrong:\n  {first}"
            + (f"\n  and {more} more" if more > 0 else "")
        )
    _refuse_hopeless(data_set)
    return data_set


def _open(
    path: Path, choice: Choice, strict: bool, say: Callable[[str], None] | None
) -> tuple[PictureFiles, PictureFiles]:
    data_set = training_set(path, choice, strict)
    if say is not None:
        for line in summary(data_set):
            say(line)
    train, val = (PictureFiles(data_set.splits[split], data_set.class_names) for split in ("train", "val"))
    return train, val


def _refuse_hopeless(data_set: DataSet) -> None:
    objects = sum(not item.ignored for picture in data_set.splits["train"] for item in picture.objects)
    problems = counted(data_set.problems)
    unnamed, first = problems.get("no class", (0, None))
    total = sum(len(picture.objects) for pictures in data_set.splits.values() for picture in pictures)
    if unnamed > _MANY * (total + unnamed):
        raise DataError(f"{first}; so it is with {unnamed} of {total + unnamed} boxes: is a name missing?")
    if objects == 0:
        reasons = "; ".join(
            f"{problem} ({count} such)"
            for kind, (count, problem) in problems.items()
            if problem.severity != "note" and kind != "in two splits"
        )
        raise DataError(f"{data_set.root}: no object to train on in it{f': {reasons}' if reasons else ''}")
    if not data_set.splits["val"]:
        raise DataError(f"{data_set.root}: no picture to validate on in it")


def _in_two_splits(data_set: DataSet) -> list[Problem]:
    """The pictures of the training that stand in the validation too, byte for byte: they make its results too good."""
    by_size: dict[int, list[tuple[str, Picture]]] = defaultdict(list)
    for split in ("train", "val"):
        for picture in data_set.splits[split]:
            by_size[picture.path.stat().st_size].append((split, picture))
    problems = []
    for pictures in by_size.values():
        if len({split for split, _ in pictures}) == 1:
            continue
        train = {_digest(picture.path): picture.path for split, picture in pictures if split == "train"}
        for split, picture in pictures:
            other = train.get(_digest(picture.path)) if split == "val" else None
            if other is not None:
                message = f"the same picture as {other.name} of the training"
                problems.append(Problem("in two splits", "warning", message, picture.path))
    return problems


def _digest(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes()).digest()
