"""The pictures of a run as batches: to train on, and to validate on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import DataLoader

from tinyssd import processes
from tinyssd.data.cache import cached
from tinyssd.data.loader import EpochSampler, Pictures, default_workers, make_loader
from tinyssd.data.open import open_data
from tinyssd.data.source import Source
from tinyssd.errors import ConfigError, DataError
from tinyssd.run.config import RunConfig


@dataclass(frozen=True)
class Batches:
    """As :func:`tinyssd.data.loader.make_loader` makes them.

    Attributes:
        train: To train on.
        val: To validate on.
        sampler: What sets the epoch of ``train``.
        batch_size: Pictures a step, of all processes together.
        num_pictures: To train on.
        steps: Of an epoch.
    """

    train: DataLoader[tuple[Tensor, Tensor]]
    val: DataLoader[tuple[Tensor, Tensor]]
    sampler: EpochSampler
    batch_size: int
    num_pictures: int
    steps: int

    @classmethod
    def of(cls, config: RunConfig, sources: tuple[Source, Source] | None, pin: bool) -> Batches:
        """The batches of a run.

        Args:
            config: Of the run.
            sources: The training and the validation pictures; None opens those of ``config``.
            pin: For copies to a CUDA device that do not block.

        Raises:
            DataError: If the data cannot be used, or have other classes than the run.
            ConfigError: If several processes cannot share a batch.
        """
        settings, network = config.train, config.model
        train_source, val_source = sources or open_data(config.data, network.image_size, settings.seed)
        if tuple(train_source.class_names) != tuple(config.class_names):
            names = f"{', '.join(train_source.class_names)}, the run has {', '.join(config.class_names)}"
            raise DataError(f"{config.data.name}: has the classes {names}")
        _expect_equal_shares(min(settings.batch_size, len(train_source) * settings.passes))
        here = processes.count_here()
        workers = default_workers(here) if settings.workers is None else settings.workers
        readers = max(workers, 1) * here
        # Enlarged pictures still have a pixel of their own for each of the input's.
        most_pixels = round(network.image_size[0] * network.image_size[1] * max(1.5, config.augment.zoom) ** 2)
        varied = Pictures(
            cached(train_source, most_pixels, readers),
            network.image_size,
            config.augment,
            settings.seed,
            network.keep_shape,
            settings.closing_from,
        )
        train, sampler = make_loader(
            varied,
            settings.batch_size,
            shuffle_seed=settings.seed,
            workers=workers,
            pin_memory=pin,
            passes=settings.passes,
            share=(processes.rank(), processes.count()),
        )
        whole = Pictures(cached(val_source, most_pixels, readers), network.image_size, keep_shape=network.keep_shape)
        val, _ = make_loader(whole, settings.batch_size, workers=workers, pin_memory=pin)
        return cls(train, val, sampler, settings.batch_size, len(train_source), len(train))

    def begin(self, epoch: int, step: int) -> None:
        """Lets ``train`` give the batches of an epoch from a step on, both from 0."""
        self.sampler.epoch, self.sampler.skip = epoch, step * self.batch_size


def _expect_equal_shares(batch_size: int) -> None:
    if batch_size % processes.count():
        raise ConfigError(
            f"batch size: {processes.count()} processes cannot share {batch_size} pictures equally; try a multiple"
        )
