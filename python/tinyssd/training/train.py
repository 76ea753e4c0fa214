"""The training loop.

The default recipe (:class:`tinyssd.run.config.TrainConfig`, :class:`tinyssd.model.loss.LossConfig`): AdamW, a one-cycle
schedule, batches of 32, hard negatives 3:1, smooth L1, mirror images and mild changes of colour; anchors match an
object from an IoU of 0.4, and from 0.2 on they are not background either. Measured on the pikachu set, nine epochs:
AP50 0.999 and 1.000, AP 0.579 and 0.607 in two runs; without the ignored band AP50 0.974, AP 0.635; matching from 0.5
without it AP50 0.970, AP 0.624.

A run folder holds ``config.json``, ``metrics.jsonl`` (one line an epoch), ``curves.png`` and ``checkpoint.pt``. The
checkpoint is written after each epoch, and when Ctrl-C asks the run to stop. What is random depends on the seed and the
epoch alone, so a resumed run takes the very steps that an uninterrupted one takes.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from tinyssd.data.loader import Pictures, default_workers, make_loader, to_input
from tinyssd.data.open import open_data
from tinyssd.data.source import Source
from tinyssd.drawing import curves
from tinyssd.errors import CheckpointError, DataError, TrainingError
from tinyssd.evaluation.evaluate import evaluate
from tinyssd.files import write_json, write_json_lines
from tinyssd.model.device import pick_device
from tinyssd.model.loss import detection_loss
from tinyssd.model.network import TinySSD
from tinyssd.run.board import log_epoch
from tinyssd.run.checkpoint import load_checkpoint, made_by_this_version, save_checkpoint
from tinyssd.run.config import RunConfig, TrainConfig
from tinyssd.run.folder import CHECKPOINT, locked
from tinyssd.terminal import say
from tinyssd.training.interrupt import stop_on_interrupt
from tinyssd.training.targets import ignored_boxes, make_targets

# Parameters of glibc's mallopt, from <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

# Reading the loss waits for the device, so the progress bar reads it only so often.
_STEPS_PER_REPORT = 5


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch: The epoch that is under way, from 0.
        step: Steps taken in it.
        loss_sum: Of the losses of these steps.
        history: One row of metrics for each finished epoch.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(config: RunConfig, run: Path, resume: bool = False, sources: tuple[Source, Source] | None = None) -> Progress:
    """Trains a detector.

    Args:
        config: Everything about the run.
        run: The run folder; made if need be.
        resume: Continue from the checkpoint in ``run``.
        sources: The training and the validation pictures; None opens those of ``config``.

    Returns:
        The progress; its ``epoch`` is less than ``config.train.epochs`` if Ctrl-C stopped the run.

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
    workers = default_workers() if settings.workers is None else settings.workers
    pin = device.type == "cuda"
    train_loader, sampler = make_loader(
        Pictures(train_source, config.model.image_size, config.augment, settings.seed),
        settings.batch_size,
        shuffle_seed=settings.seed,
        workers=workers,
        pin_memory=pin,
    )
    val_loader, _ = make_loader(
        Pictures(val_source, config.model.image_size), settings.batch_size, workers=workers, pin_memory=pin
    )

    if device.type == "cpu":
        _keep_freed_memory()
    torch.manual_seed(settings.seed)
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    model = TinySSD.from_config(config.model).to(device)
    model.to(memory_format=memory_format)  # type: ignore[call-overload]  # An overload that torch leaves untyped.
    optimizer = AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps_per_epoch = len(train_loader)
    scheduler = _schedule(optimizer, settings, settings.epochs * steps_per_epoch)
    num_pictures = len(train_source)
    progress = _restore(run / CHECKPOINT, model, optimizer, scheduler, num_pictures) if resume else Progress()

    def save() -> None:
        states = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        }
        about = {"config": config.to_dict(), "progress": dataclasses.asdict(progress), "pictures": num_pictures}
        save_checkpoint(run / CHECKPOINT, {**about, **states})

    with locked(run), stop_on_interrupt() as stop:
        write_json(run / "config.json", config.to_dict())
        while progress.epoch < settings.epochs and not stop.requested:
            model.train()
            sampler.epoch, sampler.skip = progress.epoch, progress.step * settings.batch_size
            pictures_seen, started = 0, time.perf_counter()
            loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
            with _progress_bar(progress, config.train, steps_per_epoch) as bar:
                for images, labels in train_loader:
                    images = to_input(images.to(device, non_blocking=True), settings.channels_last)
                    ignored = ignored_boxes(labels).to(device, non_blocking=True)
                    labels = labels.to(device, non_blocking=True)
                    anchors, scores, offsets = model(images)
                    offset_targets, mask, classes = make_targets(anchors, labels, settings, ignored)
                    loss = detection_loss(scores, offsets, classes, offset_targets, mask, config.loss).mean()
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    scheduler.step()

                    progress.step += 1
                    pictures_seen += len(images)
                    loss_sum += loss.detach()
                    bar.update(len(images))
                    if progress.step % _STEPS_PER_REPORT == 0:
                        bar.set_postfix(loss=f"{loss_sum.item() / progress.step:.3f}", refresh=False)
                    if stop.requested:
                        break
            progress.loss_sum = loss_sum.item()
            if not math.isfinite(progress.loss_sum):
                raise TrainingError(f"the loss became infinite or NaN in epoch {progress.epoch + 1}; try a lower --lr")
            if progress.step < steps_per_epoch:
                break  # Stopped within the epoch.

            seconds = time.perf_counter() - started
            metrics = evaluate(model, val_loader, device, settings.channels_last, settings.match_iou)
            row = {
                "epoch": progress.epoch + 1,
                "loss": progress.loss_sum / steps_per_epoch,
                **metrics.to_dict(),
                "seconds": round(seconds, 2),
                "images_per_second": round(pictures_seen / seconds, 1),
            }
            progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
            progress.history.append(row)
            save()
            write_json_lines(run / "metrics.jsonl", progress.history)
            curves.save_curves(progress.history, run / "curves.png")
            log_epoch(run, row, config.class_names)
            say(_epoch_line(row, settings.epochs))
        if progress.epoch < settings.epochs:
            save()
    return progress


def _schedule(optimizer: AdamW, settings: TrainConfig, steps: int) -> OneCycleLR:
    # Torch divides by zero where the rate is to rise for exactly one step.
    warmup = settings.warmup if abs(settings.warmup * steps - 1) > 1e-6 else 1.5 / steps
    return OneCycleLR(optimizer, settings.learning_rate, steps, pct_start=warmup)


def _restore(path: Path, model: TinySSD, optimizer: AdamW, scheduler: OneCycleLR, num_pictures: int) -> Progress:
    """Puts the states of a checkpoint into the three; returns how far the run was.

    The schedule keeps its own length: where the run is to have more epochs now, the rate is that of such a run.
    """
    contents = load_checkpoint(path, model.anchors.device)
    with made_by_this_version(path):
        pictures = contents["pictures"]
        model.load_state_dict(contents["model"])
        optimizer.load_state_dict(contents["optimizer"])
        length = ("total_steps", "_schedule_phases")
        scheduler.load_state_dict({k: v for k, v in contents["scheduler"].items() if k not in length})
        progress = Progress(**contents["progress"])
    if pictures != num_pictures:
        raise CheckpointError(
            f"{path}: cannot go on: the run had {pictures} training pictures, the data set has {num_pictures} now; "
            "start a new run"
        )
    return progress


def _keep_freed_memory() -> None:
    """Stops glibc from handing the memory of every step's tensors back to the system, to be fetched page by page again.

    Measured on two cores: a step at 256 pixels takes a quarter less time. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def _progress_bar(progress: Progress, settings: TrainConfig, steps: int) -> tqdm:
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
