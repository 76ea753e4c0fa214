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
    for package in _packages():
        try:
            print(f"  {package}: {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {package}: not installed")
    return 0


def _packages() -> list[str]:
    """What the application needs and can use, as the package's own metadata names it."""
    import importlib.metadata
    import re

    extras = re.compile(r"""^([\w.-]+).*extra == ["'](?:train|video|completion|backbone)["']""")
    found = map(extras.match, importlib.metadata.requires("tinyssd_ops") or [])
    return list(dict.fromkeys(match[1] for match in found if match))


def _print_tree(values: dict[str, Any], indent: str = "") -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:" if value else f"{indent}{name}: none")
            _print_tree(value, indent + "  ")
        else:
            print(f"{indent}{name}: {value}")
