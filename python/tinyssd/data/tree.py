"""The files of a data set's folder, and which picture a label file means."""

from __future__ import annotations

import difflib
import os
import posixpath
from collections import defaultdict
from pathlib import Path

from tinyssd.data.draft import Problems
from tinyssd.data.images import PICTURE_SUFFIXES
from tinyssd.data.splits import split_of
from tinyssd.errors import DataError
from tinyssd.text import printable

_MOST_FILES = 2_000_000
_MOST_SUGGESTIONS = 3


class Tree:
    """What is in a folder, without hidden files; paths are relative to it, with slashes.

    Labels name pictures in the way of the machine they were made on. A name is looked up among the files that are there
    and never given to the system, so it cannot lead out of the folder.

    Args:
        root: The folder.

    Raises:
        DataError: If there is no such folder, or more files in it than any data set has.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = frozenset(_walk(root))
        self.pictures = sorted(name for name in self.files if suffix(name) in PICTURE_SUFFIXES)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self.pictures:
            base = posixpath.basename(name).casefold()
            self._by_name[base].append(name)
            self._by_stem[posixpath.splitext(base)[0]].append(name)
        self._suggestions = 0

    def path(self, name: str) -> Path:
        """The path of a file."""
        return self.root / name

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files whose names end so, in order."""
        return sorted(name for name in self.files if suffix(name) in suffixes)

    def find(self, name: str, near: str, split: str | None = None) -> str | None:
        """The picture that a label file means.

        Args:
            name: As the label file has it: a file name, a path of this or of another system, or a name without suffix.
            near: The folder of the label file.
            split: The split that the label file belongs to.

        Returns:
            The file in that place; else the one whose name differs in case, suffix or folder alone; None where none or
            several fit equally well.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts:
            return None
        for base in (near, posixpath.join(near, "images"), ""):
            direct = posixpath.normpath(posixpath.join(base, *parts))
            if direct in self.files:
                return direct
        candidates = self._named(parts[-1])
        ranks = [(_alikeness(candidate, parts, near, split), candidate) for candidate in candidates]
        best = max((rank for rank, _ in ranks), default=None)
        fitting = [candidate for rank, candidate in ranks if rank == best]
        return fitting[0] if len(fitting) == 1 else None

    def look_up(
        self, name: str, near: str, split: str | None, problems: Problems, file: Path, line: int | None
    ) -> str | None:
        """As :meth:`find`, and says what is wrong with the name.

        Args:
            name: As in :meth:`find`.
            near: As in :meth:`find`.
            split: As in :meth:`find`.
            problems: Where it is said.
            file: The label file.
            line: Its line.
        """
        found = self.find(name, near, split)
        if found is None:
            problems.add("no picture", "error", f"{printable(name)}: {self._why_not(name)}", file, line)
            return None
        wanted, there = posixpath.basename(name.replace("\\", "/")), posixpath.basename(found)
        if wanted != there and wanted != posixpath.splitext(there)[0]:
            problems.add("other name", "note", f"{printable(wanted)} is called {printable(there)}", file, line)
        return found

    def by_stem(self, stem: str) -> list[str]:
        """The pictures of this name without suffix, whatever their case."""
        return self._by_stem.get(stem.casefold(), [])

    def _why_not(self, name: str) -> str:
        """Why :meth:`find` returned None, as the end of a sentence."""
        base = posixpath.basename(name.replace("\\", "/"))
        several = self._named(base)
        if several:
            return f"{len(several)} pictures have this name: {', '.join(several[:3])}"
        if self._suggestions < _MOST_SUGGESTIONS:  # It takes long among many names.
            self._suggestions += 1
            close = difflib.get_close_matches(base.casefold(), self._by_name, 1)
            if close:
                return f"no such picture; did you mean {posixpath.basename(self._by_name[close[0]][0])}?"
        return "no such picture"

    def _named(self, base: str) -> list[str]:
        base = base.casefold()
        stem, end = posixpath.splitext(base)
        return self._by_name.get(base) or self._by_stem.get(stem if end in PICTURE_SUFFIXES else base, [])


def suffix(name: str) -> str:
    """The suffix of a file name in lower case, with its dot."""
    return posixpath.splitext(name)[1].lower()


def _alikeness(candidate: str, parts: list[str], near: str, split: str | None) -> tuple[int, bool, bool, int]:
    there = candidate.split("/")
    trailing = 0
    for mine, other in zip(reversed(parts), reversed(there), strict=False):
        if mine.casefold() != other.casefold():
            break
        trailing += 1
    together = next((i for i, (a, b) in enumerate(zip(near.split("/"), there, strict=False)) if a != b), len(there))
    fits_split = split is not None and split_of(posixpath.dirname(candidate)) == split
    return trailing, there[-1] == parts[-1], fits_split, together


def _walk(root: Path) -> list[str]:
    """The regular files under ``root``; a folder that links lead to twice is looked at once."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    found: list[str] = []
    folders = [""]
    seen = set()
    while folders:
        folder = folders.pop()
        status = (root / folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = posixpath.join(folder, entry.name)
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    folders.append(name)
                elif entry.is_file():
                    found.append(name)
        if len(found) > _MOST_FILES:
            raise DataError(f"{root}: more than {_MOST_FILES:,} files; expected the folder of one data set")
    return found
