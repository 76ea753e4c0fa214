"""Data sets in every format: the same pictures, boxes and classes, and what is said of blemishes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from labelled import NAMES, SET, WRITERS, contents, expected, save_picture, write_coco, write_voc, write_yolo
from tinyssd.data.clean import clean
from tinyssd.data.config import Choice
from tinyssd.data.open import training_set
from tinyssd.data.read import read_data_set
from tinyssd.data.summary import summary
from tinyssd.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def kinds(data_set):
    return Counter(problem.kind for problem in data_set.problems)


@pytest.mark.parametrize("name", WRITERS)
def test_one_data_set_in_every_format_gives_the_same_boxes(tmp_path, name):
    write, kind, has_ignored = WRITERS[name]
    write(tmp_path)
    found = read_data_set(tmp_path)
    assert found.format == kind
    assert sorted(found.class_names) == sorted(NAMES)
    assert contents(found) == expected(has_ignored)
    assert not found.problems
    assert contents(clean(found)) == contents(found)
    sizes = {picture.path.name: picture.size for pictures in found.splits.values() for picture in pictures}
    assert sizes == {name: size for pictures in SET.values() for name, (size, _) in pictures.items()}


def test_the_format_can_be_said_where_there_are_two(tmp_path):
    write_coco(tmp_path, "images/{split}")
    write_yolo(tmp_path)
    found = read_data_set(tmp_path)
    assert found.format == "yolo"
    assert "read as YOLO, though there is COCO too (--format)" in found.notes
    assert read_data_set(tmp_path, Choice(format="coco")).format == "coco"


def test_a_label_file_stands_for_its_data_set(tmp_path):
    write_yolo(tmp_path)
    assert contents(read_data_set(tmp_path / "data.yaml")) == expected(ignored=False)


@pytest.mark.parametrize(
    ("name", "format", "pictures", "objects", "classes", "blemishes"),
    [
        ("bccd", "voc", (205, 87, 72), 4888, 3, {"no area": 2}),
        ("chess", "coco", (40, 20, 10), 562, 13, {"doubled": 1}),
        ("okra", "yolo", (76, 15, 21), 285, 3, {}),
        ("pikachu", "csv", (900, 100), 1000, 1, {}),
    ],
)
def test_public_sets_open_without_an_option(name, format, pictures, objects, classes, blemishes):
    if not (SHARED / name).is_dir():
        pytest.skip(f"the pictures of {name} (shared/data) are not here")
    found = read_data_set(SHARED / name)
    assert found.format == format
    assert tuple(len(found.splits[split]) for split in ("train", "val", "test") if split in found.splits) == pictures
    assert sum(len(picture.objects) for of in found.splits.values() for picture in of) == objects
    assert len(found.class_names) == classes
    assert not found.problems
    assert kinds(clean(found)) == blemishes


def test_names_of_classes_by_option(tmp_path):
    write_yolo(tmp_path)
    found = read_data_set(tmp_path, Choice(classes=("one", "two", "three")))
    assert found.class_names == ("one", "two", "three")
    with pytest.raises(
        DataError, match=r"class 1 of a\.png has no name; the last class is 0; so it is with 4 of 6 boxes"
    ):
        training_set(tmp_path, Choice(classes=("one",)))
    shutil.rmtree(tmp_path)
    write_voc(tmp_path)
    found = read_data_set(tmp_path, Choice(classes=("9", "cat")))
    assert found.class_names == ("9", "cat")
    assert "not among --classes, so their boxes are left out: 猫 dog" in found.notes
    assert contents(found)["train"]["b c.png"] == []


def voc(tmp_path, inside, name="a", written="a.png"):
    """A data set of one annotation, and a second picture to validate on."""
    for stem in (name, "z"):
        save_picture(tmp_path / f"{stem}.png")
        objects = inside if stem == name else ""
        text = f"<annotation>\n<filename>{written}</filename>\n{objects}</annotation>"
        (tmp_path / f"{stem}.xml").write_text(text, encoding="utf-8")
    return read_data_set(tmp_path, Choice(train=f"{name}.xml"))


def item(name="cat", box=(1, 2, 3, 4), more=""):
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object>\n<name>{name}</name>{more}<bndbox>{corners}</bndbox></object>\n"


def test_voc_of_other_tools(tmp_path):
    polygon = (
        "<object><name>b</name><polygon><x1>1</x1><y1>9</y1><x2>5</x2><y2>2</y2><x3>3</x3><y3>4</y3></polygon></object>"
    )
    part = "<part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"
    found = voc(tmp_path, item("b", more=part) + polygon + item("9", (1.5, 2, 3, 4)), written="IMG_1.JPG")
    (picture,) = found.splits["train"]
    assert found.class_names == ("9", "b")
    assert [(o.class_id, o.box) for o in picture.objects] == [
        (1, (1, 2, 3, 4)),
        (1, (1, 2, 5, 9)),
        (0, (1.5, 2, 3, 4)),
    ]
    assert [o.line for o in picture.objects] == [3, 5, 5]


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (item("", (1, 2, 3, 4)), "a.xml, line 3: an object without a name"),
        (item(box=(1, "two", 3, 4)), "a.xml, line 3: the box of cat: ymin must be a number, got 'two'"),
        (item(box=(1, "nan", 3, 4)), "a.xml, line 3: the box of cat: ymin must be a number, got 'nan'"),
        ("<object><name>cat</name></object>", "a.xml, line 3: the box of cat: it has neither <bndbox> nor <polygon>"),
    ],
)
def test_voc_object_that_is_wrong_is_said_and_left_out(tmp_path, inside, message):
    found = voc(tmp_path, inside + item())
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in found.problems] == [message]
    assert len(found.splits["train"][0].objects) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "not XML (no element found"),
        ('<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>', "declares XML entities"),
        ("<annotation>" + "<a>" * 5000, "not XML (nested deeper than 64 elements"),
    ],
)
def test_voc_file_that_cannot_be_read_is_said(tmp_path, text, message):
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "d.xml").write_text(text)
    (problem, rest) = read_data_set(tmp_path).problems
    assert str(problem).startswith(f"{tmp_path}/Annotations/d.xml: {message}")
    assert rest.message == "1 picture of the lists without labels or not there"


def coco(tmp_path, **changes):
    document = {
        "images": [{"id": i, "file_name": f"{name}.png", "width": 64, "height": 32} for i, name in enumerate("ab")],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 5, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        **changes,
    }
    for name in "ab":
        save_picture(tmp_path / "train" / f"{name}.png")
        save_picture(tmp_path / "val" / f"{name}.png")
    for split in ("train", "val"):
        (tmp_path / split / "labels.json").write_text(json.dumps(document))
    return read_data_set(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"id": 5, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]}]}, "no image has the id 9"),
        (
            {"annotations": [{"id": 5, "image_id": 0, "category_id": 7, "bbox": [1, 2, 3, 4]}]},
            "no category has the id 7",
        ),
        ({"annotations": [{"id": 5, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3]}]}, "bbox must be four numbers"),
        ({"annotations": [{"id": 5, "image_id": 0, "category_id": 1, "bbox": None}]}, "bbox must be four numbers"),
        (
            {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, "4"]}]},
            "annotation number 1: bbox must",
        ),
        ({"images": [{"id": 0, "file_name": "a.png"}] * 2}, "the image id 0 stands in it twice"),
        ({"images": [{"id": 0, "file_name": "a.png"}, {"id": 1}]}, "an image without id or file_name: id 1"),
        ({"images": [{"id": 0, "file_name": "a.png"}, {"id": 1, "file_name": "../../../bb.png"}]}, "no such picture"),
        ({"categories": [{"id": 1, "name": "cat"}, {"name": "x"}]}, "a category without id or name: id None"),
    ],
)
def test_coco_entry_that_is_wrong_is_said_and_left_out(tmp_path, changes, message):
    found = coco(tmp_path, **changes)
    assert len(found.problems) == 2  # one a split
    assert message in found.problems[0].message
    assert found.problems[0].file == tmp_path / "train" / "labels.json"


def test_coco_as_others_write_it(tmp_path):
    outline = {"id": 8, "image_id": "0", "category_id": 1.0, "segmentation": [[1, 2, 9, 2, 5, 30]]}
    crowd = {"id": 9, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 0], "iscrowd": 1}
    found = coco(tmp_path, annotations=[outline, crowd], info={"version": 1})
    first = found.splits["train"][0]
    assert [(o.box, o.ignored) for o in first.objects] == [((1, 2, 9, 30), False), ((0, 0, 9, 0), True)]
    assert kinds(clean(found)) == {"no area": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [], "annotations": [], "categories": ' + "[" * 100_000, "nested too deeply|not JSON"),
        ('{"images": [],\n "annotations": [], "categories": }', r"labels\.json, line 2: not JSON"),
        ('["images", "annotations", "categories"]', "expected an object with images, annotations and categories"),
        ('{"images": 1, "annotations": {}, "categories": null}', "no labelled picture in it"),
        ('{"images": [], "annotations": [], "categories": [' + "9" * 5000 + "]}", "not JSON|no labelled picture"),
    ],
)
def test_coco_file_that_cannot_be_read_is_an_error(tmp_path, text, message):
    save_picture(tmp_path / "a.png")
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_data_set(tmp_path)


def yolo(tmp_path, lines, description=""):
    for split, text in (("train", lines), ("val", "0 .5 .5 .1 .1\n")):
        save_picture(tmp_path / "images" / split / f"{split}.png")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / f"{split}.txt").write_text(text)
    if description:
        (tmp_path / "data.yaml").write_text(description)
    return read_data_set(tmp_path)


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.5 0.5 0.25 0.5", (24, 8, 40, 24)),
        ("0.0\t0.5 0.5  1 1 \r", (0, 0, 64, 32)),
        ("0 0.25 0.25 0.75 0.25 0.5 0.75", (16, 8, 48, 24)),
        ("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75", (16, 8, 48, 24)),
        ("0 0.5 0.5 1.000002 1", (-0.000064, 0, 64.000064, 32)),
    ],
)
def test_yolo_lines(tmp_path, line, box):
    found = yolo(tmp_path, f"\n{line}\n\n")
    (thing,) = found.splits["train"][0].objects
    assert thing.box == pytest.approx(box, abs=1e-9)
    assert thing.line == 2
    assert not clean(found).problems


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "expected class x y width height, or class and corners x y, got 4 fields"),
        ("0 0.5 0.5 0.1 0.1 0.9", "expected class x y width height, or class and corners x y, got 6 fields"),
        ("-1 0.5 0.5 0.1 0.1", "the class must be a whole number from 0, got '-1'"),
        ("cat 0.5 0.5 0.1 0.1", "the class must be a whole number from 0, got 'cat'"),
        ("0 320 240 20 20", "expected shares of the picture from 0 to 1, got 320; are these pixels?"),
        ("0 0.5 nan 0.1 0.1", "expected a number, got 'nan'"),
    ],
)
def test_yolo_line_that_is_wrong_is_said_and_left_out(tmp_path, line, message):
    found = yolo(tmp_path, f"0 .5 .5 .5 .5\n{line}\n")
    assert [str(p) for p in found.problems] == [f"{tmp_path}/labels/train/train.txt, line 2: {message}"]
    assert len(found.splits["train"][0].objects) == 1


@pytest.mark.parametrize(
    ("description", "names"),
    [
        ("names: [no, b]\nnc: 2\n", ("no", "b")),
        ("train: images/train\nval: images/val\nnames:\n  0: a\n  1: b\n", ("a", "b")),
        ("train: [images/train]\nval: ../images/val\nnames: {0: a}\n", ("a",)),
        ("path: /data/sets/x\ntrain: nowhere/train\nnames: [a]\n", ("a",)),
    ],
)
def test_yolo_descriptions(tmp_path, description, names):
    found = yolo(tmp_path, "0 .5 .5 .5 .5\n", description)
    assert found.class_names == names
    assert [len(found.splits[split]) for split in ("train", "val")] == [1, 1]


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("names: [a\n", r"data\.yaml, line \d: not YAML"),
        ("a: &a [x]\nnames: [*a, *a]\n", "it has aliases"),
        ("names: " + "[" * 3000, "nested deeper than 20 levels"),
        ("- names\n", "expected the keys train, val and names"),
    ],
)
def test_yolo_description_that_cannot_be_read_is_an_error(tmp_path, description, message):
    with pytest.raises(DataError, match=message):
        yolo(tmp_path, "0 .5 .5 .5 .5\n", description)


def test_poses_are_read_as_boxes(tmp_path):
    found = yolo(tmp_path, "0 .5 .5 .5 .5 .1 .1 2 .2 .2 1\n", "names: [a]\nkpt_shape: [2, 3]\n")
    assert found.splits["train"][0].objects[0].box == (16, 8, 48, 24)


def test_summary_says_what_was_found_and_done(tmp_path):
    write_voc(tmp_path)
    (tmp_path / "JPEGImages" / "d.png").write_bytes(b"")
    path = tmp_path / "Annotations" / "a.xml"
    path.write_text(path.read_text("utf-8").replace("<xmax>17</xmax>", "<xmax>70</xmax>"), "utf-8")
    lines = summary(training_set(tmp_path, Choice()))
    assert lines[0] == (
        "data: Pascal VOC, train 2 pictures (3 objects, 1 ignored); val 1 picture (2 objects); test 1 picture "
        "(1 object, not used here); the splits are those of the lists in ImageSets/Main/"
    )
    assert lines[1] == "classes: 9 2, cat 1 (none to validate on), 猫 dog 2"
    assert lines[2].startswith("labels: unreadable pictures skipped: 1 (first: ")
    assert "the box (3, 4, 70, 9) of a.png reaches beyond its 64x32 picture" in lines[2]
    with pytest.raises(DataError, match="--strict, and 2 things are wrong:\n") as error:
        training_set(tmp_path, Choice(), strict=True)
    assert "d.png: cannot read this picture" in str(error.value)


@pytest.mark.parametrize("kind", ["voc", "coco", "tensorflow", "yolo by split"])
def test_pictures_without_labels_are_told(kind, tmp_path):
    """In YOLO's files too, where other pictures of the folder have none: there they are pictures without objects."""
    WRITERS[kind][0](tmp_path)
    save_picture(tmp_path / "more" / "x.png")
    save_picture(tmp_path / "more" / "y.png")
    notes = [note for note in read_data_set(tmp_path).notes if "not used" in note]
    assert notes == ["2 pictures are not used, as no label file or list names them (first: more/x.png)"]
