"""What several commands share."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tinyssd import processes
from tinyssd.errors import DataError
from tinyssd.text import plural, printable

if TYPE_CHECKING:
    from tinyssd.evaluation.evaluate import Metrics
    from tinyssd.run.config import RunConfig

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# Names of data sets that are no folders.
GENERATED = ("synthetic", "banana")

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Declares ``--device`` and ``--workers``."""
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: by the number of cores)"
    )


def print_error(error: Exception) -> None:
    """Says on standard error what went wrong."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    print(f"tinyssd: error: {printable(message)}", file=sys.stderr)


def data_label(name: str) -> str:
    """A short name for a data set: the last part of its path."""
    return Path(name).name or "data"


def data_name(name: str) -> str:
    """What a run remembers of ``--data``: a whole path, as it can be continued from another folder."""
    return name if name in GENERATED else str(Path(name).resolve())


def expect_data(config: RunConfig) -> None:
    """Raises :class:`DataError` where the folder that a run remembers is not there any more."""
    name = config.data.name
    if name not in GENERATED and not Path(name).exists():
        raise DataError(f"{name}: the pictures of this run are not there any more; say where they are with --data DIR")


def describe(config: RunConfig, run: Path) -> str:
    """What is about to be trained, in one line."""
    from tinyssd.model.device import pick_device

    height, width = config.model.image_size
    classes = ", ".join(config.class_names)
    backbone = f", backbone {config.backbone}" if config.backbone else ""
    shared = f" by {processes.count()} processes" if processes.count() > 1 else ""
    return (
        f"training on {data_label(config.data.name)} ({classes}) at {width}x{height} pixels for "
        f"{_length(config)} on {pick_device(config.train.device)}{shared}{backbone}; run folder {run}"
    )


def _length(config: RunConfig) -> str:
    epochs = plural(config.train.epochs, "epoch")
    return epochs if config.train.passes == 1 else f"{epochs} of {config.train.passes} passes over the pictures"


def metrics_table(metrics: Metrics, class_names: Sequence[str]) -> str:
    """The metrics, a line each."""
    named = zip(class_names, metrics.ap_per_class, strict=True)
    values = [
        ("AP50", metrics.ap50, ".3f"),
        ("AP", metrics.ap, ".3f"),
        *((f"AP, {name}", ap, ".3f") for name, ap in named),
        ("class error", metrics.class_error, ".2e"),
        ("offset MAE", metrics.offset_mae, ".3f"),
        ("best confidence threshold", metrics.best_threshold, ".2f"),
    ]
    rows = [(name, "-" if math.isnan(value) else f"{value:{digits}}") for name, value, digits in values]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
