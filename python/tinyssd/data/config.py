"""Which pictures a run uses."""

from __future__ import annotations

from dataclasses import dataclass

from tinyssd.errors import ConfigError

# A run's seed is less: the seeds from here on are those of generated pictures that no training may see.
SEED_LIMIT = 2**31


@dataclass(frozen=True)
class DataConfig:
    """Which pictures.

    Attributes:
        name: "synthetic", "banana", or a folder in the banana layout.
        train_size: Generated training pictures an epoch; for "synthetic" only.
        val_size: Generated validation pictures; for "synthetic" only.
    """

    name: str = "synthetic"
    train_size: int = 2000
    val_size: int = 200

    def __post_init__(self) -> None:
        if self.train_size < 1 or self.val_size < 1:
            raise ConfigError(f"pictures: expected at least 1, got {self.train_size} and {self.val_size}")
