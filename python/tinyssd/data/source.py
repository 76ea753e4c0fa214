"""What a training takes its pictures from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from tinyssd.data.images import read_picture
from tinyssd.data.labels import Picture

# The class of a row that pads a batch. An ignored object of class c has the class IGNORED_FROM - c: less than 0, so no
# anchor is matched with it, and the evaluation still knows its class.
PADDING = -1
IGNORED_FROM = -2


@dataclass(frozen=True)
class Example:
    """A picture and its boxes as a data set stores them.

    Attributes:
        image: RGB, any size.
        labels: float32 [G, 5], ``(class, x1, y1, x2, y2)``, coordinates as shares of the picture. Class ``-2 - c``
            is an object of class c that is neither trained on nor counted.
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


class PictureFiles:
    """Labelled picture files: one split of a data set.

    Args:
        pictures: As :func:`tinyssd.data.clean.clean` leaves them.
        class_names: The classes without background.
    """

    def __init__(self, pictures: Sequence[Picture], class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.paths = [picture.path for picture in pictures]
        self.sizes = [picture.size for picture in pictures]  # width and height
        self.labels = [_labels(picture) for picture in pictures]
        self.max_boxes = max((len(labels) for labels in self.labels), default=0)

    def __len__(self) -> int:
        return len(self.paths)

    def example(self, index: int, epoch: int) -> Example:
        """The picture ``index`` with its boxes; the same in every epoch."""
        return Example(read_picture(self.paths[index]), self.labels[index])


def _labels(picture: Picture) -> np.ndarray:
    """The objects of a picture as float32 [G, 5], coordinates as shares."""
    rows = [(IGNORED_FROM - o.class_id if o.ignored else o.class_id, *o.box) for o in picture.objects]
    labels = np.array(rows, dtype=np.float32).reshape(-1, 5)
    labels[:, 1:] /= np.array([*picture.size, *picture.size], dtype=np.float32)
    return labels
