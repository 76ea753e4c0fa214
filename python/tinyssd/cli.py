"""The command line: ``tinyssd train|anchors|check|eval|predict|report|export|demo|info``.

Each command imports what it needs when it runs, so ``--help`` does not wait for Torch.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from tinyssd.commands import anchors, check, demo, eval, export, info, predict, report, train
from tinyssd.commands.advice import advice, out_of_resources
from tinyssd.commands.common import EXIT_BROKEN_PIPE, EXIT_ERROR, EXIT_INTERRUPTED, print_error
from tinyssd.errors import TinySSDError
from tinyssd.terminal import write_no_more

_COMMANDS = (train, anchors, check, eval, predict, report, export, demo, info)


class _Parser(argparse.ArgumentParser):
    """Adds to argparse's message what the person probably meant."""

    def error(self, message: str) -> NoReturn:
        hint = advice(message, self)
        self.print_usage(sys.stderr)
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message}{f'; {hint}' if hint else ''}\n")


class _Version(argparse.Action):
    """As argparse's own, but it asks for the version, which takes importing Torch, only when it is wanted."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from tinyssd_ops import __version__

        print(f"tinyssd {__version__}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Without the program's name; None takes the command line's.

    Returns:
        The exit status: 0, 2 after an error that was reported, 130 after Ctrl-C, 128 and the signal's number after
        SIGTERM, SIGHUP and a closed pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is written as its escape.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Threads that spin while they wait take the cores from the processes that read pictures, and from other programs:
    # with one of two cores taken, a training ran at 33 pictures a second in place of 46. Read when Torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _ended_by_signals() as ended:
        status = _reported(arguments)
    return 128 + ended[0] if ended else status


def _reported(arguments: Sequence[str] | None) -> int:
    """The command's exit status; what a person can put right becomes a sentence."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except ModuleNotFoundError as error:
        print(f"tinyssd: error: no module named {error.name}: pip install '.[train]' installs it", file=sys.stderr)
        return EXIT_ERROR
    except BrokenPipeError:
        write_no_more()  # Whoever read the output has seen enough.
        return EXIT_BROKEN_PIPE
    except (TinySSDError, OSError, ImportError) as error:
        # All that a process which was killed may leave is an end of its pipe.
        killed = out_of_resources(error) if isinstance(error, ConnectionResetError) else None
        print_error(TinySSDError(killed) if killed else error)
        return EXIT_ERROR
    except (MemoryError, RuntimeError) as error:
        sentence = out_of_resources(error)
        if sentence is None:
            raise
        print(f"tinyssd: error: {sentence}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("tinyssd: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    options.words = sys.argv[1:] if arguments is None else arguments
    if hasattr(options, "command"):
        return options.command(options)
    parser.print_help()
    return 0


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[list[int]]:
    """Lets SIGTERM and SIGHUP end a command as Ctrl-C does; gives the list that then holds the signal's number."""
    ended: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        ended.append(number)
        raise KeyboardInterrupt

    previous = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # One that was ignored at the start stays ignored, as under nohup.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # Only the main thread may handle signals.
                previous[number] = signal.signal(number, interrupt)
    try:
        yield ended
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tinyssd", description="Train a small detector and use it.")
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="print the version")
    _add_completion(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> None:
    """``--print-completion``: by shtab, where it is installed."""
    text = "print a completion script, for example: tinyssd --print-completion bash > ~/.tinyssd-completion"
    try:
        import shtab
    except ModuleNotFoundError:
        parser.add_argument("--print-completion", metavar="SHELL", help=f"{text} (needs shtab)", type=_no_completion)
    else:
        shtab.add_argument_to(parser, ["--print-completion"], help=text)


def _no_completion(shell: str) -> NoReturn:
    raise argparse.ArgumentTypeError("needs the package shtab: pip install shtab")


if __name__ == "__main__":
    sys.exit(main())
