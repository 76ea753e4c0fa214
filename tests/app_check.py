"""Tiny data sets for the tests of ``tinyssd check``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tinyssd.check.snapshot import OUTLINE_SIDE, Pixels, Snapshot
from tinyssd.data.labels import DataSet, Object, Picture, Problem

ROOT = Path("set")
Corners = tuple[float, float, float, float]


def thing(class_id: int = 0, box: Corners = (10, 10, 60, 60), line: int | None = None, ignored: bool = False) -> Object:
    """An object of a label file."""
    return Object(class_id, box, ignored, ROOT / "labels.csv", line)


def picture(name: str, *objects: Object, size: tuple[int, int] = (100, 80), turned: int = 1) -> Picture:
    """A picture that no file stands for."""
    return Picture(ROOT / name, size, objects, turned, ROOT / "labels.csv", 1)


def pixels(seed: object) -> Pixels:
    """Of a decoded picture; equal seeds give equal pictures, others give pictures that are not alike."""
    name = repr(seed).encode()
    outline = np.random.default_rng(list(name)).integers(0, 256, (OUTLINE_SIDE + 1, OUTLINE_SIDE + 1), dtype=np.uint8)
    return Pixels("", name, outline)


def snapshot(
    train: Sequence[Picture] = (),
    val: Sequence[Picture] = (),
    names: Sequence[str] = ("cat", "dog"),
    test: Sequence[Picture] = (),
    problems: Sequence[Problem] = (),
    decoded: Mapping[str, Pixels] | None = None,
) -> Snapshot:
    """A snapshot in which each picture is unlike the others, but those in ``decoded``, by name."""
    splits = {"train": tuple(train), "val": tuple(val)} | ({"test": tuple(test)} if test else {})
    data = DataSet("csv", ROOT, tuple(names), splits, problems=tuple(problems))
    found = {item.path: pixels(item.path.name) for pictures in splits.values() for item in pictures}
    found |= {ROOT / name: value for name, value in (decoded or {}).items()}
    return Snapshot(data, found)
