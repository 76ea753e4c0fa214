"""Which pictures are for training and which for validation, as the world writes it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from labelled import annotation, save_picture
from tinyssd.data.config import Choice, DataConfig
from tinyssd.data.open import open_data, training_set
from tinyssd.data.read import read_data_set
from tinyssd.data.splits import split_of
from tinyssd.errors import DataError

HEADER = "img_name,label,xmin,ymin,xmax,ymax"


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("bananas_train", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("images/valid", "val"),
        ("TestSet/labels", "test"),
        ("train/val", "val"),
        ("Validation-images", "val"),
        ("ImageSets/Main/trainval.txt", "trainval"),
        ("train_val", None),
        ("trainers/constraint", None),
        ("", None),
    ],
)
def test_names_of_splits(path, split):
    assert split_of(path) == split


def table(path: Path, names, split=None, folder="images"):
    """A table with a box in each picture, and the pictures."""
    lines = [HEADER + (",split" if split else "")]
    for index, name in enumerate(names):
        save_picture(path.parent / folder / name)
        lines.append(f"{name},0,1,2,{30 + index},20" + (f",{split(index)}" if split else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def names_in(found):
    return {split: [picture.path.stem for picture in pictures] for split, pictures in found.splits.items()}


@pytest.mark.parametrize(
    "files",
    [
        ("x_train/label.csv", "x_val/label.csv"),
        ("train/labels.csv", "val/labels.csv"),
        ("train2017/a.csv", "valid/a.csv"),
        ("train.csv", "validation.csv"),
        ("training_labels.csv", "test_labels.csv"),
        ("labels/Train.csv", "labels/Val.csv"),
    ],
)
def test_tables_named_by_split(tmp_path, files):
    table(tmp_path / files[0], ["a.png", "b.png"])
    table(tmp_path / files[1], ["c.png"])
    found = read_data_set(tmp_path)
    assert names_in(found) == {"train": ["a", "b"], "val": ["c"]}
    note = ["there is no validation split, so the test split is used for it"] if "test" in files[1] else []
    assert [n for n in found.notes if "validation" in n] == note


def test_pictures_of_one_name_in_two_splits(tmp_path):
    for split in ("train", "val"):
        table(tmp_path / f"x_{split}" / "label.csv", ["1.png"])
    found = read_data_set(tmp_path)
    assert [str(found.splits[split][0].path) for split in ("train", "val")] == [
        f"{tmp_path}/x_{split}/images/1.png" for split in ("train", "val")
    ]
    (problem,) = training_set(tmp_path, Choice()).problems
    assert str(problem) == f"{tmp_path}/x_val/images/1.png: the same picture as 1.png of the training"


def test_a_column_says_the_split(tmp_path):
    table(tmp_path / "all.csv", ["a.png", "b.png", "c.png"], lambda index: ("train", "VAL", "test")[index])
    assert names_in(read_data_set(tmp_path)) == {"train": ["a"], "val": ["b"], "test": ["c"]}


def test_other_tables_and_folders_do_not_disturb(tmp_path):
    table(tmp_path / "x_train" / "label.csv", ["a.png"])
    table(tmp_path / "x_val" / "label.csv", ["b.png"])
    table(tmp_path / "all.csv", ["c.png"])
    (tmp_path / "old_train" / "images").mkdir(parents=True)
    (tmp_path / "results.csv").write_text("epoch,loss\n1,2\n")
    found = read_data_set(tmp_path)
    assert names_in(found) == {"train": ["a"], "val": ["b"]}
    assert "1 picture is of no split and not used" in found.notes


def test_a_split_is_drawn_where_nothing_says_one(tmp_path):
    names = [f"{i}.png" for i in range(20)] + ["x_jpg.rf.1.png", "x_jpg.rf.2.png"]
    table(tmp_path / "labels.csv", names)
    found = read_data_set(tmp_path)
    assert names_in(found) == names_in(read_data_set(tmp_path))
    train, val = (set(names_in(found)[split]) for split in ("train", "val"))
    assert train | val == {Path(name).stem for name in names}
    assert not train & val
    assert len(val) in (4, 5)
    assert len({"x_jpg.rf.1", "x_jpg.rf.2"} & val) in (0, 2)
    assert found.notes[-1].startswith(f"nothing says which pictures are for validation, so {len(val)} of 22 were drawn")


def test_one_picture_cannot_be_divided(tmp_path):
    table(tmp_path / "labels.csv", ["a.png"])
    with pytest.raises(DataError, match="cannot be both trained on and validated on"):
        read_data_set(tmp_path)


def voc(tmp_path, stems):
    for stem in stems:
        save_picture(tmp_path / "JPEGImages" / f"{stem}.png")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        tree = ElementTree.ElementTree(annotation(f"{stem}.png", (64, 32), ()))
        tree.write(tmp_path / "Annotations" / f"{stem}.xml")


@pytest.mark.parametrize(
    "lists",
    [
        {"ImageSets/Main/train.txt": "a\nb b\n", "ImageSets/Main/val.txt": "c\n"},
        {"ImageSets/Main/trainval.txt": "a 1\nb b -1\n", "ImageSets/Main/test.txt": "c  1\n"},
        {
            **{"ImageSets/Main/train.txt": "a\nb b\n", "ImageSets/Main/val.txt": "c\n"},
            **{"ImageSets/Main/trainval.txt": "a\nb b\nc\n", "ImageSets/Main/cat_train.txt": "c 1\n"},
            "ImageSets/Segmentation/train.txt": "c\n",
        },
        {"train.txt": "JPEGImages/a.png\nC:\\set\\b b.png\n", "valid.txt": "/data/c.png\n"},
        {"split.csv": "filename,set\na.png,train\nb b.png,train\nc.png,val\n"},
        {"data/train.csv": "image_id\na\nb b\n", "data/val.csv": "image_id\nc\n"},
    ],
    ids=["two", "trainval and test", "all of VOC", "paths", "a table", "two tables"],
)
def test_lists(tmp_path, lists):
    voc(tmp_path, ["a", "b b", "c"])
    for name, text in lists.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = read_data_set(tmp_path)
    assert found.format == "voc"
    assert names_in(found) == {"train": ["a", "b b"], "val": ["c"]}


@pytest.mark.parametrize(
    ("train", "val", "names"),
    [
        ("first", "second", {"train": ["a"], "val": ["b"]}),
        ("second.csv", "first.csv", {"train": ["b"], "val": ["a"]}),
        ("first.csv", "", {"train": ["a"], "val": ["b", "c"]}),
        ("", "first", {"train": ["b", "c"], "val": ["a"]}),
        ("mine.txt", "first", {"train": ["b", "c"], "val": ["a"]}),
    ],
)
def test_the_user_says_the_splits(tmp_path, train, val, names):
    for name, picture in (("first", "a"), ("second", "b"), ("third", "c")):
        table(tmp_path / f"{name}.csv", [f"{picture}.png"], folder=name)
    (tmp_path / "mine.txt").write_text("b.png\nc.png\n")
    assert names_in(read_data_set(tmp_path, Choice(train=train, val=val))) == names


def test_the_user_swaps_splits_by_their_names(tmp_path):
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        table(tmp_path / split / "labels.csv", [f"{name}.png"])
    assert names_in(read_data_set(tmp_path, Choice(val="test"))) == {"train": ["a"], "val": ["c"]}
    both = names_in(read_data_set(tmp_path, Choice(train="trainval", val="test")))
    assert both == {"train": ["a", "b"], "val": ["c"]}
    with pytest.raises(DataError, match=r"no labelled picture is in 'nowhere'; splits .* by looking: test, train, val"):
        read_data_set(tmp_path, Choice(val="nowhere"))


def test_a_run_keeps_what_the_user_decided(tmp_path):
    for name, picture in (("first", "a"), ("second", "b")):
        table(tmp_path / f"{name}.csv", [f"{picture}.png"], folder=name)
    config = DataConfig(str(tmp_path), train="second.csv", val="first.csv", classes=("cat",))
    lines = []
    train, val = open_data(config, (32, 32), say=lines.append)
    assert [path.stem for path in train.paths + val.paths] == ["b", "a"]
    assert train.class_names == val.class_names == ("cat",)
    assert [line.partition(":")[0] for line in lines] == ["data", "classes", "labels"]
