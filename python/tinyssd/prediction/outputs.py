"""The folder of the results: drawn pictures, and the boxes as JSON, CSV, COCO's results or YOLO's text."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tinyssd.errors import ConfigError
from tinyssd.files import write_atomically, write_json
from tinyssd.prediction.predict import Detection

RESULTS = "predictions.json"

# File systems allow 255 bytes; a temporary name is longer than the name.
_LONGEST_STEM = 200


class Results:
    """What one call of ``tinyssd predict`` leaves in its folder. What an earlier call left there is removed.

    Args:
        out: The folder; made if need be.
        class_names: The classes without background.
        inputs: The pictures that will be looked at.

    Attributes:
        rows: What ``predictions.json`` holds, for each picture (and each frame of a video, with its ``time`` in
            seconds): ``image``, ``drawn``, ``width``, ``height`` and ``detections`` with ``label``, ``score`` and
            ``box``, the corners in pixels of the upright picture.

    Raises:
        ConfigError: If ``out`` holds one of the pictures: a drawn one could take the place of an original.
    """

    def __init__(self, out: Path, class_names: Sequence[str], inputs: Sequence[Path]) -> None:
        # Links are followed: the file itself is what must not be lost.
        if any(out.resolve() in (path.parent.resolve(), path.resolve().parent) for path in inputs):
            raise ConfigError(f"{out}: holds pictures to look at; choose another folder for the results")
        self.out, self.rows = out, list[dict[str, Any]]()
        self._inputs = inputs
        self._class_names, self._taken = tuple(class_names), set[str]()
        out.mkdir(parents=True, exist_ok=True)
        _remove_stale(out)

    def free_name(self, stem: str, suffix: str) -> str:
        """A file name that nothing else has: two folders may hold a picture of one name, and in ``out`` may lie
        somebody's own."""
        stem = stem.encode("utf-8", "replace")[:_LONGEST_STEM].decode("utf-8", "ignore")
        name, number = f"{stem}{suffix}", 2
        # Some file systems tell no A from a.
        while name.casefold() in self._taken or os.path.lexists(self.out / name):
            name, number = f"{stem}-{number}{suffix}", number + 1
        self._taken.add(name.casefold())
        return name

    def draw(self, path: Path, drawn: Image.Image) -> str:
        """Writes a drawn picture, as JPEG where the original's name says that it is one; returns its name."""
        jpeg = path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
        name = self.free_name(path.stem, path.suffix if jpeg else ".png")
        settings: dict[str, Any] = {"format": "JPEG", "quality": 92} if jpeg else {"format": "PNG"}
        write_atomically(self.out / name, lambda temporary: drawn.save(temporary, **settings))
        return name

    def add(
        self, path: Path, drawn: str, size: tuple[int, int], detections: Sequence[Detection], time: float | None = None
    ) -> dict[str, Any]:
        """Keeps what was found in a picture, or in a video's frame; returns the row."""
        found = [{"label": d.label, "score": round(d.score, 4), "box": _in_pixels(d.box, size)} for d in detections]
        moment = {} if time is None else {"time": round(time, 4)}
        row = {"image": str(path), **moment, "drawn": drawn, "width": size[0], "height": size[1], "detections": found}
        self.rows.append(row)
        return row

    def write(self, formats: Sequence[str] = ()) -> list[str]:
        """Writes ``predictions.json`` and the files of other formats; returns their names.

        Raises:
            ConfigError: If YOLO's text would take the place of the labels of pictures that were looked at.
        """
        write_json(self.out / RESULTS, self.rows)
        labels = (self.out / "labels").resolve()
        if "yolo" in formats and any(labels == _labels_beside(path) for path in self._inputs):
            raise ConfigError(f"{labels}: holds the labels of the pictures; choose another folder for the results")
        return [RESULTS, *(FORMATS[name](self.out, self.rows, self._class_names) for name in formats)]


def _labels_beside(picture: Path) -> Path:
    """Where YOLO keeps the labels of a picture: in ``labels`` in the place of ``images``, or beside it."""
    *parts, name = picture.resolve().parent.parts
    return Path(*parts, "labels" if name == "images" else name)


def _remove_stale(out: Path) -> None:
    """Removes the drawn pictures that the results of an earlier call name, so that what lies there is of one call."""
    try:
        rows = json.loads((out / RESULTS).read_text(encoding="utf-8"))
        drawn = {row["drawn"] for row in rows}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return  # None, or somebody's own.
    for name in drawn:
        if isinstance(name, str) and Path(name).name == name and (out / name).is_file():
            (out / name).unlink()
    (out / RESULTS).unlink()


def _in_pixels(box: tuple[float, float, float, float], size: tuple[int, int]) -> list[float]:
    return [round(value * extent, 2) for value, extent in zip(box, (*size, *size), strict=True)]


def _write_csv(out: Path, rows: list[dict[str, Any]], class_names: Sequence[str]) -> str:
    """A line a box: the picture, the corners in pixels, the class and the confidence."""
    name = "predictions.csv"

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["image", "time", "label", "score", "xmin", "ymin", "xmax", "ymax"])
            for row in rows:
                for found in row["detections"]:
                    lines.writerow([row["image"], row.get("time", ""), found["label"], found["score"], *found["box"]])

    write_atomically(out / name, write)
    return name


def _write_coco(out: Path, rows: list[dict[str, Any]], class_names: Sequence[str]) -> str:
    """COCO's results: ``image_id`` is the number in the file's name where all have one, as COCO's pictures do, else the
    place in ``predictions.json`` from 1; ``category_id`` counts the classes from 1."""
    name = "coco_results.json"
    stems = [Path(row["image"]).stem for row in rows]
    numbered = all(stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems)
    results = [
        {
            "image_id": int(stem) if numbered else place,
            "file_name": row["image"],
            "category_id": class_names.index(found["label"]) + 1,
            "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
            "score": found["score"],
        }
        for place, (stem, row) in enumerate(zip(stems, rows, strict=True), start=1)
        for found in row["detections"]
        for x1, y1, x2, y2 in [found["box"]]
    ]
    write_json(out / name, results)
    return name


def _write_yolo(out: Path, rows: list[dict[str, Any]], class_names: Sequence[str]) -> str:
    """``labels/NAME.txt`` for each picture: class from 0, centre and size as shares of the picture, confidence."""
    folder = out / "labels"
    folder.mkdir(exist_ok=True)
    for place, row in enumerate(rows):
        lines = []
        for found in row["detections"]:
            (x1, y1, x2, y2), width, height = found["box"], row["width"], row["height"]
            shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            numbers = " ".join(f"{share:.6f}" for share in shares)
            lines.append(f"{class_names.index(found['label'])} {numbers} {found['score']:.4f}\n")
        stem = Path(row["drawn"]).stem + (f"_{place:06}" if "time" in row else "")
        (folder / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")
    return "labels/"


FORMATS: dict[str, Callable[[Path, list[dict[str, Any]], Sequence[str]], str]] = {
    "coco": _write_coco,
    "csv": _write_csv,
    "yolo": _write_yolo,
}
