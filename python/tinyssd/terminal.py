"""Lines on standard output."""

from __future__ import annotations

import contextlib
import os
import sys

from tinyssd import processes
from tinyssd.text import printable


def say(text: str) -> None:
    """Prints ``text``, line by line made harmless; whoever closes the pipe has seen enough, and the work goes on.

    Of several processes that train together only the first speaks.
    """
    if not processes.is_first():
        return
    from tqdm import tqdm

    lines = "\n".join(printable(line) for line in text.split("\n"))
    try:
        tqdm.write(lines, file=sys.stdout)  # Above a progress bar, where there is one.
        sys.stdout.flush()
    except BrokenPipeError:
        write_no_more()


def write_no_more() -> None:
    """Points standard output nowhere, also for what is still buffered."""
    with contextlib.suppress(OSError, ValueError):  # Where it is no file there is nothing to point away.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
