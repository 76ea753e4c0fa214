"""TensorBoard's files, where TensorBoard is installed."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyssd.text import printable

FOLDER = "tensorboard"


def log_epoch(run: Path, row: dict[str, Any], class_names: Sequence[str]) -> None:
    """Adds a row of ``metrics.jsonl`` to ``RUN/tensorboard``; without TensorBoard this does nothing.

    Args:
        run: The run folder.
        row: Numbers by name; ``epoch`` is their place on the axis, ``..._per_class`` is a list of a number a class.
        class_names: The classes without background.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return
    if not (run / FOLDER).is_dir():
        _writer.cache_clear()  # The last writer's file went with its folder.
    writer = _writer(run.resolve())
    for name, value in row.items():
        several = zip(class_names, value, strict=True) if name.endswith("_per_class") else ()
        for class_name, number in several:
            # A slash would make a group of what is one name.
            label = printable(class_name).replace("/", "_")
            _add(writer, f"{name.removesuffix('_per_class')} by class/{label}", number, row)
        if name != "epoch" and isinstance(value, (int, float)):
            _add(writer, name, value, row)
    writer.flush()


def _add(writer: Any, name: str, number: float | None, row: dict[str, Any]) -> None:
    if number is not None:
        writer.add_scalar(name, number, row["epoch"])


@functools.lru_cache(maxsize=1)
def _writer(run: Path) -> Any:
    """One for all epochs of a run: each writer makes a file."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / FOLDER))
