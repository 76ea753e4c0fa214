"""Which pictures and videos a command line names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tinyssd.data.images import PICTURE_SUFFIXES
from tinyssd.errors import DataError

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


def find_inputs(names: Iterable[str | Path], out: Path) -> list[Path]:
    """The files named, those that a pattern fits, and the pictures and videos in the folders named and below them.

    Args:
        names: Files, folders and patterns like ``'photos/*.jpg'``.
        out: The folder of the results; what is in it is not looked at again.

    Raises:
        DataError: If a path does not exist, a pattern fits nothing, or a folder holds no picture.
    """
    found: dict[Path, None] = {}  # In order, each once.
    for name in names:
        if re.match(r"\w+://", str(name)):
            raise DataError(f"{name}: a web address; download it and name the file")
        for path in _matches(Path(name)):
            inside = list(_inside(path, out.resolve())) if path.is_dir() else [path]
            if not inside:
                known = " ".join((*PICTURE_SUFFIXES, *VIDEOS))
                raise DataError(f"{path}: no picture in this folder; known are {known}")
            found.update(dict.fromkeys(inside))
    return list(found)


def _matches(path: Path) -> list[Path]:
    """The path itself, or what it fits as a pattern: quoted, or from a shell that leaves that to the program."""
    if path.exists():
        return [path]
    if not glob.has_magic(str(path)):
        raise DataError(f"{path}: no such file or folder")
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  # Path.glob takes no whole path.
    if not matches:
        raise DataError(f"{path}: no file fits this pattern")
    return matches


def _inside(folder: Path, out: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        known = path.suffix.lower() in PICTURE_SUFFIXES or path.suffix.lower() in VIDEOS
        if known and path.is_file() and out not in path.resolve().parents:
            yield path
