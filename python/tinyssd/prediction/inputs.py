"""Which pictures a command line names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tinyssd.errors import DataError

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files named, and the pictures in the folders named.

    Raises:
        DataError: If a path does not exist or a folder holds no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
            if not inside:
                raise DataError(f"{path}: no picture in this folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    return found
