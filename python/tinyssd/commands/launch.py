"""Starts the processes of ``tinyssd train --processes N`` on this machine, and ends them together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from tinyssd.commands.common import print_error
from tinyssd.errors import TrainingError

# One that waits for another notices its end by itself, on a GPU much later.
_SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_LOOKS = 0.1


def launch(count: int, words: Sequence[str]) -> int:
    """Runs ``tinyssd`` with these words in so many processes that know of each other, as torchrun does.

    Ctrl-C and SIGTERM ask all of them to stop, a second one kills them.

    Returns:
        The exit status of the one that failed first, else that of the first.
    """
    shared = {
        # Together they take the cores that one would.
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    command = [sys.executable, "-m", "tinyssd", *words]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank in map(str, range(count)):
            running.append(subprocess.Popen(command, env={**shared, "RANK": rank, "LOCAL_RANK": rank}))
        try:
            return _until_the_end(running)
        except KeyboardInterrupt:
            for process in running:
                process.terminate()  # A shell's background jobs ignore SIGINT.
            return _until_the_end(running)
    finally:
        for process in running:
            process.kill()
            process.wait()


def _until_the_end(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all of them, and not long for the others where one has failed."""
    failed, deadline = None, float("inf")
    while True:
        statuses = [process.poll() for process in running]
        if failed is None and any(statuses):
            failed, deadline = next(one for one in running if one.returncode), time.monotonic() + _SECONDS_TO_END
        if None not in statuses or time.monotonic() >= deadline:
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if failed is None:
        return 0
    if failed.returncode > 0:
        return failed.returncode
    reason = "most often because memory ran out; try a smaller --batch-size or --image-size, or fewer --workers"
    number = running.index(failed) + 1
    print_error(TrainingError(f"process {number} of {len(running)} was killed (signal {-failed.returncode}), {reason}"))
    return 128 - failed.returncode


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
