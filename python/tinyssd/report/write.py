"""Writes the page of a run into its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinyssd.data.open import open_data
from tinyssd.errors import CheckpointError
from tinyssd.evaluation.names import ByName
from tinyssd.files import write_atomically
from tinyssd.model.device import pick_device
from tinyssd.report.findings import look
from tinyssd.report.page import RunFacts, to_html
from tinyssd.run.checkpoint import load_model
from tinyssd.run.config import RunConfig

REPORT = "report.html"
# More would take longer than anybody waits.
_MOST_PICTURES = 1000


def write_report(run: Path, device: str = "auto", data: Any = None, most: int = _MOST_PICTURES) -> Path:
    """Evaluates a run's network on its validation pictures, and writes ``report.html``.

    Args:
        run: The run folder.
        device: As ``--device`` has it.
        data: A ``DataConfig`` in place of the run's own: where its pictures are now.
        most: Pictures to look at; where there are more, evenly spread ones.

    Returns:
        The page's path.

    Raises:
        CheckpointError: If the folder holds no run.
        DataError: If its pictures cannot be used.
    """
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run folder")
    trained = load_model(run, pick_device(device))
    config: RunConfig = trained.config
    notes: list[str] = []
    _, source = open_data(data or config.data, config.model.image_size, config.train.seed, say=notes.append)
    if tuple(source.class_names) != tuple(config.class_names):
        source = ByName(source, config.class_names)
    pictures = look(trained, source, most)
    content = to_html(RunFacts(run, trained, _history(run / "metrics.jsonl"), source, pictures, notes))
    path = run / REPORT
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))
    return path


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []  # Stopped before its first epoch ended.
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged; not one JSON object a line") from error
