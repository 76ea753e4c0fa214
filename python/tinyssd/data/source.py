"""What a training takes its pictures from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Example:
    """A picture and its boxes as a data set stores them.

    Attributes:
        image: RGB, any size.
        labels: float32 [G, 5], ``(class, x1, y1, x2, y2)``, coordinates as shares of the picture.
    """

    image: Image.Image
    labels: np.ndarray


class Source(Protocol):
    """Where examples come from."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes without background."""

    @property
    def max_boxes(self) -> int:
        """The largest G."""

    def __len__(self) -> int: ...

    def example(self, index: int, epoch: int) -> Example:
        """The example ``index``; a source may give another one in each epoch."""
