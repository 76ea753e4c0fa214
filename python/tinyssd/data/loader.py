"""Batches of a source's pictures at the size of the network.

A data set gives ``(image, labels)``: a uint8 tensor [3, H, W] of the configured size, and float32 [G, 5] rows
``(class, x1, y1, x2, y2)``, classes from 0, coordinates as shares of the picture (0..1). A batch stacks them, the
labels padded to one G with rows of class -1.

Everything random is drawn from ``(seed, pass, index)``. So an epoch is the same however many workers make it, and a
run that was interrupted continues exactly, with no generator's state to keep.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tinyssd.data.augment import AugmentConfig, augmented
from tinyssd.data.place import on_input
from tinyssd.data.source import Example, Source
from tinyssd.processes import make_room_for_sockets

# After SIGTERM a worker goes on for so long.
_SECONDS_TO_END = 10


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """The examples of a source at the size of the network, augmented where asked.

    Args:
        source: Where the examples come from.
        image_size: Height and width of the tensors in pixels.
        augment: How pictures vary; None leaves them as they are.
        seed: Seed of the augmentation.
        keep_shape: As in :func:`tinyssd.data.place.fitted`.
        closing_from: The epoch from which pictures vary as :meth:`AugmentConfig.closing` says; None: never.
    """

    def __init__(
        self,
        source: Source,
        image_size: tuple[int, int],
        augment: AugmentConfig | None = None,
        seed: int = 0,
        keep_shape: bool = False,
        closing_from: int | None = None,
    ) -> None:
        self.source, self.image_size, self.augment, self.seed = source, image_size, augment, seed
        self.keep_shape, self.closing_from = keep_shape, closing_from

    def __len__(self) -> int:
        return len(self.source)

    @property
    def max_boxes(self) -> int:
        """The most objects of a picture as it is given."""
        return self.source.max_boxes * (4 if self.augment is not None and self.augment.mosaic > 0 else 1)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The example for ``(epoch, index)``: uint8 [3, H, W] and float32 [G, 5]."""
        epoch, index = key
        example = self._whole(epoch, index) if self.augment is None else self._varied(self.augment, epoch, index)
        pixels = np.array(example.image)
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(example.labels)

    def _whole(self, epoch: int, index: int) -> Example:
        example = self.source.example(index, epoch)
        image, place = on_input(example.image, self.image_size, self.keep_shape)
        boxes = place.onto(example.labels[:, 1:], image.size)
        return Example(image, np.concatenate((example.labels[:, :1], boxes), axis=1))

    def _varied(self, augment: AugmentConfig, epoch: int, index: int) -> Example:
        random = np.random.default_rng((self.seed, epoch, index))
        if self.closing_from is not None and epoch >= self.closing_from:
            augment = augment.closing()
        indices = [index]
        if augment.mosaic > 0 and random.random() < augment.mosaic:
            indices += random.integers(len(self), size=3).tolist()
        examples = [self.source.example(one, epoch) for one in indices]
        return augmented(examples, (self.image_size[1], self.image_size[0]), self.keep_shape, augment, random)


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys ``(pass, index)`` of one epoch, shuffled by the seed and the pass; ``skip`` leaves out the first ones.

    An epoch goes ``passes`` times through the pictures: with few of them, one pass is too short to be worth a
    validation. Passes are counted through all epochs. ``share`` says which of several processes this is, and how many
    there are: each gets an equal share of any batch that is a multiple of them.
    """

    def __init__(self, length: int, seed: int | None, passes: int = 1, share: tuple[int, int] = (0, 1)) -> None:
        self.length, self.seed, self.passes, self.epoch, self.skip = length, seed, passes, 0, 0
        self.share = share

    def __len__(self) -> int:
        return (self.length * self.passes - self.skip) // self.share[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        keys = []
        for number in range(self.epoch * self.passes, (self.epoch + 1) * self.passes):
            order = np.arange(self.length)
            if self.seed is not None:
                np.random.default_rng((self.seed, number)).shuffle(order)
            keys += [(number, int(index)) for index in order]
        first, processes = self.share
        return iter(keys[self.skip + first :: processes][: len(self)])


def make_loader(
    pictures: Pictures,
    batch_size: int,
    shuffle_seed: int | None = None,
    workers: int = 0,
    pin_memory: bool = False,
    passes: int = 1,
    share: tuple[int, int] = (0, 1),
) -> tuple[DataLoader[tuple[Tensor, Tensor]], EpochSampler]:
    """Batches ``(images uint8 [B, 3, H, W], labels float32 [B, G, 5])``, and the sampler that sets the epoch.

    Shuffled batches are all of one size: the rest of an epoch is left out, another rest in each epoch.

    Args:
        pictures: The examples.
        batch_size: B, of all processes together.
        shuffle_seed: Seed of the order; None keeps the order of the source.
        workers: Processes that read pictures; 0 reads them in this one.
        pin_memory: For copies to a CUDA device that do not block.
        passes: As in :class:`EpochSampler`.
        share: Likewise; the batches of a process are its shares.
    """
    if workers > 0:
        make_room_for_sockets()
    sampler = EpochSampler(len(pictures), shuffle_seed, passes, share)
    batch_size //= share[1]
    loader = DataLoader(
        pictures,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=shuffle_seed is not None and len(sampler) >= batch_size,
        num_workers=workers,
        collate_fn=_Collate(pictures.max_boxes),
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals_to_the_main_process,
        pin_memory=pin_memory,
    )
    return loader, sampler


def default_workers(trainings: int = 1) -> int:
    """Processes that keep each of so many trainings on this machine busy without taking their cores."""
    return min(4, max(1, (os.cpu_count() or 2) // (2 * trainings)))


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
    # What a terminal sends reaches every process of it; the main one decides when the workers stop.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # SIGTERM is how the main one ends a worker that does not end by itself, but service managers and batch systems send
    # it to all at once, and then a step still wants its pictures.
    delayed = hasattr(signal, "alarm")
    signal.signal(signal.SIGTERM, _end_soon if delayed else signal.SIG_DFL)


def _end_soon(number: int, frame: object) -> None:
    signal.alarm(_SECONDS_TO_END)
