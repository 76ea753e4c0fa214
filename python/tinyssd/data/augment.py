"""How training pictures vary.

A picture, or four in a mosaic, is cut, resized and drawn onto the network's input in one pass of Pillow's, which reads
the pictures anyway; its colours change by one matrix. Boxes follow. Everything random is drawn from a generator of the
caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from tinyssd.data.place import GRAY, Area, Place, draw, fitted
from tinyssd.data.source import IGNORED_FROM, Example
from tinyssd.errors import ConfigError

# Of a cut object: below the first share of it nothing is left to see, below the second it is neither taught nor denied.
_GONE, _RECOGNISABLE = 0.05, 0.35
_TRIES = 5
# How much of each colour we see as brightness (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class AugmentConfig:
    """How training pictures vary.

    Attributes:
        flip: Probability of a mirror image.
        color: Largest relative change of brightness and contrast; saturation changes by up to twice that.
        hue: Largest turn of the colours, in degrees.
        zoom: Largest enlargement; what does not fit into the input is cut off.
        shrink: Largest reduction; there is gray around a smaller picture.
        stretch: Largest relative change of the ratio of width to height.
        mosaic: Probability that four pictures share the input.
    """

    flip: float = 0.5
    color: float = 0.2
    hue: float = 0.0
    zoom: float = 1.0
    shrink: float = 1.0
    stretch: float = 0.0
    mosaic: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.flip, self.color, self.mosaic, self.stretch)
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"flip, color, mosaic, stretch: expected numbers from 0 to 1, got {shares}")
        if not 0 <= self.hue <= 180:
            raise ConfigError(f"hue: expected degrees from 0 to 180, got {self.hue}")
        if not (1 <= self.zoom < math.inf and 1 <= self.shrink < math.inf):
            raise ConfigError(f"zoom, shrink: expected at least 1, got {self.zoom}, {self.shrink}")

    @classmethod
    def strong(cls) -> AugmentConfig:
        """For few pictures and a long training."""
        return cls(color=0.3, hue=8.0, zoom=1.6, shrink=1.25, stretch=0.15, mosaic=0.5)

    def closing(self) -> AugmentConfig:
        """Milder, for the end of a training: whole pictures, as those to come will be."""
        return AugmentConfig(self.flip, self.color / 2, zoom=min(self.zoom, 1.2), shrink=min(self.shrink, 1.2))


def augmented(
    examples: Sequence[Example],
    canvas: tuple[int, int],
    keep_shape: bool,
    config: AugmentConfig,
    random: np.random.Generator,
) -> Example:
    """One picture as the network sees it, made of one or of four.

    Args:
        examples: One, or four for a mosaic.
        canvas: Width and height of the input.
        keep_shape: As in :func:`tinyssd.data.place.fitted`.
        config: How they vary.
        random: Where all that is random is drawn from.
    """
    plain = config.zoom == config.shrink == 1 and config.stretch == 0 and len(examples) == 1
    image = Image.new("RGB", canvas, GRAY)
    labels = []
    for example, area in zip(examples, _areas(len(examples), canvas, random), strict=True):
        if random.random() < config.flip:
            example = _mirrored(example)
        if plain:
            place = fitted(example.image.size, canvas, keep_shape)
            rows = _moved(example.labels, place, area, canvas)
        else:
            place, rows = _random_place(example, area, canvas, keep_shape, config, random)
        draw(example.image, place, image, area)
        labels.append(rows)
    if config.color > 0 or config.hue > 0:
        image = image.convert("RGB", _color_matrix(config, random))
    return Example(image, np.concatenate(labels))


def _areas(count: int, canvas: tuple[int, int], random: np.random.Generator) -> list[Area]:
    """The whole canvas, or its four parts around a random point."""
    width, height = canvas
    if count == 1:
        return [(0, 0, width, height)]
    x, y = (round(side * random.uniform(0.3, 0.7)) for side in canvas)
    return [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]


def _mirrored(example: Example) -> Example:
    labels = example.labels.copy()
    labels[:, [1, 3]] = 1 - labels[:, [3, 1]]
    return Example(ImageOps.mirror(example.image), labels)


def _random_place(
    example: Example,
    area: Area,
    canvas: tuple[int, int],
    keep_shape: bool,
    config: AugmentConfig,
    random: np.random.Generator,
) -> tuple[Place, np.ndarray]:
    """A random size and place of a picture in its area, and its labels there; with an object in it, if that is easy."""
    whole = fitted(example.image.size, canvas, keep_shape)
    alone = area == (0, 0, *canvas)
    for _ in range(_TRIES):
        # In a mosaic a picture is at most as large as it would be alone, so that its objects have room.
        low, high = (1 / config.shrink, config.zoom) if alone else (0.5, 1.0)
        scale = math.exp(random.uniform(math.log(low), math.log(high)))
        ratio = math.exp(random.uniform(-1, 1) * math.log1p(config.stretch) / 2)
        width, height = whole.width * scale * ratio, whole.height * scale / ratio
        x = area[0] + random.uniform(0, 1) * (area[2] - area[0] - width)
        y = area[1] + random.uniform(0, 1) * (area[3] - area[1] - height)
        place = Place(x, y, width, height)
        rows = _moved(example.labels, place, area, canvas)
        if (rows[:, 0] >= 0).any() or not (example.labels[:, 0] >= 0).any():
            break
    return place, rows


def _moved(labels: np.ndarray, place: Place, area: Area, canvas: tuple[int, int]) -> np.ndarray:
    """The labels at ``place``, cut to the area; objects of which too little is left are ignored or gone."""
    boxes = place.onto(labels[:, 1:], canvas)
    low = np.array(area[:2], dtype=np.float32) / canvas
    high = np.array(area[2:], dtype=np.float32) / canvas
    cut = boxes.reshape(-1, 2, 2).clip(low, high).reshape(-1, 4).astype(np.float32)
    left = (cut[:, 2:] - cut[:, :2]).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).clip(1e-12)
    classes = np.where((left < _RECOGNISABLE) & (labels[:, 0] >= 0), IGNORED_FROM - labels[:, 0], labels[:, 0])
    rows = np.concatenate((classes[:, None].astype(np.float32), cut), axis=1)
    return rows[left >= _GONE]


def _color_matrix(config: AugmentConfig, random: np.random.Generator) -> tuple[float, ...]:
    """Brightness, contrast, saturation and hue as one 3x4 matrix on RGB, as ``Image.convert`` takes it."""
    brightness, contrast = 1 + random.uniform(-config.color, config.color, size=2)
    saturation = 1 + random.uniform(-2, 2) * config.color
    angle = math.radians(random.uniform(-config.hue, config.hue))
    gray = np.tile(_LUMA, (3, 1))
    turned = _turn(angle)
    matrix = contrast * brightness * (gray + saturation * (turned - gray @ turned))
    shift = 128 * (1 - contrast)
    return tuple(np.concatenate((matrix, np.full((3, 1), shift)), axis=1).ravel().tolist())


def _turn(angle: float) -> np.ndarray:
    """The turn of RGB around its gray axis."""
    cos, sin = math.cos(angle), math.sin(angle)
    third, root = (1 - cos) / 3, sin / math.sqrt(3)
    a, b, c = cos + third, third - root, third + root
    return np.array([[a, b, c], [c, a, b], [b, c, a]])
