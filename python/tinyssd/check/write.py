"""A data set as COCO files, with copies of its pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tinyssd.data.labels import DataSet, Picture
from tinyssd.errors import ConfigError
from tinyssd.files import write_json


def refuse_folder(out: Path, root: Path) -> None:
    """Raises :class:`ConfigError` where a copy of ``root`` may not be written to ``out``."""
    if out.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{out}: lies inside {root}, which is not to be touched; choose another place for --fix")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is no folder; --fix needs a new or an empty one")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: holds files already; --fix needs a new or an empty folder")


def write_coco(data: DataSet, out: Path) -> None:
    """Writes ``SPLIT/`` with the pictures and ``SPLIT/_annotations.coco.json`` for each split that has any.

    Boxes are those of the upright pictures; ignored objects become ``iscrowd``. The pictures are copied byte by byte,
    with their EXIF data. A split's labels are written after its pictures, so a copy that broke off is not mistaken for
    a whole one.

    Raises:
        OSError: If a file cannot be written.
    """
    for split, pictures in data.splits.items():
        if pictures:
            (out / split).mkdir(parents=True, exist_ok=True)
            names = _copy_pictures(pictures, out / split)
            write_json(out / split / "_annotations.coco.json", _coco(data, pictures, names))


def _copy_pictures(pictures: tuple[Picture, ...], folder: Path) -> list[str]:
    """The names of the copies; pictures of one name from several folders get numbers."""
    names: list[str] = []
    taken: set[str] = set()
    for picture in pictures:
        name, number = picture.path.name, 1
        while name.casefold() in taken:  # Some file systems take a and A for one.
            number += 1
            name = f"{picture.path.stem}-{number}{picture.path.suffix}"
        taken.add(name.casefold())
        names.append(name)
        shutil.copyfile(picture.path, folder / name)
    return names


def _coco(data: DataSet, pictures: tuple[Picture, ...], names: list[str]) -> dict[str, Any]:
    objects = [(i, item) for i, picture in enumerate(pictures, 1) for item in picture.objects]
    return {
        "images": [
            {"id": i, "file_name": name, "width": picture.size[0], "height": picture.size[1]}
            for i, (name, picture) in enumerate(zip(names, pictures, strict=True), 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": i,
                "category_id": item.class_id + 1,
                "bbox": [item.box[0], item.box[1], item.box[2] - item.box[0], item.box[3] - item.box[1]],
                "area": (item.box[2] - item.box[0]) * (item.box[3] - item.box[1]),
                "iscrowd": int(item.ignored),
            }
            for number, (i, item) in enumerate(objects, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(data.class_names, 1)],
    }
