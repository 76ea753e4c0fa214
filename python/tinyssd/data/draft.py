"""What the readers of the formats gather, before the pictures themselves are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tinyssd.data.labels import Problem, Severity

Box = tuple[float, float, float, float]

_MOST_OF_A_KIND = 1000
# Far beyond what anybody draws; comparing the boxes of one picture costs more than in proportion.
MOST_OBJECTS = 100_000


class Problems:
    """Gathers problems; of a kind that comes without end only the first ones one by one."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._counts: Counter[tuple[str, Severity]] = Counter()

    def add(
        self, kind: str, severity: Severity, message: str, file: Path | None = None, line: int | None = None
    ) -> None:
        """Records one; the arguments are those of :class:`Problem`."""
        self.take(Problem(kind, severity, message, file, line))

    def take(self, problem: Problem) -> None:
        """Records one."""
        key = problem.kind, problem.severity
        self._counts[key] += 1
        if self._counts[key] <= _MOST_OF_A_KIND:
            self._found.append(problem)

    def all(self) -> tuple[Problem, ...]:
        """All of them, the order kept; a kind's rest as one at the end."""
        rest = [
            Problem(kind, severity, f"and more of this kind: {kind}", count=count - _MOST_OF_A_KIND)
            for (kind, severity), count in self._counts.items()
            if count > _MOST_OF_A_KIND
        ]
        return tuple(self._found + rest)


@dataclass(slots=True)
class Row:
    """One object as its label file has it.

    Attributes:
        label: The name of its class, or its number.
        box: ``(x1, y1, x2, y2)``, finite.
        ignored: As in :class:`tinyssd.data.labels.Object`.
        line: As in :class:`tinyssd.data.labels.Object`.
        file: As in :class:`tinyssd.data.labels.Object`.
        unit: What the box is measured in.
    """

    label: str | int
    box: Box
    file: Path
    line: int | None
    ignored: bool = False
    unit: Literal["pixels", "shares"] = "pixels"


@dataclass
class Entry:
    """One picture in one split.

    Attributes:
        picture: The file, relative to the root of the data set.
        split: As the folder or the label file names it; None where nothing does.
        rows: Its objects.
        file: The label file that names it; None where none does.
        line: Of that file.
        size: Width and height as the label file has them; None where it does not.
    """

    picture: str
    split: str | None
    rows: list[Row] = field(default_factory=list)
    file: Path | None = None
    line: int | None = None
    size: tuple[float, float] | None = None

    @property
    def crowded(self) -> bool:
        """Whether there are more objects than a picture may have; readers then need not gather the rest of them."""
        return len(self.rows) > MOST_OBJECTS


@dataclass
class Draft:
    """What a format's reader found.

    Attributes:
        root: The folder of the data set.
        entries: The pictures, each once in a split.
        names: The names of the classes by number; or in their order, where rows have names; empty where nothing says.
        names_from: The file that they stand in, where there is one.
        notes: What was decided, a sentence each.
    """

    root: Path
    entries: list[Entry] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    names_from: Path | None = None
    notes: list[str] = field(default_factory=list)
    _index: dict[tuple[str, str | None], Entry] = field(default_factory=dict, repr=False)

    def rows(self) -> Iterator[Row]:
        """The objects of all pictures."""
        for entry in self.entries:
            yield from entry.rows

    def entry(self, picture: str, split: str | None, file: Path | None = None, line: int | None = None) -> Entry:
        """The entry of a picture in a split, made where there is none yet."""
        key = (picture, split)
        if key not in self._index:
            self._index[key] = Entry(picture, split, file=file, line=line)
            self.entries.append(self._index[key])
        return self._index[key]
