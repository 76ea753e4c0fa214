"""The folder of a run: who may write there, and the latest of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tinyssd.errors import CheckpointError, ConfigError
from tinyssd.files import remove_leftovers

# Of the last epoch, to go on from, and of the epoch with the best AP, to use.
CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"

# What a run writes besides: found without a checkpoint, they are somebody's own, or of a run that got no further.
_WRITTEN = ("config.json", "metrics.jsonl", "curves.png", "predictions.png", "report.html")
_LOCK = ".lock"


def refuse_used_folder(run: Path) -> None:
    """Raises :class:`ConfigError` where a new run would take the place of another one or of other files."""
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run}: not a folder; choose another --run")
    if (run / CHECKPOINT).exists():
        raise ConfigError(
            f"{run}: holds a run already; continue it with 'tinyssd train --resume {run}', or choose another --run"
        )
    taken = [name for name in _WRITTEN if (run / name).exists()]
    if taken and not _is_of_a_run(run / "config.json"):
        raise ConfigError(f"{run}: holds {', '.join(taken)}, which no run wrote; choose another --run")


def _is_of_a_run(path: Path) -> bool:
    """Whether this ``config.json`` is one of ours: a run that ended before its first checkpoint leaves it behind."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"class_names", "model", "train"} <= values.keys()


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes from training into it. What a killed one left half written is removed.

    Raises:
        ConfigError: If another process trains into it.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / _LOCK)  # The file stays: whoever removed it could remove one that another has just locked.
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"{run}: another process is training into this folder; choose another --run") from error
    try:
        remove_leftovers(run)
        yield
    finally:
        lock.release()


def latest_run(runs: Path = Path("runs")) -> Path:
    """The run folder whose checkpoint was written last.

    Raises:
        CheckpointError: If there is none.
    """
    checkpoints = list(runs.glob(f"*/{CHECKPOINT}"))
    if not checkpoints:
        raise CheckpointError(f"no trained run in {runs}/; train one with 'tinyssd train' or name its folder")
    return max(checkpoints, key=lambda path: path.stat().st_mtime).parent
