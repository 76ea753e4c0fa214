"""Run folders and the checkpoints in them."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinyssd.errors import CheckpointError
from tinyssd.files import write_atomically
from tinyssd.model.build import build
from tinyssd.model.detector import Detector
from tinyssd.run.config import RunConfig
from tinyssd.run.folder import BEST, CHECKPOINT

_FORMAT = 1
_DEFAULT_THRESHOLD = 0.5
# What reading an archive and a pickle of any bytes ends in; weights_only keeps it from running code.
_DAMAGED = (
    *(RuntimeError, OSError, EOFError, LookupError, ValueError, ArithmeticError, pickle.UnpicklingError),
    *(AttributeError, TypeError, AssertionError, MemoryError, struct.error),
)


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Writes a checkpoint so that there is a whole one at any moment, the old or the new.

    Args:
        path: The file.
        contents: Tensors, numbers, strings and containers of them: what ``torch.load(weights_only=True)`` accepts.

    Raises:
        CheckpointError: If it cannot be written, as on a full disk; an older one is still there then.
    """
    try:
        write_atomically(path, lambda temporary: torch.save({"format": _FORMAT, **contents}, temporary))
    except (OSError, RuntimeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "is the disk full?"
        raise CheckpointError(f"{path}: the checkpoint could not be written ({reason})") from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The contents of a checkpoint, its tensors on ``device``.

    Raises:
        CheckpointError: If the file is missing, damaged, or no checkpoint of this program.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        contents = torch.load(path, map_location=device, weights_only=True)
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint; the file cannot be read") from error
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this version of tinyssd")
    return contents


@dataclass(frozen=True)
class Trained:
    """What a run made.

    Attributes:
        model: In evaluation mode.
        config: Of the run.
        score_threshold: The confidence from which its results should count, found on the validation pictures.
        score_thresholds: The same for each class.
    """

    model: Detector
    config: RunConfig
    score_threshold: float
    score_thresholds: tuple[float, ...]


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Trained:
    """The trained network of a checkpoint, ready to predict.

    Args:
        path: A checkpoint, or the run folder that holds it.
        device: Where the network goes.

    Raises:
        CheckpointError: If there is no usable checkpoint.
    """
    file = checkpoint_path(Path(path))
    contents = load_checkpoint(file, device)
    with made_by_this_version(file):
        config = RunConfig.from_dict(contents["config"])
        model = _network_of(config, contents["model"])
        history = contents["progress"]["history"]
        threshold, thresholds = _thresholds(history[-1] if history else {}, len(config.class_names))
    model.to(device)
    return Trained(model.eval(), config, threshold, thresholds)


def _thresholds(row: dict[str, Any], num_classes: int) -> tuple[float, tuple[float, ...]]:
    """The last epoch's thresholds: of all classes together, and of each."""
    # None where no picture was evaluated yet, or none held an object.
    threshold = row.get("best_threshold")
    threshold = _DEFAULT_THRESHOLD if threshold is None else float(threshold)
    by_class = row.get("best_threshold_per_class") or [None] * num_classes
    thresholds = tuple(threshold if one is None else float(one) for one in by_class)
    if len(thresholds) != num_classes or not all(0 <= one <= 1 for one in (threshold, *thresholds)):
        raise ValueError(f"thresholds {threshold}, {thresholds}")
    return threshold, thresholds


def _network_of(config: RunConfig, weights: dict[str, torch.Tensor]) -> Detector:
    """The network with these weights, whose sizes are compared before memory is taken for what the settings say."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build(config.model).state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("the weights are not those of the settings")
    model = build(config.model)
    model.load_state_dict(weights)
    return model


@contextlib.contextmanager
def made_by_this_version(path: Path) -> Iterator[None]:
    """Where the contents of a checkpoint are taken apart: what does not fit becomes a :class:`CheckpointError`."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit this version of tinyssd, another one made it") from error


def checkpoint_path(path: Path) -> Path:
    """The best checkpoint of a run folder, the last where there is no best; a file stands for itself."""
    if not path.is_dir():
        return path
    return path / BEST if (path / BEST).exists() else path / CHECKPOINT
