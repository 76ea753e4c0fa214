"""A small labelled data set, and writers of it in every format that the application reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image
from tinyssd.data.labels import DataSet

NAMES = ("cat", "9", "猫 dog")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Thing:
    """An object: the name of its class, its corners in pixels, and whether it is to be ignored."""

    name: str
    box: tuple[float, float, float, float]
    ignored: bool = False


# By split, by picture: its size and its objects. Sides are powers of two, so that shares of them are exact.
SET = {
    "train": {
        "a.png": (
            (64, 32),
            (Thing("cat", (0, 0, 64, 32)), Thing("9", (3, 4, 17, 9)), Thing("cat", (1, 2, 3, 4), True)),
        ),
        "b c.png": ((32, 64), (Thing("猫 dog", (5, 6, 32, 64)),)),
        "d.png": ((16, 16), ()),
    },
    "val": {"e.png": ((128, 64), (Thing("9", (100, 1, 128, 33)), Thing("猫 dog", (7, 7, 8, 9))))},
    "test": {"f.png": ((64, 64), (Thing("cat", (0, 1, 2, 3)),))},
}


def contents(data_set: DataSet) -> dict[str, dict[str, list[Thing]]]:
    """What a snapshot says, in the form of SET without the sizes."""
    return {
        split: {
            picture.path.name: [Thing(data_set.class_names[o.class_id], o.box, o.ignored) for o in picture.objects]
            for picture in pictures
        }
        for split, pictures in data_set.splits.items()
    }


def expected(ignored: bool = True) -> dict[str, dict[str, list[Thing]]]:
    """SET without the sizes; without the ignored objects for formats that have none."""
    return {
        split: {name: [thing for thing in things if ignored or not thing.ignored] for name, (_, things) in of.items()}
        for split, of in SET.items()
    }


def save_picture(path: Path, size: tuple[int, int] = (64, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (40 * len(path.stem) % 256, sum(path.name.encode()) % 256, 90)).save(path)
    return path


def write_table(root: Path, header: Sequence[str], row, empty, place="{split}/images", file="{split}/labels.csv"):
    """One table a split; ``row(name, size, thing)`` and ``empty(name, size)`` give its lines."""
    for split, pictures in SET.items():
        lines = []
        for name, (size, things) in pictures.items():
            save_picture(root / place.format(split=split) / name, size)
            kept = [thing for thing in things if not thing.ignored]
            lines += [row(name, size, thing) for thing in kept] or [empty(name, size)]
        path = root / file.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([header, *lines])


def write_banana(root: Path) -> None:
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    write_table(
        root,
        ("img_name", "label", *CORNERS),
        lambda name, size, thing: (name, NAMES.index(thing.name), *thing.box),
        lambda name, size: (name, "", "", "", "", ""),
        "toy_{split}/images",
        "toy_{split}/label.csv",
    )


def write_tensorflow(root: Path) -> None:
    write_table(
        root,
        ("filename", "width", "height", "class", *CORNERS),
        lambda name, size, thing: (name, *size, thing.name, *thing.box),
        lambda name, size: (name, *size, "", "", "", "", ""),
        "images",
        "data/{split}_labels.csv",
    )


def annotation(name: str, size: tuple[int, int], things: Sequence[Thing]) -> ElementTree.Element:
    """The XML of one picture; what it says of folder and path is wrong, as it often is."""
    root = ElementTree.Element("annotation")
    for tag, text in (("folder", "gone"), ("filename", name), ("path", f"/home/somebody/{name}")):
        ElementTree.SubElement(root, tag).text = text
    extent = ElementTree.SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (*size, ""), strict=True):
        ElementTree.SubElement(extent, tag).text = str(value)
    for thing in things:
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = thing.name
        if thing.ignored:
            ElementTree.SubElement(item, "difficult").text = "1"
        box = ElementTree.SubElement(item, "bndbox")
        for tag, value in zip(CORNERS, thing.box, strict=True):
            ElementTree.SubElement(box, tag).text = str(value)
    return root


def write_voc(root: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, pictures in SET.items():
        for name, (size, things) in pictures.items():
            save_picture(root / "JPEGImages" / name, size)
            tree = ElementTree.ElementTree(annotation(name, size, things))
            tree.write(root / "Annotations" / f"{Path(name).stem}.xml", encoding="utf-8")
        stems = "".join(f"{Path(name).stem}\n" for name in pictures)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(stems, encoding="utf-8")


def coco_document(pictures: dict, first: int = 7) -> dict:
    """The JSON of one split: ids with gaps, and a parent category without boxes."""
    categories = [{"id": 0, "name": "all", "supercategory": "none"}]
    categories += [{"id": 3 * i + 2, "name": name, "supercategory": "all"} for i, name in enumerate(NAMES)]
    images, annotations = [], []
    for number, (name, (size, things)) in enumerate(pictures.items(), start=first):
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for thing in things:
            x1, y1, x2, y2 = thing.box
            row = {"id": len(annotations), "image_id": number, "category_id": 3 * NAMES.index(thing.name) + 2}
            annotations.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(thing.ignored)})
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, place: str = "{split}2017", file: str = "annotations/instances_{split}2017.json") -> None:
    for split, pictures in SET.items():
        for name, (size, _) in pictures.items():
            save_picture(root / place.format(split=split) / name, size)
        path = root / file.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coco_document(pictures)), encoding="utf-8")


def write_roboflow(root: Path) -> None:
    write_coco(root, "{split}", "{split}/_annotations.coco.json")
    (root / "val").rename(root / "valid")


def yolo_line(thing: Thing, size: tuple[int, int]) -> str:
    x1, y1, x2, y2 = thing.box
    values = ((x1 + x2) / 2 / size[0], (y1 + y2) / 2 / size[1], (x2 - x1) / size[0], (y2 - y1) / size[1])
    return " ".join([str(NAMES.index(thing.name)), *map(repr, values)]) + "\r\n"


def write_yolo(root: Path, pictures: str = "images/{split}", labels: str = "labels/{split}") -> None:
    for split, of in SET.items():
        (root / labels.format(split=split)).mkdir(parents=True, exist_ok=True)
        for name, (size, things) in of.items():
            save_picture(root / pictures.format(split=split) / name, size)
            lines = "".join(yolo_line(thing, size) for thing in things if not thing.ignored)
            if lines:
                (root / labels.format(split=split) / f"{Path(name).stem}.txt").write_text(lines, newline="")
    names = "\n".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(NAMES))
    text = f"path: ../datasets/toy\ntrain: ../images/train\nval: images/val\ntest: images/test\nnames:\n{names}\n"
    (root / "data.yaml").write_text(text, encoding="utf-8")


def write_yolo_by_split(root: Path) -> None:
    write_yolo(root, "{split}/images", "{split}/labels")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")


# Each writer, the format as which it is to be recognised, and whether it can tell ignored objects.
WRITERS = {
    "banana": (write_banana, "csv", False),
    "tensorflow": (write_tensorflow, "csv", False),
    "voc": (write_voc, "voc", True),
    "coco": (write_coco, "coco", True),
    "roboflow": (write_roboflow, "coco", True),
    "yolo": (write_yolo, "yolo", False),
    "yolo by split": (write_yolo_by_split, "yolo", False),
}
