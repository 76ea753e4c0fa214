"""From picture files to boxes, as pictures and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tinyssd.checkpoint import write_atomically, write_json
from tinyssd.data import read_picture, to_input, to_rgb
from tinyssd.draw import Box, class_color, draw_boxes
from tinyssd.errors import ConfigError, DataError
from tinyssd.model import TinySSD

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Detection:
    """One object found.

    Attributes:
        label: The name of its class.
        class_index: Its class, from 0 without background.
        score: The confidence, 0..1.
        box: ``(x1, y1, x2, y2)`` as shares of the picture.
    """

    label: str
    class_index: int
    score: float
    box: tuple[float, float, float, float]


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files named, and the pictures in the folders named.

    Raises:
        DataError: If a path does not exist or a folder holds no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
            if not inside:
                raise DataError(f"{path}: no picture in this folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    return found


def predict_picture(
    model: TinySSD, picture: Image.Image, class_names: Sequence[str], score_threshold: float
) -> list[Detection]:
    """The objects in one upright picture of any size and mode, by falling confidence.

    Args:
        model: In evaluation mode.
        picture: See :func:`tinyssd.data.read_picture`, which also turns photos upright.
        class_names: The classes without background.
        score_threshold: The least confidence of a detection.
    """
    height, width = model.config.image_size
    pixels = np.array(to_rgb(picture).resize((width, height), Image.Resampling.BILINEAR))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(model.anchors.device)
    rows, counts = model.predict(to_input(images), score_threshold)
    return to_detections(rows[0, : int(counts[0])].tolist(), class_names)


def to_detections(rows: Iterable[Sequence[float]], class_names: Sequence[str]) -> list[Detection]:
    """Rows ``(class from 1, confidence, x1, y1, x2, y2)`` with names."""
    return [
        Detection(class_names[int(row[0]) - 1], int(row[0]) - 1, row[1], (row[2], row[3], row[4], row[5]))
        for row in rows
    ]


def drawn_detections(picture: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """A copy of the picture with the detections on it, the surest on top."""
    boxes = [Box(d.box, class_color(d.class_index), f"{d.label} {d.score:.0%}") for d in reversed(detections)]
    return draw_boxes(to_rgb(picture), boxes)


def predict_files(
    model: TinySSD, class_names: Sequence[str], paths: Sequence[Path], out: Path, score_threshold: float
) -> tuple[list[dict[str, Any]], list[DataError]]:
    """Writes each picture with its boxes, and ``predictions.json``, into ``out``.

    A picture that cannot be read does not keep the others from being written.

    Args:
        model: In evaluation mode.
        class_names: The classes without background.
        paths: Picture files.
        out: The folder; made if need be.
        score_threshold: The least confidence of a detection.

    Returns:
        What ``predictions.json`` holds, for each picture: ``image``, ``drawn``, ``width``, ``height``, ``detections``
        with ``label``, ``score`` and ``box``, the corners in pixels of the upright picture. And an error for each
        picture that could not be read.

    Raises:
        ConfigError: If ``out`` holds one of the pictures: a drawn one could take the place of an original.
    """
    if any(path.parent.resolve() == out.resolve() for path in paths):
        raise ConfigError(f"{out}: holds pictures to look at; choose another folder for the results")
    out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    errors: list[DataError] = []
    taken: set[str] = set()
    for path in paths:
        try:
            picture = read_picture(path)
        except DataError as error:
            errors.append(error)
            continue
        detections = predict_picture(model, picture, class_names, score_threshold)
        name = _free_name(path.stem, taken)
        _save(drawn_detections(picture, detections), out / name)
        found = [
            {"label": d.label, "score": round(d.score, 4), "box": _in_pixels(d.box, picture.size)} for d in detections
        ]
        size = {"width": picture.width, "height": picture.height}
        results.append({"image": str(path), "drawn": name, **size, "detections": found})
    write_json(out / "predictions.json", results)
    return results, errors


def _in_pixels(box: tuple[float, float, float, float], size: tuple[int, int]) -> list[float]:
    return [round(value * extent, 2) for value, extent in zip(box, (*size, *size), strict=True)]


def _free_name(stem: str, taken: set[str]) -> str:
    """A file name that no other picture of this call has: two folders may hold a picture of one name."""
    name, number = f"{stem}.png", 2
    while name.casefold() in taken:  # Some file systems tell no A from a.
        name, number = f"{stem}-{number}.png", number + 1
    taken.add(name.casefold())
    return name


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
