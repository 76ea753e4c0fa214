"""Ctrl-C, and what a system sends to end a program, ask a training to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from tinyssd import processes

# Ctrl-C; what `docker stop`, batch systems and service managers send; a terminal that closes. Windows has no SIGHUP.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class StopRequest:
    """Set by the first signal."""

    requested: bool = False


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a request to stop after the step; a second one ends at once.

    Of several processes a second one is not heeded: torchrun hands on the Ctrl-C that a terminal has sent to all of
    them, and it ends by force what does not end in time.

    A signal that was ignored when the program started stays ignored, as ``nohup`` and shells' background jobs want it.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Only the main thread may handle signals.
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    # None: a handler that Python did not set, and could not set again.
    previous = {number: old for number, old in previous.items() if old not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, old in previous.items():
            signal.signal(number, old)

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            return  # One of several processes.
        stop.requested = True
        message = "stopping after this step"
        if processes.count() == 1:
            restore()
            message += f"; {'Ctrl-C' if number == signal.SIGINT else 'the same signal'} again to stop at once"
        if processes.is_first():
            with contextlib.suppress(OSError):  # A terminal that has closed takes no message.
                print(f"\n{message}", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # The command line's handler notes the signal for its exit status.
            if callable(old := previous[signal.Signals(number)]):
                old(number, frame)

    for number in previous:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()
