"""Labelled pictures: folders in the banana layout, batches, and the augmentation.

A data set gives ``(image, labels)``: a uint8 tensor [3, H, W] of the configured size, and float32 [G, 5] rows
``(class, x1, y1, x2, y2)``, classes from 0, coordinates as shares of the picture (0..1). A batch stacks them, the
labels padded to one G with rows of class -1.

Everything random is drawn from ``(seed, epoch, index)``. So an epoch is the same however many workers make it, and a
run that was interrupted continues exactly, with no generator's state to keep.
"""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tinyssd.errors import ConfigError, DataError

COLUMNS = ("img_name", "label", "xmin", "ymin", "xmax", "ymax")

_EXIF_ORIENTATION = 0x0112


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


class FolderSource:
    """Pictures of a folder with ``label.csv`` and ``images/``: the layout of d2l's banana data set.

    A line of ``label.csv`` is a box: ``img_name,label,xmin,ymin,xmax,ymax``, the class from 0, the corners in pixels.
    Lines that name the same picture are boxes of that picture; ``img_name,,,,,`` is a picture without objects. Pictures
    that no line names are not used.

    Args:
        folder: The folder of one split.
        class_names: The names of the classes; any other class is an error.

    Raises:
        DataError: If a file is missing or a line is wrong; it names the file and the line.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        boxes = read_label_file(folder / "label.csv", len(class_names))
        self.paths = list(boxes)
        self._labels = [_normalized(path, rows, folder / "label.csv") for path, rows in boxes.items()]
        self.max_boxes = max(len(labels) for labels in self._labels)

    def __len__(self) -> int:
        return len(self.paths)

    def example(self, index: int, epoch: int) -> Example:
        """The picture ``index`` with its boxes; the same in every epoch."""
        return Example(read_picture(self.paths[index]), self._labels[index])


@dataclass(frozen=True)
class LabelRow:
    """One line of a label file: the line's number, the class, and the corners in pixels."""

    line: int
    label: int
    box: tuple[float, float, float, float]


def find_splits(folder: Path) -> tuple[Path, Path]:
    """The training and the validation folder inside ``folder``: ``*_train`` and ``*_val``.

    Raises:
        DataError: If there is not exactly one of each.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = []
    for split in ("train", "val"):
        matches = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.endswith(f"_{split}"))
        if len(matches) != 1:
            raise DataError(f"{folder}: expected one folder named *_{split}, found {len(matches)}")
        found.append(matches[0])
    return found[0], found[1]


def open_folder(folder: Path | str) -> tuple[FolderSource, FolderSource]:
    """The training and the validation pictures of a folder in the banana layout.

    Class names come from ``classes.txt`` (one a line, the first is class 0) where there is one. Else the only class of
    ``pikachu_train`` is "pikachu", and several are "class 0", "class 1", ...

    Raises:
        DataError: If a file is missing or a line is wrong.
    """
    folder = Path(folder)
    train, val = find_splits(folder)
    names_file = folder / "classes.txt"
    if names_file.exists():
        names = _read_class_names(names_file)
    else:
        rows = [row for split in (train, val) for rows in read_label_file(split / "label.csv").values() for row in rows]
        count = max(row.label for row in rows) + 1
        names = [train.name.removesuffix("_train")] if count == 1 else [f"class {i}" for i in range(count)]
    return FolderSource(train, names), FolderSource(val, names)


def read_label_file(path: Path, num_classes: int | None = None) -> dict[Path, list[LabelRow]]:
    """The boxes of every picture that a ``label.csv`` names, in the order of the file.

    Args:
        path: The label file; its pictures are in ``images/`` beside it.
        num_classes: Classes without background; None accepts any class from 0.

    Raises:
        DataError: If the file, a column, a number or a picture is missing or wrong.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a label file with the columns {','.join(COLUMNS)}")
    boxes: dict[Path, list[LabelRow]] = {}
    for line, fields in _read_csv(path):
        where = f"{path}, line {line}"
        image = path.parent / "images" / fields["img_name"]
        if image not in boxes and not image.is_file():
            raise DataError(f"{where}: no such picture: {image}")
        rows = boxes.setdefault(image, [])
        if any(fields[column] for column in COLUMNS[1:]):
            rows.append(_label_row(fields, line, where, num_classes))
    if not any(boxes.values()):
        raise DataError(f"{path}: no box in it")
    return boxes


def read_picture(path: Path) -> Image.Image:
    """A picture of any mode as RGB, turned upright.

    Raises:
        DataError: If the file is missing or is no whole picture.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(ImageOps.exif_transpose(image) if _may_be_turned(image) else image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError for some broken PNG files.
        raise DataError(f"{path}: cannot read this picture ({_one_line(error)})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB: wider pixels are scaled to 8 bits, transparency is left out."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way.
    return image.convert("RGB")


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """The examples of a source at the size of the network, augmented where asked.

    Args:
        source: Where the examples come from.
        image_size: Height and width of the tensors in pixels.
        augment: How pictures vary; None leaves them as they are.
        seed: Seed of the augmentation.
    """

    def __init__(
        self, source: Source, image_size: tuple[int, int], augment: AugmentConfig | None = None, seed: int = 0
    ) -> None:
        self.source, self.image_size, self.augment, self.seed = source, image_size, augment, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The example for ``(epoch, index)``: uint8 [3, H, W] and float32 [G, 5]."""
        epoch, index = key
        example = self.source.example(index, epoch)
        height, width = self.image_size
        if self.augment is not None:
            example = augmented(example, self.augment, np.random.default_rng((self.seed, epoch, index)))
        pixels = np.array(example.image.resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(example.labels)


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys ``(epoch, index)`` of one epoch, shuffled by the seed and the epoch; ``skip`` leaves out the first ones."""

    def __init__(self, length: int, seed: int | None) -> None:
        self.length, self.seed, self.epoch, self.skip = length, seed, 0, 0

    def __len__(self) -> int:
        return self.length - self.skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        return ((self.epoch, int(index)) for index in order[self.skip :])


def make_loader(
    pictures: Pictures,
    batch_size: int,
    shuffle_seed: int | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> tuple[DataLoader[tuple[Tensor, Tensor]], EpochSampler]:
    """Batches ``(images uint8 [B, 3, H, W], labels float32 [B, G, 5])``, and the sampler that sets the epoch.

    Shuffled batches are all of one size: the rest of an epoch is left out, another rest in each epoch.

    Args:
        pictures: The examples.
        batch_size: B.
        shuffle_seed: Seed of the order; None keeps the order of the source.
        workers: Processes that read pictures; 0 reads them in this one.
        pin_memory: For copies to a CUDA device that do not block.
    """
    sampler = EpochSampler(len(pictures), shuffle_seed)
    loader = DataLoader(
        pictures,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=shuffle_seed is not None and len(pictures) >= batch_size,
        num_workers=workers,
        collate_fn=_Collate(pictures.source.max_boxes),
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_interrupt,
        pin_memory=pin_memory,
    )
    return loader, sampler


def default_workers() -> int:
    """Processes that keep the training busy without taking its cores."""
    return min(4, max(1, (os.cpu_count() or 2) // 2))


def to_input(images: Tensor, channels_last: bool = False) -> Tensor:
    """Pixels, uint8 [B, 3, H, W], as the network wants them: float32, 0..255 becomes -1..1."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(memory_format=memory_format).float().div_(127.5).sub_(1)


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


@dataclass(frozen=True)
class _Collate:
    """Stacks examples and pads their labels to one number of rows. A class, so that a worker can be spawned."""

    max_boxes: int

    def __call__(self, examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        padded = torch.full((len(examples), self.max_boxes, 5), -1.0)
        for row, (_, labels) in zip(padded, examples, strict=True):
            row[: len(labels)] = labels
        return torch.stack([image for image, _ in examples]), padded


def _ignore_interrupt(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the main one decides when the workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_class_names(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error
    if not names:
        raise DataError(f"{path}: no class name in it")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a class name stands in it twice")
    return names


def _read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a label file, without blank ones: the line's number, and its fields by column."""
    rows, line = [], 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            header, line = [name.strip() for name in next(reader, [])], 1
            missing = [column for column in COLUMNS if column not in header]
            if missing:
                raise DataError(f"{path}, line 1: missing column {', '.join(missing)}; it has {', '.join(header)!r}")
            for fields in reader:
                line, values = reader.line_num, [value.strip() for value in fields]
                if not any(values):
                    continue
                if len(values) != len(header):
                    raise DataError(f"{path}, line {line}: expected {len(header)} fields, got {len(values)}")
                rows.append((line, dict(zip(header, values, strict=True))))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}, after line {line}: not a CSV file in UTF-8 ({error})") from error
    return rows


def _label_row(fields: dict[str, str], line: int, where: str, num_classes: int | None) -> LabelRow:
    numbers = []
    for column in COLUMNS[1:]:
        try:
            number = float(fields[column])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{where}: {column} must be a number, got {fields[column]!r}")
        numbers.append(number)
    label, x1, y1, x2, y2 = numbers
    if label != int(label) or label < 0:
        raise DataError(f"{where}: label must be a whole number from 0, got {fields['label']}")
    if num_classes is not None and label >= num_classes:
        raise DataError(f"{where}: label {int(label)} has no name; the last class is {num_classes - 1}")
    if x2 <= x1 or y2 <= y1:
        raise DataError(f"{where}: the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area")
    return LabelRow(line, int(label), (x1, y1, x2, y2))


def _normalized(path: Path, rows: list[LabelRow], label_file: Path) -> np.ndarray:
    """The rows of one picture as float32 [G, 5], coordinates as shares of the picture."""
    width, height = _picture_size(path)
    for row in rows:
        x1, y1, x2, y2 = row.box
        if min(x1, y1) < 0 or x2 > width or y2 > height:
            box = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
            raise DataError(f"{label_file}, line {row.line}: the box {box} is outside its {width}x{height} picture")
    labels = np.array([(row.label, *row.box) for row in rows], dtype=np.float32).reshape(-1, 5)
    labels[:, 1:] /= np.array([width, height, width, height], dtype=np.float32)
    return labels


def _picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, from its header."""
    try:
        with Image.open(path) as image:
            turned = _may_be_turned(image) and image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot read this picture ({_one_line(error)})") from error


def _may_be_turned(image: Image.Image) -> bool:
    # Where the header shows no Exif data, getexif() would read a whole PNG file to look behind its pixels.
    return "exif" in image.info


def _to_8_bit(image: Image.Image) -> Image.Image:
    """A picture of wider pixels scaled to 8 bits; Pillow would cut them off at 255."""
    pixels = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I") and pixels.max() > 255 else max(float(pixels.max()), 255.0)
    return Image.fromarray((pixels.clip(0, top) * (255 / top)).astype(np.uint8))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
