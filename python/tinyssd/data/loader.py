"""Batches of a source's pictures at the size of the network.

A data set gives ``(image, labels)``: a uint8 tensor [3, H, W] of the configured size, and float32 [G, 5] rows
``(class, x1, y1, x2, y2)``, classes from 0, coordinates as shares of the picture (0..1). A batch stacks them, the
labels padded to one G with rows of class -1.

Everything random is drawn from ``(seed, epoch, index)``. So an epoch is the same however many workers make it, and a
run that was interrupted continues exactly, with no generator's state to keep.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tinyssd.data.augment import AugmentConfig, augmented
from tinyssd.data.source import Source


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """The examples of a source at the size of the network, augmented where asked.

    Args:
        source: Where the examples come from.
        image_size: Height and width of the tensors in pixels.
        augment: How pictures vary; None leaves them as they are.
        seed: Seed of the augmentation.
    """

    def __init__(
        self, source: Source, image_size: tuple[int, int], augment: AugmentConfig | None = None, seed: int = 0
    ) -> None:
        self.source, self.image_size, self.augment, self.seed = source, image_size, augment, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The example for ``(epoch, index)``: uint8 [3, H, W] and float32 [G, 5]."""
        epoch, index = key
        example = self.source.example(index, epoch)
        height, width = self.image_size
        if self.augment is not None:
            example = augmented(example, self.augment, np.random.default_rng((self.seed, epoch, index)))
        pixels = np.array(example.image.resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(example.labels)


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys ``(epoch, index)`` of one epoch, shuffled by the seed and the epoch; ``skip`` leaves out the first ones."""

    def __init__(self, length: int, seed: int | None) -> None:
        self.length, self.seed, self.epoch, self.skip = length, seed, 0, 0

    def __len__(self) -> int:
        return self.length - self.skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        return ((self.epoch, int(index)) for index in order[self.skip :])


def make_loader(
    pictures: Pictures,
    batch_size: int,
    shuffle_seed: int | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> tuple[DataLoader[tuple[Tensor, Tensor]], EpochSampler]:
    """Batches ``(images uint8 [B, 3, H, W], labels float32 [B, G, 5])``, and the sampler that sets the epoch.

    Shuffled batches are all of one size: the rest of an epoch is left out, another rest in each epoch.

    Args:
        pictures: The examples.
        batch_size: B.
        shuffle_seed: Seed of the order; None keeps the order of the source.
        workers: Processes that read pictures; 0 reads them in this one.
        pin_memory: For copies to a CUDA device that do not block.
    """
    sampler = EpochSampler(len(pictures), shuffle_seed)
    loader = DataLoader(
        pictures,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=shuffle_seed is not None and len(pictures) >= batch_size,
        num_workers=workers,
        collate_fn=_Collate(pictures.source.max_boxes),
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals_to_the_main_process,
        pin_memory=pin_memory,
    )
    return loader, sampler


def default_workers() -> int:
    """Processes that keep the training busy without taking its cores."""
    return min(4, max(1, (os.cpu_count() or 2) // 2))


def to_input(images: Tensor, channels_last: bool = False) -> Tensor:
    """Pixels, uint8 [B, 3, H, W], as the network wants them: float32, 0..255 becomes -1..1."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(memory_format=memory_format).float().div_(127.5).sub_(1)


@dataclass(frozen=True)
class _Collate:
    """Stacks examples and pads their labels to one number of rows. A class, so that a worker can be spawned."""

    max_boxes: int

    def __call__(self, examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        padded = torch.full((len(examples), self.max_boxes, 5), -1.0)
        for row, (_, labels) in zip(padded, examples, strict=True):
            row[: len(labels)] = labels
        return torch.stack([image for image, _ in examples]), padded


def _leave_signals_to_the_main_process(worker: int) -> None:
    # What a terminal sends reaches every process of it; the main one decides when the workers stop, and ends them by
    # SIGTERM, for which a forked worker would otherwise have the main one's handler.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
