"""Which pictures a run uses."""

from __future__ import annotations

from dataclasses import dataclass

from tinyssd.errors import ConfigError

# A run's seed is less: the seeds from here on are those of generated pictures that no training may see.
SEED_LIMIT = 2**31


# In the order in which they are preferred where a folder holds several.
FORMATS = ("coco", "voc", "yolo", "csv")


@dataclass(frozen=True)
class Choice:
    """What a user decides about a data set; empty leaves it to looking.

    Attributes:
        format: One of FORMATS.
        train: The training pictures: a folder, label file or list in the data set, or the name of a split.
        val: The validation pictures, likewise.
        classes: The names of the classes, class 0 first.
    """

    format: str = ""
    train: str = ""
    val: str = ""
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.format and self.format not in FORMATS:
            raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}")


@dataclass(frozen=True)
class DataConfig:
    """Which pictures.

    Attributes:
        name: "synthetic", "banana", or a folder of labelled pictures.
        train_size: Generated training pictures an epoch; for "synthetic" only.
        val_size: Generated validation pictures; for "synthetic" only.
        format: As in :class:`Choice`; so are the three that follow.
        train: As in :class:`Choice`.
        val: As in :class:`Choice`.
        classes: As in :class:`Choice`.
        strict: Stop at the first thing in the labels that would have to be changed or skipped.
    """

    name: str = "synthetic"
    train_size: int = 2000
    val_size: int = 200
    format: str = ""
    train: str = ""
    val: str = ""
    classes: tuple[str, ...] = ()
    strict: bool = False

    def __post_init__(self) -> None:
        if self.train_size < 1 or self.val_size < 1:
            raise ConfigError(f"pictures: expected at least 1, got {self.train_size} and {self.val_size}")
        Choice(self.format)

    @property
    def choice(self) -> Choice:
        """What is decided about a folder."""
        return Choice(self.format, self.train, self.val, self.classes)
