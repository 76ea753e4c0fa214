"""How training pictures vary.

Everything random is drawn from a generator of the caller's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tinyssd.data.source import Example
from tinyssd.errors import ConfigError


@dataclass(frozen=True)
class AugmentConfig:
    """How training pictures vary.

    Attributes:
        flip: Probability of a mirror image.
        color: Largest relative change of brightness, contrast and saturation.
        zoom: Largest enlargement: a random part of at least ``1 / zoom`` of each side is cut out. A box
            whose centre is cut off is dropped, others are cut to the part. 1 leaves pictures whole.
    """

    flip: float = 0.5
    color: float = 0.2
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.flip <= 1 and 0 <= self.color <= 1):
            raise ConfigError(f"flip, color: expected numbers from 0 to 1, got {self.flip}, {self.color}")
        if not 1 <= self.zoom < math.inf:
            raise ConfigError(f"zoom: expected at least 1, got {self.zoom}")


def augmented(example: Example, config: AugmentConfig, random: np.random.Generator) -> Example:
    """A random variation of ``example``."""
    image, labels = example.image, example.labels.copy()
    if config.zoom > 1:
        image, labels = _zoomed(image, labels, config.zoom, random)
    if random.random() < config.flip:
        image = ImageOps.mirror(image)
        labels[:, [1, 3]] = 1 - labels[:, [3, 1]]
    if config.color > 0:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(1 + random.uniform(-config.color, config.color))
    return Example(image, labels)


def _zoomed(
    image: Image.Image, labels: np.ndarray, zoom: float, random: np.random.Generator
) -> tuple[Image.Image, np.ndarray]:
    side = 1 / random.uniform(1, zoom)
    x, y = random.uniform(0, 1 - side, size=2)
    box = (x * image.width, y * image.height, (x + side) * image.width, (y + side) * image.height)
    part = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
    moved = labels.copy()
    moved[:, 1:] = (labels[:, 1:] - np.array([x, y, x, y], dtype=np.float32)) / side
    center = (moved[:, 1:3] + moved[:, 3:5]) / 2
    inside = ((center > 0) & (center < 1)).all(axis=1)
    if len(labels) > 0 and not inside.any():
        return image, labels
    moved[:, 1:] = moved[:, 1:].clip(0, 1)
    return part, moved[inside]
