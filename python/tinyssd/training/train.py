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
"""

from __future__ import annotations

import ctypes
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from tinyssd.data.cache import cached
from tinyssd.data.loader import EpochSampler, Pictures, default_workers, make_loader, to_input
from tinyssd.data.open import open_data
from tinyssd.data.source import Source
from tinyssd.drawing import curves
from tinyssd.errors import DataError, TrainingError
from tinyssd.evaluation.evaluate import evaluate
from tinyssd.files import write_json, write_json_lines
from tinyssd.model.device import pick_device
from tinyssd.run.board import log_epoch
from tinyssd.run.checkpoint import save_checkpoint
from tinyssd.run.config import RunConfig, TrainConfig
from tinyssd.run.folder import BEST, CHECKPOINT, locked
from tinyssd.terminal import say
from tinyssd.training.criterion import batch_loss
from tinyssd.training.interrupt import stop_on_interrupt
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
    settings = config.train
    device = pick_device(settings.device)
    train_source, val_source = sources or open_data(config.data, config.model.image_size, settings.seed)
    if tuple(train_source.class_names) != tuple(config.class_names):
        names = f"{', '.join(train_source.class_names)}, the run has {', '.join(config.class_names)}"
        raise DataError(f"{config.data.name}: has the classes {names}")
    num_pictures = len(train_source)
    train_loader, sampler, val_loader = _loaders(config, train_source, val_source, pin=device.type == "cuda")
    if device.type == "cpu":
        _keep_freed_memory()
    torch.manual_seed(settings.seed)
    steps_per_epoch = len(train_loader)
    state = State.start(config, device, steps_per_epoch)
    model = state.model
    progress = state.restore(run / CHECKPOINT, num_pictures) if resume else Progress()
    if settings.backbone_weights and not resume:
        state.begin_backbone(settings.backbone_weights)
    if settings.init and not resume:
        taken, total = state.begin_with(Path(settings.init), config.class_names)
        say(f"{taken / total:.0%} of the weights are those of {settings.init}")

    with locked(run), stop_on_interrupt() as stop:
        write_json(run / "config.json", config.to_dict())
        while not (progress.is_over(settings) or stop.requested):
            model.train()
            sampler.epoch, sampler.skip = progress.epoch, progress.step * settings.batch_size
            pictures_seen, started = 0, time.perf_counter()
            sums = _Sums(progress, device)
            with _progress_bar(progress, settings, steps_per_epoch) as bar:
                for images, labels in train_loader:
                    images = to_input(images.to(device, non_blocking=True), settings.channels_last)
                    ignored = ignored_boxes(labels).to(device, non_blocking=True)
                    labels = labels.to(device, non_blocking=True)
                    loss, parts = batch_loss(model(images), labels, ignored, config)
                    state.step(loss, settings.clip)

                    progress.step += 1
                    pictures_seen += len(images)
                    sums.add(loss, parts)
                    bar.update(len(images))
                    if progress.step % _STEPS_PER_REPORT == 0:
                        bar.set_postfix(loss=f"{sums.loss.item() / progress.step:.3f}", refresh=False)
                    if stop.requested:
                        break
            sums.read(progress)
            if not math.isfinite(progress.loss_sum):
                raise TrainingError(f"the loss became infinite or NaN in epoch {progress.epoch + 1}; try a lower --lr")
            if progress.step < steps_per_epoch:
                break  # Stopped within the epoch.

            seconds = max(0.0, time.perf_counter() - started)
            metrics = evaluate(state.used, val_loader, device, settings.channels_last, settings.match_iou)
            row = {
                "epoch": progress.epoch + 1,
                "loss": progress.loss_sum / steps_per_epoch,
                **{name: total / steps_per_epoch for name, total in progress.part_sums.items()},
                "learning_rate": state.scheduler.get_last_lr()[0],
                **metrics.to_dict(),
                "seconds": round(seconds, 2),
                "images_per_second": round(pictures_seen / seconds, 1) if seconds else 0.0,
            }
            progress.history.append(row)
            progress.epoch, progress.step, progress.loss_sum, progress.part_sums = progress.epoch + 1, 0, 0.0, {}
            save_checkpoint(run / CHECKPOINT, {**about(progress, config, num_pictures), **state.contents()})
            if progress.best_epoch == progress.epoch:
                best = {**about(progress, config, num_pictures), "model": state.used.state_dict()}
                save_checkpoint(run / BEST, best)
            write_json_lines(run / "metrics.jsonl", progress.history)
            curves.save_curves(progress.history, run / "curves.png")
            log_epoch(run, row, config.class_names)
            say(_epoch_line(row, settings.epochs))
        if not progress.is_over(settings):
            save_checkpoint(run / CHECKPOINT, {**about(progress, config, num_pictures), **state.contents()})
    return progress


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
        progress.loss_sum = self.loss.item()
        progress.part_sums = {name: total.item() for name, total in self.parts.items()}


def _loaders(
    config: RunConfig, train_source: Source, val_source: Source, pin: bool
) -> tuple[DataLoader[tuple[Tensor, Tensor]], EpochSampler, DataLoader[tuple[Tensor, Tensor]]]:
    """Batches to train on, what sets their epoch, and batches to validate on."""
    settings, network = config.train, config.model
    workers = default_workers() if settings.workers is None else settings.workers
    # Enlarged pictures still have a pixel of their own for each of the input's.
    most_pixels = round(network.image_size[0] * network.image_size[1] * max(1.5, config.augment.zoom) ** 2)
    train_pictures = Pictures(
        cached(train_source, most_pixels, workers),
        network.image_size,
        config.augment,
        settings.seed,
        network.keep_shape,
        settings.closing_from,
    )
    train_loader, sampler = make_loader(
        train_pictures,
        settings.batch_size,
        shuffle_seed=settings.seed,
        workers=workers,
        pin_memory=pin,
        passes=settings.passes,
    )
    val_pictures = Pictures(cached(val_source, most_pixels, workers), network.image_size, keep_shape=network.keep_shape)
    val_loader, _ = make_loader(val_pictures, settings.batch_size, workers=workers, pin_memory=pin)
    return train_loader, sampler, val_loader


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
        disable=None,  # Where the output is no terminal.
    )


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    def number(name: str, digits: int) -> str:
        return "-" if row[name] is None else f"{row[name]:.{digits}f}"

    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {number('loss', 3)}  "
        f"class error {row['class_error']:.2e}  offset MAE {number('offset_mae', 3)}  "
        f"AP50 {number('ap50', 3)}  AP {number('ap', 3)}  {row['images_per_second']:.1f} images/s"
    )
