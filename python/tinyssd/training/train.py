"""The training loop.

The recipe of the default network is in :mod:`tinyssd.training.recipe`, and in docs/detector.md with its measurements.
That of the textbook's network is the defaults of :class:`tinyssd.run.config.TrainConfig` and
:class:`tinyssd.model.loss.LossConfig`: AdamW, one cycle, batches of 32, hard negatives 3:1, smooth L1, mirror
images and mild changes of colour; anchors match an object from an IoU of 0.4, and from 0.2 on they are not background
either. Measured on the pikachu set, nine epochs: AP50 0.999 and 1.000, AP 0.579 and 0.607 in two runs; without the
ignored band AP50 0.974, AP 0.635; matching from 0.5 without it AP50 0.970, AP 0.624.

A run folder holds ``config.json``, ``metrics.jsonl`` (one line an epoch), ``curves.png``, ``checkpoint.pt`` and
``best.pt``, the epoch with the best AP. The checkpoint is written after each epoch, and when Ctrl-C asks the run to
stop. What is random depends on the seed and the pass alone, so a resumed run takes the very steps that an uninterrupted
one takes.

Of several processes (:mod:`tinyssd.processes`) each trains on its share of every batch, and the first validates and
writes; the result is that of one process, but for rounding.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tinyssd import processes
from tinyssd.data.loader import to_input
from tinyssd.data.source import Source
from tinyssd.drawing import curves
from tinyssd.errors import TrainingError
from tinyssd.evaluation.evaluate import evaluate
from tinyssd.files import write_json, write_json_lines
from tinyssd.model.batch_norm import share_statistics
from tinyssd.model.device import pick_device
from tinyssd.run.board import log_epoch
from tinyssd.run.checkpoint import save_checkpoint
from tinyssd.run.config import RunConfig, TrainConfig
from tinyssd.run.folder import BEST, CHECKPOINT, locked
from tinyssd.terminal import say
from tinyssd.training.batches import Batches
from tinyssd.training.criterion import batch_loss
from tinyssd.training.interrupt import StopRequest, stop_on_interrupt
from tinyssd.training.state import Progress, State, about
from tinyssd.training.targets import ignored_boxes

# Parameters of glibc's mallopt, from <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

# Reading the loss waits for the device, so the progress bar reads it only so often.
_STEPS_PER_REPORT = 5


def train(config: RunConfig, run: Path, resume: bool = False, sources: tuple[Source, Source] | None = None) -> Progress:
    """Trains a detector.

    Args:
        config: Everything about the run.
        run: The run folder; made if need be.
        resume: Continue from the checkpoint in ``run``.
        sources: The training and the validation pictures; None opens those of ``config``.

    Returns:
        The progress; it ``is_over`` unless Ctrl-C stopped the run.

    Raises:
        DataError: If the data cannot be used.
        CheckpointError: If there is no usable checkpoint to resume from, or the data are not those it was made with.
        TrainingError: If the loss is infinite or NaN.
    """
    training = processes.each(lambda: _Training.begin(config, run, resume, sources))
    progress = training.progress
    with contextlib.ExitStack() as stack:
        processes.from_first(stack.enter_context, locked(run))
        stop = stack.enter_context(stop_on_interrupt())
        processes.from_first(write_json, run / "config.json", config.to_dict())
        while not (progress.is_over(config.train) or processes.any_of(stop.requested)):
            started = time.perf_counter()
            pictures = training.take_steps(stop)
            if progress.step < training.batches.steps:
                break  # Stopped within the epoch.
            seconds = max(0.0, time.perf_counter() - started)
            progress.finish_epoch(processes.from_first(training.validate, pictures, seconds))
            processes.from_first(training.write_epoch)
        if not progress.is_over(config.train):
            processes.from_first(training.save)
    return progress


@dataclass(frozen=True)
class _Training:
    """A run under way.

    Attributes:
        config: Everything about it.
        run: Its folder.
        device: Where the network is.
        batches: Of pictures.
        state: What a step changes.
        network: That of ``state``; of several processes, what makes its gradients those of all their pictures.
        progress: How far it is.
    """

    config: RunConfig
    run: Path
    device: torch.device
    batches: Batches
    state: State
    network: nn.Module
    progress: Progress

    @classmethod
    def begin(cls, config: RunConfig, run: Path, resume: bool, sources: tuple[Source, Source] | None) -> _Training:
        """Arguments as those of :func:`train`."""
        settings = config.train
        device = processes.own_device(pick_device(settings.device))
        batches = Batches.of(config, sources, pin=device.type == "cuda")
        if device.type == "cpu":
            _keep_freed_memory()
        torch.manual_seed(settings.seed)
        state = State.start(config, device, batches.steps)
        progress = state.restore(run / CHECKPOINT, batches.num_pictures) if resume else Progress()
        if settings.backbone_weights and not resume:
            state.begin_backbone(settings.backbone_weights)
        if settings.init and not resume:
            taken, total = state.begin_with(Path(settings.init), config.class_names)
            say(f"{taken / total:.1%} of the weights are those of {settings.init}")
        if processes.count() > 1:
            share_statistics(state.model)
        return cls(config, run, device, batches, state, processes.together(state.model), progress)

    def take_steps(self, stop: StopRequest) -> int:
        """The rest of the epoch, or what comes of it before a request to stop; returns the pictures seen."""
        settings, progress = self.config.train, self.progress
        self.network.train()
        self.batches.begin(progress.epoch, progress.step)
        pictures, sums = 0, _Sums(progress, self.device)
        with _progress_bar(progress, settings, self.batches.steps) as bar:
            for images, labels in self.batches.train:
                images = to_input(images.to(self.device, non_blocking=True), settings.channels_last)
                ignored = ignored_boxes(labels).to(self.device, non_blocking=True)
                labels = labels.to(self.device, non_blocking=True)
                loss, parts = batch_loss(self.network(images), labels, ignored, self.config)
                self.state.step(loss, settings.clip)

                progress.step += 1
                step_pictures = len(images) * processes.count()
                pictures += step_pictures
                sums.add(loss, parts)
                bar.update(step_pictures)
                if progress.step % _STEPS_PER_REPORT == 0:
                    bar.set_postfix(loss=f"{sums.loss.item() / progress.step:.3f}", refresh=False)
                if processes.any_of(stop.requested):
                    break
        sums.read(progress)
        processes.from_first(self.expect_finite_loss)
        return pictures

    def expect_finite_loss(self) -> None:
        """Raises :class:`TrainingError` where it is not."""
        if not math.isfinite(self.progress.loss_sum):
            raise TrainingError(f"the loss became infinite or NaN in epoch {self.progress.epoch + 1}; try a lower --lr")

    def validate(self, pictures: int, seconds: float) -> dict[str, Any]:
        """The row of metrics of the epoch whose steps are done.

        Args:
            pictures: Seen in the epoch.
            seconds: That it took.
        """
        settings, progress = self.config.train, self.progress
        metrics = evaluate(self.state.used, self.batches.val, self.device, settings.channels_last, settings.match_iou)
        return {
            "epoch": progress.epoch + 1,
            "loss": progress.loss_sum / progress.step,
            **{name: total / progress.step for name, total in progress.part_sums.items()},
            "learning_rate": self.state.scheduler.get_last_lr()[0],
            **metrics.to_dict(),
            "seconds": round(seconds, 2),
            "images_per_second": round(pictures / seconds, 1) if seconds else 0.0,
        }

    def save(self) -> None:
        """Writes the checkpoint from which the run can go on."""
        save_checkpoint(self.run / CHECKPOINT, {**self._about(), "job": processes.job(), **self.state.contents()})

    def write_epoch(self) -> None:
        """Writes and says what the epoch that has just ended came to."""
        row = self.progress.history[-1]
        self.save()
        if self.progress.best_epoch == self.progress.epoch:
            save_checkpoint(self.run / BEST, {**self._about(), "model": self.state.used.state_dict()})
        write_json_lines(self.run / "metrics.jsonl", self.progress.history)
        curves.save_curves(self.progress.history, self.run / "curves.png")
        log_epoch(self.run, row, self.config.class_names)
        say(_epoch_line(row, self.config.train.epochs))

    def _about(self) -> dict[str, Any]:
        return about(self.progress, self.config, self.batches.num_pictures)


class _Sums:
    """Of the losses of an epoch and of their parts, kept on the device: reading them waits for it."""

    def __init__(self, progress: Progress, device: torch.device) -> None:
        self.loss = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
        self.parts = {name: self.loss.new_tensor(total) for name, total in progress.part_sums.items()}

    def add(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        self.loss += loss.detach()
        for name, part in parts.items():
            self.parts[name] = self.parts.get(name, torch.zeros_like(self.loss)) + part.detach()

    def read(self, progress: Progress) -> None:
        """Their means over the processes become those of the progress."""
        progress.loss_sum = processes.summed(self.loss).item() / processes.count()
        progress.part_sums = {
            name: processes.summed(total).item() / processes.count() for name, total in self.parts.items()
        }


def _keep_freed_memory() -> None:
    """Stops glibc from handing the memory of every step's tensors back to the system, to be fetched page by page again.

    Measured on two cores: a step at 256 pixels takes a quarter less time. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def _progress_bar(progress: Progress, settings: TrainConfig, steps: int) -> tqdm[Any]:
    return tqdm(
        desc=f"epoch {progress.epoch + 1}/{settings.epochs}",
        total=steps * settings.batch_size,
        initial=progress.step * settings.batch_size,
        unit=" images",
        leave=False,
        dynamic_ncols=True,
        disable=None if processes.is_first() else True,  # None: where the output is no terminal.
    )


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    def number(name: str, digits: int) -> str:
        return "-" if row[name] is None else f"{row[name]:.{digits}f}"

    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {number('loss', 3)}  "
        f"class error {row['class_error']:.2e}  offset MAE {number('offset_mae', 3)}  "
        f"AP50 {number('ap50', 3)}  AP {number('ap', 3)}  {row['images_per_second']:.1f} images/s"
    )
