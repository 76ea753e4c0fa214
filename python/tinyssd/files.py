"""Files that are whole or not there."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyssd.errors import TinySSDError


def json_text(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON, which has no NaN and no infinity.

    Raises:
        TinySSDError: If it holds one; the message says where.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError as error:
        raise TinySSDError(f"JSON has no NaN and no infinity: {_not_finite(value)}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    text = json_text(value, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    text = "".join(json_text(row) + "\n" for row in rows)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _not_finite(value: Any) -> str:
    """The way to the first NaN or infinity in ``value``, and which it is; empty where there is none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f" is {value}"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return next((f"[{key!r}]{found}" for key, one in items if (found := _not_finite(one))), "")


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write`` with a temporary path beside ``path``, then moves the result there in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())  # Else the new name could outlive a power cut, and the bytes not.
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def expect_no_stream(path: Path) -> None:
    """Raises :class:`OSError` where the path is that of a FIFO, a device or a socket: reading one may never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of :func:`write_atomically` that a killed process left in ``folder``.

    To be called by whoever alone writes there.
    """
    for file in folder.glob(".*.tmp"):
        if file.name.removesuffix(".tmp").rpartition(".")[2].isdigit():
            file.unlink(missing_ok=True)
