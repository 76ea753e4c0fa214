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
from tinyssd.model.backbone import PRETRAINED
from tinyssd.model.build import ModelConfig, config_type
from tinyssd.model.loss import LossConfig
from tinyssd.model.pyramid import PyramidConfig


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained. The defaults are the recipe that was measured; see :mod:`tinyssd.training.train`.

    Attributes:
        epochs: Parts of the training, each followed by a validation.
        passes: How often an epoch goes through the training pictures.
        batch_size: Pictures a step.
        learning_rate: The peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        warmup: The share of the steps in which the learning rate rises.
        clip: The largest norm of a step's gradient; longer ones are cut to it. 0: none is.
        ema: How much of the average of the weights is kept in a step; the average is what is validated and used. 0: no
            average.
        closing: The share of the epochs, at the end, in which pictures vary less.
        patience: Epochs without a better AP after which the training ends. 0: it never does.
        match_iou: The IoU from which an anchor belongs to an object.
        ignore_iou: The IoU from which an anchor that belongs to none is not background either. At ``match_iou`` or
            above it all others are background.
        init: The run whose weights this one begins with, where they fit; empty: fresh ones.
        backbone_weights: What a backbone of timm begins with: "pretrained" (as timm has them), a file, or empty: fresh
            weights.
        seed: Of the weights, the order and the augmentation.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        workers: Processes that read pictures; None chooses by the number of cores.
        channels_last: Keep the channels of a pixel side by side in memory.
    """

    epochs: int = 9
    passes: int = 1
    batch_size: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3
    warmup: float = 0.25
    clip: float = 0.0
    ema: float = 0.0
    closing: float = 0.0
    patience: int = 0
    match_iou: float = 0.4
    ignore_iou: float = 0.2
    init: str = ""
    backbone_weights: str = ""
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    channels_last: bool = True

    def __post_init__(self) -> None:
        if min(self.epochs, self.passes, self.batch_size) < 1:
            numbers = f"{self.epochs}, {self.passes}, {self.batch_size}"
            raise ConfigError(f"epochs, passes, batch size: expected at least 1, got {numbers}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning rate: expected a positive number, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight decay: expected a number from 0, got {self.weight_decay}")
        shares = (self.warmup, self.closing, self.match_iou, self.ignore_iou)
        if not all(0 <= share <= 1 for share in shares):
            names = "warmup, closing, match_iou, ignore_iou"
            raise ConfigError(f"{names}: expected numbers from 0 to 1, got {', '.join(map(str, shares))}")
        if not (0 <= self.ema < 1 and 0 <= self.clip < math.inf and self.patience >= 0):
            three = f"{self.ema}, {self.clip}, {self.patience}"
            raise ConfigError(f"ema, clip, patience: expected ema below 1 and none below 0, got {three}")
        if not 0 <= self.seed < SEED_LIMIT:
            raise ConfigError(f"seed: expected at least 0 and less than {SEED_LIMIT}, got {self.seed}")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers: expected at least 0, got {self.workers}")

    @property
    def closing_from(self) -> int | None:
        """The pass, counted from 0, from which pictures vary less; None: never."""
        first = self.epochs - round(self.closing * self.epochs)
        return first * self.passes if first < self.epochs else None


@dataclass(frozen=True)
class RunConfig:
    """A whole run. ``class_names`` leaves background out: class 1 of the network is ``class_names[0]``."""

    class_names: tuple[str, ...]
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def backbone(self) -> str:
        """For people: the backbone of timm and what it began with; empty where the network's own is trained."""
        name = self.model.backbone if isinstance(self.model, PyramidConfig) else ""
        source = self.train.backbone_weights or self.train.init
        if not name:
            return ""
        return f"{name} ({source if source == PRETRAINED else f'weights of {source}' if source else 'random weights'})"

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, tuples, numbers and strings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_dict`."""
        return cls(
            class_names=tuple(values["class_names"]),
            model=config_type(values["model"])(**values["model"]),
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
    if not isinstance(values, dict):
        values = {"": None}
    network = values.get("model")
    sections = {
        "model": config_type(network if isinstance(network, dict) else {}),
        "data": DataConfig,
        "train": TrainConfig,
        "loss": LossConfig,
        "augment": AugmentConfig,
    }
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
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(default, str):
        return isinstance(value, str)
    return isinstance(value, int) or (value is None and not isinstance(default, int))


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
