"""``tinyssd info``."""

from __future__ import annotations

import argparse
from typing import Any

from tinyssd.commands.common import Commands


def add(commands: Commands) -> None:
    """Declares ``tinyssd info``."""
    parser = commands.add_parser("info", help="versions, and which backend serves which op")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    import importlib.metadata

    import tinyssd_ops

    _print_tree(tinyssd_ops.info())
    print("application:")
    for package in ("numpy", "pillow", "matplotlib", "tqdm", "pycocotools"):
        try:
            print(f"  {package}: {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {package}: not installed")
    return 0


def _print_tree(values: dict[str, Any], indent: str = "") -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:" if value else f"{indent}{name}: none")
            _print_tree(value, indent + "  ")
        else:
            print(f"{indent}{name}: {value}")
