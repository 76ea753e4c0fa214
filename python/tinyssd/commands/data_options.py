"""The options that say what a data set is, where looking at it does not: those of ``train`` and ``check``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tinyssd.errors import ConfigError

if TYPE_CHECKING:
    from tinyssd.data.config import Choice


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Declares ``--train``, ``--val``, ``--format`` and ``--classes``."""
    from tinyssd.data.config import FORMATS

    where = "a folder, label file or list in the data set, or the name of a split ('trainval': both)"
    parser.add_argument("--train", metavar="WHAT", help=f"the training pictures: {where} (default: by looking)")
    parser.add_argument("--val", metavar="WHAT", help="the validation pictures, likewise (default: by looking)")
    parser.add_argument("--format", choices=FORMATS, help="the format of the labels (default: by looking)")
    parser.add_argument(
        "--classes", metavar="NAMES", help="the names of the classes: a file with one a line, or names with commas"
    )


def class_names(given: str | None) -> tuple[str, ...] | None:
    """The names that ``--classes`` gives; None where it was not given.

    Raises:
        ConfigError: If one is empty or stands there twice.
        DataError: If it is a file that cannot be read.
    """
    from tinyssd.data.names import read_class_file

    if given is None:
        return None
    if Path(given).exists() and not Path(given).is_dir():  # A shell's <(command) is no regular file.
        return tuple(read_class_file(Path(given)))
    if "," not in given and ("/" in given or os.sep in given or given.lower().endswith((".txt", ".names"))):
        raise ConfigError(f"--classes {given}: no such file")
    names = tuple(name.strip() for name in given.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"--classes: expected a file or different names with commas between, got {given!r}")
    return names


def choice(options: argparse.Namespace) -> Choice:
    """What the options decide."""
    from tinyssd.data.config import Choice

    return Choice(options.format or "", options.train or "", options.val or "", class_names(options.classes) or ())
