"""A picture with very many objects: memory and work stay in proportion, in every format."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image
from tinyssd.check import boxes
from tinyssd.check.report import examine
from tinyssd.check.snapshot import take_snapshot
from tinyssd.data import csv, draft, read
from tinyssd.data.clean import clean
from tinyssd.data.labels import DataSet, Object, Picture
from tinyssd.data.read import read_data_set
from tinyssd.errors import DataError
from tinyssd.model.pyramid import PyramidConfig

SIDE, COUNT = 1000, 5000


def _drawn(count: int, seed: int, side: float = SIDE) -> list[tuple[float, float, float, float]]:
    """Boxes of many sizes, some of which nearly repeat another."""
    pick = random.Random(seed)
    found: list[tuple[float, float, float, float]] = []
    for _ in range(count):
        if found and pick.random() < 0.3:
            x1, y1, x2, y2 = pick.choice(found)
            shift = 0.04 * (x2 - x1)
            found.append((x1 + pick.uniform(-shift, shift), y1, x2 + pick.uniform(-shift, shift), y2))
        else:
            width, height = (side * 0.4 * pick.random() ** 3 + 1 for _ in range(2))
            x1, y1 = pick.uniform(0, side - width), pick.uniform(0, side - height)
            found.append((x1, y1, x1 + width, y1 + height))
    return found


def _picture(drawn: list[tuple[float, float, float, float]], path: Path = Path("a.png")) -> Picture:
    objects = tuple(Object(number % 2, box, file=path, line=number + 1) for number, box in enumerate(drawn))
    return Picture(path, (SIDE, SIDE), objects)


def _yolo(folder: Path, drawn: list[tuple[float, float, float, float]]) -> None:
    middle = [((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) for x1, y1, x2, y2 in drawn]
    lines = ["0 " + " ".join(f"{value / SIDE:.7f}" for value in one) for one in middle]
    (folder / "a.txt").write_text("\n".join(lines))
    for name in "bc":
        (folder / f"{name}.txt").write_text(lines[0])


def _csv(folder: Path, drawn: list[tuple[float, float, float, float]]) -> None:
    rows = [
        f"{name}.png,thing,{x1},{y1},{x2},{y2}"
        for name in "bca"
        for x1, y1, x2, y2 in drawn[: None if name == "a" else 1]
    ]
    (folder / "labels.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]))


def _coco(folder: Path, drawn: list[tuple[float, float, float, float]]) -> None:
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number, (x1, y1, x2, y2) in enumerate(drawn)
    ]
    images = [
        {"id": number, "file_name": f"{name}.png", "width": SIDE, "height": SIDE} for number, name in enumerate("bac")
    ]
    annotations += [{**annotations[0], "id": f"of {image}", "image_id": image} for image in (0, 2)]
    document = {"images": images, "categories": [{"id": 1, "name": "thing"}], "annotations": annotations}
    (folder / "_annotations.coco.json").write_text(json.dumps(document))


def _voc(folder: Path, drawn: list[tuple[float, float, float, float]]) -> None:
    for name, some in (("a", drawn), ("b", drawn[:1]), ("c", drawn[:1])):
        objects = "".join(
            f"<object><name>thing</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>\n"
            for x1, y1, x2, y2 in some
        )
        (folder / f"{name}.xml").write_text(f"<annotation><filename>{name}.png</filename>\n{objects}</annotation>")


def _objects(found: DataSet) -> list[str]:
    """The name of the picture of each object."""
    return [picture.path.name for of in found.splits.values() for picture in of for _ in picture.objects]


# Bytes of an object at the peak; the elements of an XML document are larger than its text.
@pytest.mark.parametrize(("write", "most"), [(_yolo, 1000), (_csv, 1000), (_coco, 1200), (_voc, 3500)])
def test_memory_of_an_object(write, most, tmp_path):
    for name in "abc":
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{name}.png")
    write(tmp_path, _drawn(COUNT, 0))
    tracemalloc.start()
    try:
        found = clean(read_data_set(tmp_path))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(len(picture.objects) for pictures in found.splits.values() for picture in pictures) >= COUNT
    assert kept / COUNT < 600
    assert peak / COUNT < most


@pytest.mark.parametrize("write", [_yolo, _csv, _coco, _voc])
def test_a_picture_with_too_many_objects_is_left_out(write, tmp_path, monkeypatch):
    monkeypatch.setattr(draft, "MOST_OBJECTS", 100)
    monkeypatch.setattr(read, "MOST_OBJECTS", 100)
    for name in "abc":
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{name}.png")
    write(tmp_path, _drawn(100, 0))
    assert sorted(_objects(read_data_set(tmp_path))) == ["a.png"] * 100 + ["b.png", "c.png"]  # As many as there may be.
    write(tmp_path, _drawn(101, 0))
    found = read_data_set(tmp_path)
    assert [problem.message for problem in found.problems] == ["left out: a.png has more than 100 objects"]
    assert sorted(_objects(found)) == ["b.png", "c.png"]


def test_lines_of_a_crowded_picture_are_not_gathered(tmp_path, monkeypatch):
    monkeypatch.setattr(draft, "MOST_OBJECTS", 100)
    made = 0
    row = csv._row

    def counted(*args):
        nonlocal made
        made += 1
        return row(*args)

    monkeypatch.setattr(csv, "_row", counted)
    for name in "ab":
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{name}.png")
    _csv(tmp_path, _drawn(COUNT, 0))
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text().replace("c.png", "b.png"))  # What is left is too little to divide.
    with pytest.raises(DataError, match=r"labels\.csv, line 4: left out: a\.png has more than"):
        read_data_set(tmp_path)
    assert made == 2 + 101  # Those of b.png; of the other as many as show it.


def test_doubles_are_those_of_the_definition():
    drawn = _drawn(600, 1)
    picture = _picture(drawn + drawn[:50])
    kept: list[Object] = []
    expected = []
    for item in picture.objects:
        same = [k for k in kept if k.box == item.box]
        near = [k for k in kept if k.class_id == item.class_id and boxes.overlap(k.box, item.box) >= boxes.DOUBLED_IOU]
        if same or near:
            expected.append((item, (same or near)[0]))
        else:
            kept.append(item)
    assert len(expected) > 100
    assert list(boxes.doubles(picture)) == expected


@pytest.mark.parametrize("width", [5e-324, 1e-310, 1e-9, 1e9])
def test_doubles_of_any_size(width):
    picture = _picture([(0.0, 0.0, width, 1.0), (-1e9, 0.0, 1e9, 1.0), (0.0, 0.0, width, 1.0 + 1e-9)])
    objects = tuple(Object(0, item.box) for item in picture.objects)
    assert list(boxes.doubles(Picture(picture.path, picture.size, objects))) == [(objects[2], objects[0])]


def test_few_boxes_are_compared(monkeypatch):
    compared = 0
    overlap = boxes.overlap

    def counted(a, b):
        nonlocal compared
        compared += 1
        return overlap(a, b)

    monkeypatch.setattr(boxes, "overlap", counted)
    list(boxes.doubles(_picture(_drawn(8000, 2))))
    assert compared < 8000  # By their left edges alone it would be hundreds for each.


def test_findings_are_listed_up_to_a_limit(tmp_path):
    for name in "ab":
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{name}.png")
    full, other = (
        _picture([(1.0, 1.0, 9.0, 9.0)] * n, tmp_path / f"{name}.png") for name, n in (("a", COUNT), ("b", 1))
    )
    data = DataSet("csv", tmp_path, ("one", "two"), {"train": (full,), "val": (other,)})
    report = examine(take_snapshot(data), PyramidConfig(3))
    group = next(group for group in report.groups if group.kind == "doubled box")
    assert group.count == COUNT - 1
    assert len(group.findings) == 1001
    assert group.findings[-1].message == "and more of this kind: doubled box"
