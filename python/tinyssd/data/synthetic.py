"""Generated pictures: fish, stars and hearts on busy backgrounds.

Nothing is downloaded. Colour says nothing about the class, other shapes of the same colours lie about, objects are
turned, of several sizes and partly hidden, so a detector has to learn the shapes.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tinyssd.data.source import Example

_SUPERSAMPLING = 2
_MAX_OBJECTS = 4

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class SyntheticSource:
    """Generated examples; picture ``index`` of a ``seed`` is always the same.

    Attributes:
        length: Pictures.
        side: Width and height of each in pixels.
        seed: Another seed gives other pictures.
        fresh: Draw new pictures in each epoch, so that a training never sees one twice.
    """

    length: int
    side: int = 256
    seed: int = 0
    fresh: bool = False

    class_names: ClassVar[tuple[str, ...]] = ("fish", "star", "heart")
    max_boxes: int = field(default=_MAX_OBJECTS, init=False)

    def __len__(self) -> int:
        return self.length

    def example(self, index: int, epoch: int) -> Example:
        """The picture ``index`` with its boxes."""
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}")
        return draw_example(np.random.default_rng((self.seed, epoch if self.fresh else 0, index)), self.side)


def draw_example(random: np.random.Generator, side: int) -> Example:
    """A picture of ``side`` pixels with one to four objects."""
    scale = side * _SUPERSAMPLING
    canvas = _background(random, scale)
    for _ in range(random.integers(4, 10)):
        _draw_distractor(canvas, random)
    labels: list[tuple[float, ...]] = []
    for _ in range(random.integers(1, _MAX_OBJECTS + 1)):
        placed = _place(random, [row[1:] for row in labels])
        if placed is None:
            continue
        shape = int(random.integers(len(_OUTLINES)))
        box = _draw_object(canvas, random, shape, *placed)
        labels.append((shape, *box))
    if random.random() < 0.5:
        _draw_twig(canvas, random)
    image = canvas.resize((side, side), Image.Resampling.BOX)
    noise = random.normal(0, random.uniform(2, 10), (side, side, 1))
    pixels = np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255).astype(np.uint8)
    return Example(Image.fromarray(pixels), np.array(labels, dtype=np.float32))


def _place(random: np.random.Generator, taken: list[tuple[float, ...]]) -> tuple[float, float, float] | None:
    """Centre and radius of an object, as shares of the picture, that hides no other; None if no room was found."""
    for _ in range(20):
        # Uniform in the logarithm: small objects are as common as large ones.
        radius = math.exp(random.uniform(math.log(0.07), math.log(0.26)))
        cx, cy = random.uniform(radius, 1 - radius, size=2)
        gap = 0.8 * radius
        if all(cx + gap < x1 or cx - gap > x2 or cy + gap < y1 or cy - gap > y2 for x1, y1, x2, y2 in taken):
            return float(cx), float(cy), radius
    return None


def _background(random: np.random.Generator, scale: int) -> Image.Image:
    """A gradient with clouds of noise at several scales."""
    first, second = _color(random, 0.15, 0.6), _color(random, 0.15, 0.6)
    angle = random.uniform(0, 2 * math.pi)
    grid = np.linspace(-0.5, 0.5, 64)
    ramp = np.clip(0.5 + np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None], 0, 1)[..., None]
    pixels = np.array(first) * ramp + np.array(second) * (1 - ramp)
    for cells, strength in ((3, 30), (8, 24), (20, 18)):
        clouds = random.uniform(-strength, strength, (cells, cells, 3)) + 128
        layer = Image.fromarray(clouds.astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        pixels += np.asarray(layer, dtype=np.float64) - 128
    small = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return small.resize((scale, scale), Image.Resampling.BICUBIC)


def _draw_distractor(canvas: Image.Image, random: np.random.Generator) -> None:
    """A shape that is none of the classes: a disc, ring, bar, triangle or rectangle."""
    draw = ImageDraw.Draw(canvas)
    scale = canvas.width
    cx, cy = random.uniform(0, scale, size=2)
    radius = random.uniform(0.03, 0.15) * scale
    color = _color(random, 0.3, 1.0)
    angle = random.uniform(0, 2 * math.pi)
    kind = random.integers(5)
    if kind == 0:
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=color)
    elif kind == 1:
        width = max(2, int(radius * 0.3))
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), outline=color, width=width)
    elif kind == 2:
        dx, dy = 2.5 * radius * math.cos(angle), 2.5 * radius * math.sin(angle)
        draw.line((cx - dx, cy - dy, cx + dx, cy + dy), fill=color, width=max(2, int(radius * 0.2)))
    else:
        corners = 3 if kind == 3 else 4
        turn = [angle + 2 * math.pi * i / corners for i in range(corners)]
        draw.polygon([(cx + radius * math.cos(t), cy + radius * math.sin(t)) for t in turn], fill=color)


def _draw_twig(canvas: Image.Image, random: np.random.Generator) -> None:
    """A thin line across the picture, in front of the objects."""
    scale = canvas.width
    ends = random.uniform(0, scale, size=4)
    ImageDraw.Draw(canvas).line(list(ends), fill=_color(random, 0.1, 0.5), width=max(1, scale // 100))


def _draw_object(
    canvas: Image.Image, random: np.random.Generator, shape: int, cx: float, cy: float, radius: float
) -> tuple[float, float, float, float]:
    """Draws one object and returns its box as shares of the picture."""
    scale = canvas.width
    hue, saturation = random.random(), random.uniform(0.55, 1.0)
    light = random.uniform(0.65, 1.0)
    fill, edge = _rgb(hue, saturation, light), _rgb(hue, saturation, 0.45 * light)
    # A slight turn only for hearts and fish: upside down they would still be easy, but odd to look at.
    angle = random.uniform(-0.5, 0.5)
    mirror = -1 if random.random() < 0.5 else 1
    stretch = random.uniform(0.85, 1.15)
    cos, sin = math.cos(angle), math.sin(angle)

    def to_canvas(points: Points) -> Points:
        turned = []
        for x, y in points:
            x, y = mirror * x * stretch, y / stretch
            u, v = x * cos - y * sin, x * sin + y * cos
            turned.append(((cx + radius * u) * scale, (cy + radius * v) * scale))
        return turned

    outline = to_canvas(_OUTLINES[shape])
    line = max(1, round(0.09 * radius * scale))
    _draw_shadow(canvas, outline, 0.12 * radius * scale)
    draw = ImageDraw.Draw(canvas)
    draw.polygon(outline, fill=fill)
    draw.line([*outline, outline[0], outline[1]], fill=edge, width=line, joint="curve")
    pale = _rgb(hue, 0.35 * saturation, min(1.0, light + 0.2))
    for points, color in _details(shape, pale, edge):
        draw.polygon(to_canvas(points), fill=color)
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    half = line / 2
    corners = (min(xs) - half, min(ys) - half, max(xs) + half, max(ys) + half)
    x1, y1, x2, y2 = (min(max(value / scale, 0.0), 1.0) for value in corners)
    return x1, y1, x2, y2


def _draw_shadow(canvas: Image.Image, outline: Points, offset: float) -> None:
    """A soft shadow, ``offset`` pixels right of and below the outline."""
    xs, ys = [x + offset for x, _ in outline], [y + offset for _, y in outline]
    margin = math.ceil(2 * offset)
    left, top = math.floor(min(xs)) - margin, math.floor(min(ys)) - margin
    # Only the part that the shadow covers: blurring the whole canvas takes most of the time of a picture.
    mask = Image.new("L", (math.ceil(max(xs)) + margin - left, math.ceil(max(ys)) + margin - top))
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in zip(xs, ys, strict=True)], fill=110)
    canvas.paste((0, 0, 0), (left, top), mask.filter(ImageFilter.BoxBlur(0.8 * offset)))


def _details(shape: int, pale: tuple[int, ...], edge: tuple[int, ...]) -> list[tuple[Points, tuple[int, ...]]]:
    """Small polygons on top of an outline: an eye, or a patch of light."""
    if shape == 0:
        return [
            (_oval(0.52, -0.12, 0.13, 0.13), (250, 250, 250)),
            (_oval(0.55, -0.11, 0.06, 0.06), (20, 20, 20)),
        ]
    if shape == 1:
        return [(_star(0.42), pale)]
    return [(_oval(-0.42, -0.38, 0.17, 0.13), pale)]


def _oval(cx: float, cy: float, rx: float, ry: float, steps: int = 24) -> Points:
    turn = [2 * math.pi * i / steps for i in range(steps)]
    return [(cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in turn]


def _fish() -> Points:
    """An oval body that ends in a tail."""
    body = []
    for i in range(29):
        t = math.pi * (1 - 1 / 9) * (1 - i / 14)
        body.append((0.2 + 0.8 * math.cos(t), 0.55 * math.sin(t)))
    return [*body, (-1.0, -0.55), (-0.8, 0.0), (-1.0, 0.55)]


def _star(radius: float = 1.0) -> Points:
    turn = [math.pi * i / 5 - math.pi / 2 for i in range(10)]
    return [
        (
            radius * (1.0 if i % 2 == 0 else 0.45) * math.cos(t),
            radius * (1.0 if i % 2 == 0 else 0.45) * math.sin(t),
        )
        for i, t in enumerate(turn)
    ]


def _heart() -> Points:
    turn = [2 * math.pi * i / 40 for i in range(40)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turn
    ]


def _color(random: np.random.Generator, low: float, high: float) -> tuple[int, int, int]:
    """A random colour with a brightness from ``low`` to ``high``."""
    return _rgb(random.random(), random.uniform(0.1, 0.9), random.uniform(low, high))


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


# In the order of SyntheticSource.class_names, within the circle of radius 1 or little more.
_OUTLINES = (_fish(), _star(), _heart())
