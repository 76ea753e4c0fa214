"""What takes long says how far it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

_MANY = 3000  # about a second's worth

T = TypeVar("T")


def watched(items: Sequence[T], doing: str, unit: str) -> Iterator[T]:
    """The items, with a progress bar where there is a terminal, else with one line where there are many."""
    terminal = sys.stderr.isatty()
    if not terminal and len(items) > _MANY:
        print(f"{doing}: {len(items):,} {unit}", file=sys.stderr, flush=True)
    yield from tqdm(
        items, desc=doing, unit=f" {unit}", disable=not terminal, delay=0.5, leave=False, dynamic_ncols=True
    )
