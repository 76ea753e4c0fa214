"""Everything that decides what a run does, as it is kept in ``config.json`` and in the checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyssd.data.augment import AugmentConfig
from tinyssd.data.config import SEED_LIMIT, DataConfig
from tinyssd.errors import ConfigError
from tinyssd.model.loss import LossConfig
from tinyssd.model.network import TinySSDConfig


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained. The defaults are the recipe that was measured; see :mod:`tinyssd.training.train`.

    Attributes:
        epochs: Passes over the training pictures.
        batch_size: Pictures a step.
        learning_rate: The peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        warmup: The share of the steps in which the learning rate rises.
        match_iou: The IoU from which an anchor belongs to an object.
        ignore_iou: The IoU from which an anchor that belongs to none is not background either. At ``match_iou`` or
            above it all others are background.
        seed: Of the weights, the order and the augmentation.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        workers: Processes that read pictures; None chooses by the number of cores.
        channels_last: Keep the channels of a pixel side by side in memory.
    """

    epochs: int = 9
    batch_size: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3
    warmup: float = 0.25
    match_iou: float = 0.4
    ignore_iou: float = 0.2
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(f"epochs, batch size: expected at least 1, got {self.epochs}, {self.batch_size}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning rate: expected a positive number, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight decay: expected a number from 0, got {self.weight_decay}")
        if not all(0 <= share <= 1 for share in (self.warmup, self.match_iou, self.ignore_iou)):
            shares = f"{self.warmup}, {self.match_iou}, {self.ignore_iou}"
            raise ConfigError(f"warmup, match_iou, ignore_iou: expected numbers from 0 to 1, got {shares}")
        if not 0 <= self.seed < SEED_LIMIT:
            raise ConfigError(f"seed: expected at least 0 and less than {SEED_LIMIT}, got {self.seed}")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers: expected at least 0, got {self.workers}")


@dataclass(frozen=True)
class RunConfig:
    """A whole run. ``class_names`` leaves background out: class 1 of the network is ``class_names[0]``."""

    class_names: tuple[str, ...]
    model: TinySSDConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, tuples, numbers and strings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_dict`."""
        return cls(
            class_names=tuple(values["class_names"]),
            model=TinySSDConfig(**values["model"]),
            data=DataConfig(**values["data"]),
            train=TrainConfig(**values["train"]),
            loss=LossConfig(**values["loss"]),
            augment=AugmentConfig(**values["augment"]),
        )


def read_config_file(path: Path) -> dict[str, dict[str, Any]]:
    """Sections of a ``config.json``, lists as tuples; ``class_names`` is left out, the data decide it.

    Raises:
        ConfigError: If the file is no such JSON, names a setting that does not exist, or gives one a value of the
            wrong kind.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    sections = {
        "model": TinySSDConfig,
        "data": DataConfig,
        "train": TrainConfig,
        "loss": LossConfig,
        "augment": AugmentConfig,
    }
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected an object with the sections {', '.join(sections)}")
    found = {}
    for name, settings in values.items():
        if name == "class_names":
            continue
        if name not in sections or not isinstance(settings, dict):
            raise ConfigError(f"{path}: expected objects named {', '.join(sections)}, got {name!r}")
        known = {field.name: field.default for field in dataclasses.fields(sections[name])}
        unknown = sorted(set(settings) - known.keys())
        if unknown:
            raise ConfigError(f"{path}: {name} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        found[name] = {key: _as_tuple(value) for key, value in settings.items()}
        for key, value in found[name].items():
            if not _same_kind(value, known[key]):
                raise ConfigError(f"{path}: {name}.{key} has a value of the wrong kind: {json.dumps(value)}")
    return found


def _same_kind(value: Any, default: Any) -> bool:
    """Whether ``value`` may stand in place of ``default``."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_same_kind(item, default[0]) for item in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, str):
        return isinstance(value, str)
    return isinstance(value, int) or (value is None and not isinstance(default, int))


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
