"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


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


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of :func:`write_atomically` that a killed process left in ``folder``.

    To be called by whoever alone writes there.
    """
    for file in folder.glob(".*.tmp"):
        if file.name.removesuffix(".tmp").rpartition(".")[2].isdigit():
            file.unlink(missing_ok=True)
