"""The mended copy of a data set, and what may not be written where."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from app_check import picture, pixels, snapshot, thing
from PIL import Image, ImageOps
from tinyssd.check.mend import mend
from tinyssd.check.snapshot import Pixels, take_snapshot
from tinyssd.check.write import refuse_folder, write_coco
from tinyssd.data.labels import DataSet, Object, Picture
from tinyssd.data.read import read_data_set
from tinyssd.errors import ConfigError


def boxes_of(data: DataSet, split: str) -> list[list[tuple[str, tuple[float, ...]]]]:
    return [[(data.class_names[item.class_id], item.box) for item in found.objects] for found in data.splits[split]]


def test_boxes_are_put_right_or_left_out():
    items = [
        thing(0, (-5, 0, 50, 50)),
        thing(0, (60, 60, 30, 30)),
        thing(1, (30, 30, 30, 30)),
        thing(1, (200, 10, 220, 30)),
        thing(2, (1, 1, 9, 9)),
        thing(1, (70, 10, 95, 40)),
        thing(1, (70, 10, 95, 40)),
        thing(1, (70, 10, 95, 40.5)),
    ]
    mended = mend(snapshot([picture("a.png", *items)]))
    assert boxes_of(mended.data, "train") == [
        [("cat", (0, 0, 50, 50)), ("cat", (30, 30, 60, 60)), ("dog", (70, 10, 95, 40))]
    ]
    assert sum(mended.changes.values()) == 7


def test_names_are_merged_into_the_one_used_most_and_empty_classes_go():
    train = [picture("a.png", thing(0), thing(2), thing(2, (5, 5, 9, 9)), thing(3, (1, 1, 4, 4)))]
    mended = mend(snapshot(train, names=("Dog", "ghost", "dog", "cat")))
    assert mended.data.class_names == ("dog", "cat")
    # Called the same, the two dogs in one place are one.
    assert [name for name, _ in boxes_of(mended.data, "train")[0]] == ["dog", "dog", "cat"]
    assert mended.changes == Counter({"names alike": 1, "class without objects": 1, "doubled": 1})


def test_broken_and_leaking_pictures_are_left_out_of_the_earlier_split():
    train = [picture(name) for name in ("a.png", "copy.png", "again.png", "broken.png")]
    decoded = {name: pixels("a.png") for name in ("copy.png", "again.png", "v.png")}
    decoded["broken.png"] = Pixels("cannot", b"", np.empty(0))
    mended = mend(snapshot(train, [picture("v.png"), picture("w.png")], decoded=decoded))
    assert {split: [p.path.name for p in found] for split, found in mended.data.splits.items()} == {
        "train": [],
        "val": ["v.png", "w.png"],
    }
    assert mended.changes["picture of a later split"] == 3
    assert mended.changes["unreadable picture"] == 1


def test_a_faultless_set_stays_as_it_is():
    train = [picture("a.png", thing(0, (0.125, 1, 99.5, 79)), thing(1, (5, 5, 9, 9), ignored=True))]
    data = snapshot(train, [picture("b.png")])
    mended = mend(data)
    assert mended.changes == Counter()
    assert mended.data.splits == data.data.splits


@pytest.fixture
def stored(tmp_path):
    """Real files: two pictures of one name, one with an EXIF turn; an ignored object; names that need care."""
    turn = Image.Exif()
    turn[0x0112] = 6
    for folder, size, exif in (("x", (40, 30), turn), ("y", (20, 20), None), ("z", (30, 20), None)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        noise = np.random.default_rng(len(folder) + size[0]).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / folder / "Same.jpg", exif=exif or Image.Exif())
    root = tmp_path / "in"
    train = (
        Picture(root / "x" / "Same.jpg", (30, 40), (Object(1, (0.1, 2, 29.7, 39)), Object(0, (3, 4, 5, 6), True)), 6),
        Picture(root / "y" / "Same.jpg", (20, 20)),
    )
    val = (Picture(root / "z" / "Same.jpg", (30, 20), (Object(0, (0, 0, 30, 20)),)),)
    return DataSet("csv", root, ("香蕉", "a <b>"), {"train": train, "val": val, "test": ()})


def test_what_is_written_reads_back_the_same(stored, tmp_path):
    write_coco(stored, tmp_path / "out")
    back = read_data_set(tmp_path / "out")
    assert (back.format, back.class_names, back.problems) == ("coco", stored.class_names, ())
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == [
        "Same-2.jpg",
        "Same.jpg",
        "_annotations.coco.json",
    ]
    for split in ("train", "val"):
        for was, now in zip(stored.splits[split], back.splits[split], strict=True):
            assert (now.size, now.turned) == (was.size, was.turned)
            assert now.path.read_bytes() == was.path.read_bytes()
            assert [(item.class_id, item.ignored) for item in now.objects] == [
                (item.class_id, item.ignored) for item in was.objects
            ]
            np.testing.assert_allclose([i.box for i in now.objects], [i.box for i in was.objects], atol=1e-9)
    assert not (tmp_path / "out" / "test").exists()


def test_boxes_before_the_turn_are_turned_with_the_pixels(tmp_path):
    """Red pixels under the box of the stored picture are under the box of the mended one."""
    for turn in range(5, 9):
        root = tmp_path / str(turn)
        (root / "train").mkdir(parents=True)
        (root / "val").mkdir()
        exif = Image.Exif()
        exif[0x0112] = turn
        stored = Image.new("RGB", (200, 60), "black")
        stored.paste("red", (150, 10, 190, 30))
        stored.save(root / "train" / "a.png", exif=exif)
        Image.effect_noise((50, 50), 90).save(root / "val" / "b.png")
        pictures = (
            Picture(root / "train" / "a.png", (60, 200), (Object(0, (150, 10, 190, 30)),), turn),
            Picture(root / "val" / "b.png", (50, 50), (Object(0, (1, 1, 9, 9)),)),
        )
        data = DataSet("csv", root, ("red",), {"train": pictures[:1], "val": pictures[1:]})
        mended = mend(take_snapshot(data))
        (item,) = mended.data.splits["train"][0].objects
        write_coco(mended.data, root / "out")
        with Image.open(root / "out" / "train" / "a.png") as copy:
            upright = np.asarray(ImageOps.exif_transpose(copy))[..., 0]
        x1, y1, x2, y2 = map(int, item.box)
        assert upright[y1:y2, x1:x2].min() == 255
        assert upright.sum() == 255 * (x2 - x1) * (y2 - y1)


def test_where_a_copy_may_not_be_written(tmp_path):
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    (root / "train" / "a.txt").write_text("")
    for out in (root, root / "fixed", root / "train" / ".." / "fixed"):
        with pytest.raises(ConfigError, match="lies inside"):
            refuse_folder(out, root)
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(ConfigError, match="lies inside"):
        refuse_folder(tmp_path / "link" / "fixed", root)
    with pytest.raises(ConfigError, match="holds files already"):
        refuse_folder(tmp_path, root)
    with pytest.raises(ConfigError, match="is no folder"):
        refuse_folder(root / "train" / "a.txt", tmp_path / "other")
    (tmp_path / "empty").mkdir()
    refuse_folder(tmp_path / "empty", root)
    refuse_folder(tmp_path / "new" / "one", root)


def test_copies_are_whole_or_have_no_labels(stored, tmp_path):
    stored.splits["train"][1].path.unlink()
    with pytest.raises(FileNotFoundError):
        write_coco(stored, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.json"))
