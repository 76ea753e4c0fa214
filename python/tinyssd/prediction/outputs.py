"""From picture files to boxes, as pictures and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tinyssd.data.images import read_picture
from tinyssd.errors import ConfigError, DataError
from tinyssd.files import write_atomically, write_json
from tinyssd.model.network import TinySSD
from tinyssd.prediction.predict import drawn_detections, predict_picture


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
