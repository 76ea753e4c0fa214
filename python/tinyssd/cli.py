"""The command line: ``tinyssd train|check|eval|predict|demo|info``.

Each command imports what it needs when it runs, so ``--help`` does not wait for Torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tinyssd.commands import check, demo, eval, info, predict, train
from tinyssd.commands.common import EXIT_ERROR, EXIT_INTERRUPTED, print_error
from tinyssd.errors import TinySSDError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Without the program's name; None takes the command line's.

    Returns:
        The exit status: 0, 2 after an error that was reported, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    # Threads that spin while they wait take the cores from the processes that read pictures, and from other programs:
    # with one of two cores taken, a training ran at 33 pictures a second in place of 46. Read when Torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return options.command(options)
    except ModuleNotFoundError as error:
        print(f"tinyssd: error: no module named {error.name}: pip install '.[train]' installs it", file=sys.stderr)
        return EXIT_ERROR
    except (TinySSDError, OSError, ImportError) as error:
        print_error(error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("tinyssd: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tinyssd", description="Train a small detector and use it.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (train, check, eval, predict, demo, info):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
