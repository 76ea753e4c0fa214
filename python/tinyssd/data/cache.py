"""Pictures kept in memory, so that large photographs are not decoded anew in each epoch."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tinyssd.data.source import Example, PictureFiles, Source

# For all processes that read pictures together.
BUDGET_BYTES = 1 << 30


class Cached:
    """A source whose pictures are kept at a size that is enough, until the budget is spent; the rest is read anew.

    Args:
        source: The stored pictures.
        most_pixels: Pictures of more are reduced before they are kept or used.
        budget: Bytes that the kept pictures may take, in each process that reads.
    """

    def __init__(self, source: PictureFiles, most_pixels: int, budget: int) -> None:
        self.source, self.most_pixels, self.budget = source, most_pixels, budget
        self.class_names, self.max_boxes = source.class_names, source.max_boxes
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.source)

    def example(self, index: int, epoch: int) -> Example:
        """As the source gives it, perhaps reduced."""
        if index in self._kept:
            return Example(Image.fromarray(self._kept[index]), self.source.labels[index])
        example = self.source.example(index, epoch)
        image = _reduced(example.image, self.most_pixels)
        pixels = np.asarray(image)
        if self._bytes + pixels.nbytes <= self.budget:
            self._kept[index] = pixels
            self._bytes += pixels.nbytes
        return Example(image, example.labels)


def cached(source: Source, most_pixels: int, workers: int, budget: int = BUDGET_BYTES) -> Source:
    """A source of stored pictures with a cache, its share of the budget for each of the workers; others as they are."""
    return Cached(source, most_pixels, budget // max(workers, 1)) if isinstance(source, PictureFiles) else source


def _reduced(image: Image.Image, most_pixels: int) -> Image.Image:
    scale = (most_pixels / (image.width * image.height)) ** 0.5
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BILINEAR, reducing_gap=2.0)
