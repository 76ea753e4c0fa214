"""The one reader of a check: the labels as they were found, and what the pixels of every picture say."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tinyssd.data.images import read_picture
from tinyssd.data.labels import DataSet, Object, Picture
from tinyssd.errors import DataError

OUTLINE_SIDE = 16
_ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Pixels:
    """What is kept of a picture after it was decoded.

    Attributes:
        error: Why it cannot be decoded; empty if it can. The rest then stands for nothing.
        digest: Of the upright RGB pixels and their size.
        outline: uint8 [17, 17], the upright picture in grey; two pictures are compared by it.
    """

    error: str
    digest: bytes
    outline: np.ndarray


@dataclass(frozen=True)
class Snapshot:
    """All that the checks look at.

    Attributes:
        data: The labels; the splits in the order train, val, test.
        pixels: By the path of the picture.
    """

    data: DataSet
    pixels: Mapping[Path, Pixels]

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        """Every picture with the name of its split."""
        for split, pictures in self.data.splits.items():
            for picture in pictures:
                yield split, picture

    def objects(self) -> Iterator[tuple[str, Picture, Object]]:
        """Every object with its split and its picture."""
        for split, picture in self.pictures():
            for item in picture.objects:
                yield split, picture, item

    def name(self, picture: Picture) -> str:
        """The path of a picture from the folder of the data set on."""
        path, root = picture.path, self.data.root
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

    def names_class(self, item: Object) -> bool:
        """Whether the class of an object has a name."""
        return 0 <= item.class_id < len(self.data.class_names)


def take_snapshot(data: DataSet, workers: int | None = None, progress: bool = False) -> Snapshot:
    """Decodes every picture of a data set.

    Args:
        data: As a reader found it.
        workers: Threads; None takes one for each core.
        progress: Show a bar on standard error, where that is a terminal.
    """
    names = [*(name for name in _ORDER if name in data.splits), *(name for name in data.splits if name not in _ORDER)]
    data = replace(data, splits={name: data.splits[name] for name in names})
    paths = list(dict.fromkeys(picture.path for pictures in data.splits.values() for picture in pictures))
    # Pillow lets go of the interpreter while it decodes, so threads are enough. Its warnings (odd metadata, a very
    # large picture) say nothing that a finding does not.
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(_watched(pool.map(_decode, paths), len(paths), progress))
    finally:
        pool.shutdown(cancel_futures=True)  # After Ctrl-C nobody waits for the rest.
    return Snapshot(data, dict(zip(paths, found, strict=True)))


def _watched(pixels: Iterator[Pixels], total: int, progress: bool) -> Iterator[Pixels]:
    disable = None if progress else True
    return iter(tqdm(pixels, total=total, desc="decoding", unit=" pictures", leave=False, disable=disable))


def _decode(path: Path) -> Pixels:
    try:
        picture = read_picture(path)
    except DataError as error:
        return Pixels(str(error).removeprefix(f"{path}: "), b"", np.empty(0))
    digest = hashlib.blake2b(repr(picture.size).encode(), digest_size=16)
    digest.update(picture.tobytes())
    side = OUTLINE_SIDE + 1
    outline = picture.convert("L").resize((side, side), Image.Resampling.BOX)
    return Pixels("", digest.digest(), np.asarray(outline))
