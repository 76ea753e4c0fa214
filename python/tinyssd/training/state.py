"""Where a run is, and all that a checkpoint needs to go on from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from tinyssd.errors import CheckpointError, ConfigError
from tinyssd.model.backbone import TimmBackbone
from tinyssd.model.build import build
from tinyssd.model.detector import Detector
from tinyssd.model.pyramid import PyramidSSD
from tinyssd.run.checkpoint import load_checkpoint, load_model, made_by_this_version
from tinyssd.run.config import RunConfig, TrainConfig
from tinyssd.training.average import Average


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch: The epoch that is under way, from 0.
        step: Steps taken in it.
        loss_sum: Of the losses of these steps.
        history: One row of metrics for each finished epoch.
        part_sums: Of the parts of the losses of these steps.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    part_sums: dict[str, float] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """The number, from 1, of the finished epoch with the best AP; of equal ones the last. 0: there is none."""
        return max(self.history, key=lambda row: (row["ap"] or 0, row["epoch"]))["epoch"] if self.history else 0

    def is_over(self, settings: TrainConfig) -> bool:
        """Whether all epochs are done, or AP has stopped rising."""
        stale = settings.patience > 0 and len(self.history) - self.best_epoch >= settings.patience
        return self.epoch >= settings.epochs or stale

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Takes up the metrics of the epoch under way and goes on to the next."""
        self.history.append(row)
        self.epoch, self.step, self.loss_sum, self.part_sums = self.epoch + 1, 0, 0.0, {}


@dataclass
class State:
    """What a step changes.

    Attributes:
        model: The network in training.
        average: The running average of its weights, which is what is used.
        optimizer: Of the network.
        scheduler: Of the learning rate.
    """

    model: Detector
    average: Average
    optimizer: AdamW
    scheduler: OneCycleLR

    @property
    def used(self) -> Detector:
        """The network with the average's weights."""
        return self.average.network

    @classmethod
    def start(cls, config: RunConfig, device: torch.device, steps_per_epoch: int) -> State:
        """A network with fresh weights, and the rest."""
        settings = config.train
        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        model = build(config.model).to(device)
        model.to(memory_format=memory_format)  # type: ignore[call-overload]  # An overload that torch leaves untyped.
        # Fused: a call of its own for each tensor takes longer than a small network's arithmetic.
        optimizer = AdamW(_groups(model, settings.weight_decay), lr=settings.learning_rate, fused=True)
        scheduler = _schedule(optimizer, settings, settings.epochs * steps_per_epoch)
        return cls(model, Average(model, settings.ema), optimizer, scheduler)

    def begin_backbone(self, source: str) -> None:
        """Gives the backbone the weights that ``backbone_weights`` of the configuration names.

        Raises:
            BackboneError: If they cannot be had.
            ConfigError: If the network has no backbone of timm.
        """
        backbone = getattr(self.model, "backbone", None)
        if not isinstance(backbone, TimmBackbone):
            raise ConfigError(f"backbone_weights: {source} is given, but no backbone of timm")
        backbone.begin_with(source)
        self.used.load_state_dict(self.model.state_dict())

    def begin_with(self, path: Path, class_names: Sequence[str]) -> tuple[int, int]:
        """Takes the weights of another run where they fit; those of a class that both know go by its name.

        Args:
            path: A run folder or a checkpoint.
            class_names: The classes of this run.

        Returns:
            How many numbers were taken, and how many there are.

        Raises:
            CheckpointError: If there is no usable checkpoint.
            ConfigError: If its network has another backbone.
        """
        other = load_model(path)
        mine, its = (getattr(network.config, "backbone", "") for network in (self.model, other.model))
        if mine != its:
            option = f"with --backbone {its}" if its else "without --backbone"
            raise ConfigError(f"--init {path}: its network has {its or 'the default'} as backbone; train {option}")
        known = {name: k for k, name in enumerate(other.config.class_names)}
        pairs = [(k, known[name]) for k, name in enumerate(class_names) if name in known]
        theirs = other.model.state_dict()
        taken = total = 0
        with torch.no_grad():
            for name, own in self.model.state_dict().items():
                total += own.numel()
                found = theirs.get(name)
                if found is None or found.shape[1:] != own.shape[1:]:
                    continue
                if _is_class_head(name, self.model) and _is_class_head(name, other.model):
                    taken += _take_classes(own, found, pairs, len(class_names), len(other.config.class_names))
                elif found.shape == own.shape:
                    own.copy_(found)
                    taken += own.numel()
        self.used.load_state_dict(self.model.state_dict())
        return taken, total

    def step(self, loss: torch.Tensor, clip: float) -> None:
        """One step down the slope of ``loss``."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.scheduler.step()
        self.average.update()

    def contents(self) -> dict[str, Any]:
        """What a checkpoint holds of it; "model" is what is used."""
        return {
            "model": self.used.state_dict(),
            "trained": self.model.state_dict(),
            "averaged": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def restore(self, path: Path, num_pictures: int) -> Progress:
        """Puts what a checkpoint holds in place; returns how far the run was.

        The schedule keeps its own length: where the run is to have more epochs now, the rate is that of such a run.
        """
        contents = load_checkpoint(path, self.model.anchors.device)
        with made_by_this_version(path):
            pictures = contents["pictures"]
            self.used.load_state_dict(contents["model"])
            # Versions before the average had only one network.
            self.model.load_state_dict(contents.get("trained", contents["model"]))
            self.average.steps = int(contents.get("averaged", 0))
            self.optimizer.load_state_dict(contents["optimizer"])
            length = ("total_steps", "_schedule_phases")
            self.scheduler.load_state_dict({k: v for k, v in contents["scheduler"].items() if k not in length})
            progress = Progress(**contents["progress"])
        if pictures != num_pictures:
            raise CheckpointError(
                f"{path}: cannot go on: the run had {pictures} training pictures, the data set has {num_pictures} now; "
                "start a new run"
            )
        return progress


def _is_class_head(name: str, model: Detector) -> bool:
    """Whether these are the last weights of a tower that scores: a row for each class of each anchor."""
    return isinstance(model, PyramidSSD) and name.startswith("class_heads.") and name.split(".")[2] == "1"


def _take_classes(
    own: torch.Tensor, found: torch.Tensor, pairs: Sequence[tuple[int, int]], classes: int, their_classes: int
) -> int:
    """Copies the rows of the classes that both know, for each anchor that both have; returns how many numbers."""
    mine, others = own.unflatten(0, (-1, classes)), found.unflatten(0, (-1, their_classes))
    anchors = min(len(mine), len(others))
    for k, other in pairs:
        mine[:anchors, k] = others[:anchors, other]
    return sum(mine[:anchors, k].numel() for k, _ in pairs)


def about(progress: Progress, config: RunConfig, num_pictures: int) -> dict[str, Any]:
    """What a checkpoint holds besides."""
    return {"config": config.to_dict(), "progress": dataclasses.asdict(progress), "pictures": num_pictures}


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The weights of convolutions, which decay, and scales and biases, which do not."""
    decaying = [one for one in model.parameters() if one.dim() > 1]
    others = [one for one in model.parameters() if one.dim() <= 1]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _schedule(optimizer: AdamW, settings: TrainConfig, steps: int) -> OneCycleLR:
    # Torch divides by zero where the rate is to rise for exactly one step.
    warmup = settings.warmup if abs(settings.warmup * steps - 1) > 1e-6 else 1.5 / steps
    return OneCycleLR(optimizer, settings.learning_rate, steps, pct_start=warmup)
