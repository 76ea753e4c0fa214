"""From a folder to its training and its validation pictures."""

from __future__ import annotations

from pathlib import Path

from tinyssd.data.csv import FolderSource, read_label_file
from tinyssd.errors import DataError


def open_folder(folder: Path | str) -> tuple[FolderSource, FolderSource]:
    """The training and the validation pictures of a folder in the banana layout.

    Class names come from ``classes.txt`` (one a line, the first is class 0) where there is one. Else the only class of
    ``pikachu_train`` is "pikachu", and several are "class 0", "class 1", ...

    Raises:
        DataError: If a file is missing or a line is wrong.
    """
    folder = Path(folder)
    train, val = find_splits(folder)
    names_file = folder / "classes.txt"
    if names_file.exists():
        names = _read_class_names(names_file)
    else:
        rows = [row for split in (train, val) for rows in read_label_file(split / "label.csv").values() for row in rows]
        count = max(row.label for row in rows) + 1
        names = [train.name.removesuffix("_train")] if count == 1 else [f"class {i}" for i in range(count)]
    return FolderSource(train, names), FolderSource(val, names)


def find_splits(folder: Path) -> tuple[Path, Path]:
    """The training and the validation folder inside ``folder``: ``*_train`` and ``*_val``.

    Raises:
        DataError: If there is not exactly one of each.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = []
    for split in ("train", "val"):
        matches = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.endswith(f"_{split}"))
        if len(matches) != 1:
            raise DataError(f"{folder}: expected one folder named *_{split}, found {len(matches)}")
        found.append(matches[0])
    return found[0], found[1]


def _read_class_names(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error
    if not names:
        raise DataError(f"{path}: no class name in it")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a class name stands in it twice")
    return names
