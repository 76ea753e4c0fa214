"""Tables as people and tools write them, and what is said of what cannot be read."""

from __future__ import annotations

import pytest
from labelled import save_picture
from PIL import Image
from tinyssd.data.config import Choice
from tinyssd.data.open import open_folder, training_set
from tinyssd.data.read import read_data_set
from tinyssd.errors import DataError

HEADER = "img_name,label,xmin,ymin,xmax,ymax\n"
BOX = (8, 4, 40, 30)


@pytest.fixture
def folder(tmp_path):
    """A data set of one training and one validation picture, 64x32, whose training table is to be written."""
    for split in ("train", "val"):
        save_picture(tmp_path / f"toy_{split}" / "images" / f"{split}.png")
    (tmp_path / "toy_val" / "label.csv").write_text(f"{HEADER}val.png,0,1,2,3,4\n")
    (tmp_path / "toy_train" / "label.csv").touch()
    return tmp_path


def read(folder, text, encoding="utf-8", **choice):
    (folder / "toy_train" / "label.csv").write_bytes(text.encode(encoding))
    return read_data_set(folder, Choice(**choice))


def boxes(data_set):
    return [thing.box for thing in data_set.splits["train"][0].objects]


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "train.png,0,8,4,40,30\n",
        HEADER + "\ntrain.png,0,8,4,40,30\n   \n,,,,,\n",
        "\ufeff" + HEADER + "train.png,0,8,4,40,30\n",
        (HEADER + "train.png,0,8,4,40,30\n").replace("\n", "\r\n"),
        (HEADER + "train.png,0,8,4,40,30\n").replace(",", " , "),
        (HEADER + "train.png,0,8,4,40,30\n").replace(",", ";"),
        (HEADER + "train.png,0,8,4,40,30\n").replace(",", "\t"),
        (HEADER + "train.png,0,8.0,4.0,40.0,30.0\n").replace(",", ";").replace(".0", ",0"),
        HEADER + "train.png,0.0,8.0,4.0,40.0,30.0\n",
        "xmin,ymin,xmax,ymax,label,note,img_name\n8,4,40,30,0,,train.png\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\ntrain.png,64,32,0,8,4,40,30\n",
        "Image Name,Class,X1,Y1,X2,Y2\ntrain.png,0,8,4,40,30\n",
        "image,label,x,y,w,h\ntrain.png,0,8,4,32,26\n",
        "filename,x,y,width,height,class\ntrain.png,8,4,32,26,0\n",
        ",img_name,label,xmin,ymin,xmax,ymax\n0,train.png,0,8,4,40,30\n",
        "train.png,0,8,4,40,30\n",
        "images/train.png,8,4,40,30,0x\n",
        HEADER + "images/train.png,0,8,4,40,30\n",
        HEADER + "C:\\Users\\me\\set\\images\\train.png,0,8,4,40,30\n",
        HEADER + "/home/me/set/toy_train/images/train.png,0,8,4,40,30\n",
        HEADER + "../../../../train.png,0,8,4,40,30\n",
        HEADER + "TRAIN.PNG,0,8,4,40,30\n",
        HEADER + "train.jpg,0,8,4,40,30\n",
        HEADER + "train,0,8,4,40,30\n",
        HEADER + "train.png,0,0.125,0.125,0.625,0.9375\n",
    ],
    ids=[
        *("plain", "blank lines", "mark", "CRLF", "spaces", "semicolons", "tabs", "decimal commas", "floats", "order"),
        *("TensorFlow", "other names", "x y w h", "x y width height", "index of pandas", "no header", "class last"),
        *("folder", "Windows", "absolute", "out of the folder", "case", "suffix", "no suffix", "shares"),
    ],
)
def test_tables_as_others_write_them(folder, text):
    found = read(folder, text)
    assert boxes(found) == [BOX]
    assert not [problem for problem in found.problems if problem.severity != "note"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark(folder, encoding):
    save_picture(folder / "toy_train" / "images" / "猫.png")
    found = read(folder, HEADER + "猫.png,Küche,8,4,40,30\n", encoding)
    assert found.class_names == ("0", "Küche")
    assert boxes(found) == [BOX]


def test_names_with_commas_and_quotes(folder):
    save_picture(folder / "toy_train" / "images" / 'hall, "left".png')
    assert boxes(read(folder, HEADER + '"hall, ""left"".png",0,8,4,40,30\n')) == [BOX]


@pytest.mark.parametrize("line", ["train.png,,,,,", "train.png,nan,nan,nan,nan,nan", "train.png,None,,,,"])
def test_picture_without_objects(folder, line):
    found = read(folder, f"{HEADER}{line}\n")
    assert boxes(found) == []
    assert not found.problems


def test_corners_that_are_x_y_width_height_are_read_so(folder):
    found = read(folder, HEADER + "train.png,0,30,4,8,20\ntrain.png,0,50,2,9,3\n")
    assert boxes(found) == [(30, 4, 38, 24), (50, 2, 59, 5)]
    assert found.notes[0] == "toy_train/label.csv has x, y, width, height where it says corners, and is read so"
    # Not where a box would then reach out of its picture.
    found = read(folder, HEADER + "train.png,0,30,4,8,20\ntrain.png,0,50,2,60,3\n")
    assert boxes(found) == [(30, 4, 8, 20), (50, 2, 60, 3)]


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        ((0, 1), ("class 0", "class 1"), [0, 1]),
        ((1, 2), ("class 1", "class 2"), [0, 1]),
        ((3, 900), ("class 3", "class 900"), [0, 1]),
        (("dog", "cat"), ("cat", "dog"), [1, 0]),
        (("9", "cat"), ("9", "cat"), [0, 1]),
        (("\x1b[31mred", "x"), ("\\x1b[31mred", "x"), [0, 1]),
    ],
)
def test_classes_without_a_list(folder, labels, names, ids):
    (folder / "toy_val" / "label.csv").write_text(f"{HEADER}val.png,,,,,\n")
    found = read(folder, HEADER + "".join(f"train.png,{label},8,4,40,30\n" for label in labels))
    assert found.class_names == names
    assert [thing.class_id for thing in found.splits["train"][0].objects] == ids


def test_the_only_class_is_called_as_the_folder(folder):
    assert read(folder, HEADER + "train.png,0,8,4,40,30\n").class_names == ("toy",)


def test_classes_with_a_list(folder):
    text = HEADER + "train.png,1,8,4,40,30\ntrain.png,2,8,4,40,31\n"
    (folder / "toy_val" / "label.csv").write_text(f"{HEADER}val.png,,,,,\n")
    (folder / "classes.txt").write_bytes("\ufeffKätzchen\r\ndog\r\n\r\n".encode())
    found = read(folder, text)
    assert found.class_names == ("Kätzchen", "dog")
    assert [thing.class_id for thing in found.splits["train"][0].objects] == [0, 1]
    assert "classes are counted from 1" in found.notes
    found = read(folder, text.replace(",1,", ",dog,").replace(",2,", ",Dog,"))
    assert found.class_names == ("Kätzchen", "dog", "Dog")
    assert [problem.kind for problem in found.problems] == ["unlisted class", "names alike"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n", "no class name"), (b"a\nb\na\n", "the class name a stands in it twice"), (b"K\xe4tzchen\n", "in UTF-8")],
)
def test_wrong_list_of_classes_is_an_error(folder, content, message):
    (folder / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"classes\.txt.*: .*{message}"):
        read(folder, HEADER + "train.png,0,8,4,40,30\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train.png,0,1,one,5,5", "line 3: ymin must be a number, got 'one'"),
        ("train.png,0,1,1,5", "line 3: expected 6 fields, got 5"),
        ("train.png,0,1,5,1,5,5,0,5,0", "line 3: expected 6 fields, got 10"),
        ("train.png,0,1,1,5,", "line 3: ymax must be a number, got ''"),
        ("train.png,0,1,1,nan,5", "line 3: xmax must be a number, got 'nan'"),
        ("train.png,0,1,1,inf,5", "line 3: xmax must be a number, got 'inf'"),
        ("train.png,0,1,1,1e300,5", "line 3: xmax must be a number, got '1e300'"),
        ("train.png,-1,1,1,5,5", "line 3: the class must be a name or a whole number from 0, got '-1'"),
        ("train.png,0.5,1,1,5,5", "line 3: the class must be a name or a whole number from 0, got '0.5'"),
        ("train.png,,1,1,5,5", "line 3: the class must be a name or a whole number from 0, got ''"),
        ("gone.png,0,1,1,5,5", "line 3: gone.png: no such picture"),
        ("trian.png,0,1,1,5,5", "line 3: trian.png: no such picture; did you mean train.png?"),
        ('"train.png,0,1,1,5,5', "line 3: the rest of the file cannot be read as CSV (unexpected end of data)"),
    ],
)
def test_wrong_line_is_said_and_left_out(folder, line, message):
    found = read(folder, f"{HEADER}train.png,0,8,4,40,30\n{line}\n")
    assert boxes(found) == [BOX]
    assert [str(problem) for problem in found.problems] == [f"{folder}/toy_train/label.csv, {message}"]
    with pytest.raises(DataError, match="--strict, and 1 things are wrong"):
        training_set(folder, Choice(), strict=True)


@pytest.mark.parametrize(
    ("box", "kept", "kind", "message"),
    [
        ((-1, 4, 40, 30), (0, 4, 40, 30), "clipped", "reaches beyond its 64x32 picture"),
        ((8, 4, 65, 30), (8, 4, 64, 30), "clipped", "reaches beyond its 64x32 picture"),
        ((8, 4, 64.25, 30), (8, 4, 64, 30), None, ""),
        ((8, 4, 8, 30), None, "no area", "has no area"),
        ((40, 30, 8, 4), BOX, "corners swapped", "has its corners in the wrong order"),
        ((70, 4, 80, 30), None, "outside", "is outside its 64x32 picture"),
        ((1, 1, 5, 5), None, "doubled", "stands there twice"),
    ],
)
def test_boxes_are_mended_for_training_and_counted(folder, box, kept, kind, message):
    lines = [(1, 1, 5, 5), (20, 20, 25, 25), (30, 20, 35, 25), (50, 25, 60, 31), box]
    text = HEADER + "".join(f"train.png,0,{','.join(map(str, corners))}\n" for corners in lines)
    assert boxes(read(folder, text))[-1] == box
    found = training_set(folder, Choice())
    assert boxes(found)[4:] == ([kept] if kept else [])
    assert [(problem.kind, problem.line) for problem in found.problems] == ([(kind, 6)] if kind else [])
    assert all(message in str(problem) for problem in found.problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "no object to train on in it"),
        (HEADER + "train.png,,,,,\n", "no object to train on in it"),
        (
            HEADER + "train.png,0,8,4,8,30\n",
            r"no object to train on in it: .*line 2: the box .* has no area \(1 such\)",
        ),
        (
            HEADER + "gone.png,0,8,4,40,30\n",
            r"no training picture is there or can be read; .*line 2: gone\.png: no such picture",
        ),
    ],
)
def test_nothing_to_train_on_is_an_error(folder, text, message):
    save_picture(folder / "toy_train" / "images" / "other.png")
    if "gone" not in text:
        text += "other.png,,,,,\n"
    (folder / "toy_train" / "label.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_folder(folder)


def test_table_of_another_encoding_is_an_error(folder):
    with pytest.raises(DataError, match=r"label\.csv, line 2: not in UTF-8 \(0xe4\); save the file in UTF-8"):
        read(folder, HEADER + "\u00e4.png,0,1,1,5,5\n", "latin-1")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no labels of a known format .* but nothing"),
        ({"a.png": "", "b.png": ""}, r"no labels of a known format .* but 2 \.png"),
        (
            {"a.json": '{"shapes": [{"label": "cat", "points": [[1, 2]]}]}'},
            r"a\.json is in LabelMe's own format",
        ),
        ({"a.json": '[{"annotations": [{"result": [{"from_name": "label"}]}]}]'}, "in Label Studio's own format"),
        ({"a.json": '{"a.png": {"regions": [{"region_attributes": {}}]}}'}, "in VIA's own format"),
        ({"a.json": '{"objects": [{"classTitle": "cat", "points": {}}]}'}, "in Supervisely's own format"),
        ({"a.xml": '<annotations><image id="0" name="a.png"/></annotations>'}, r"a\.xml is in CVAT's own format"),
        ({"table.csv": "name;x\n1;2\n"}, r"but 1 \.csv; table\.csv has no a column for the picture|but 1 \.csv"),
    ],
)
def test_nothing_known_says_what_there_is(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_folder(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        open_folder(tmp_path / "gone")
    (tmp_path / "a.ZIP").touch()
    with pytest.raises(DataError, match=r"a\.ZIP: an archive; unpack it and name the folder"):
        open_folder(tmp_path / "a.ZIP")


def test_pictures_without_objects_alone_are_an_error(tmp_path):
    for name in "abc":
        save_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").touch()
    with pytest.raises(DataError, match=r"no object to train on in it$"):
        open_folder(tmp_path)


@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_of_a_photo_before_its_turn_are_turned_with_it(folder, turn):
    """A box of the stored pixels ends up on what it marks in the upright picture."""
    stored = Image.new("RGB", (64, 32))
    stored.paste((255, 255, 255), BOX)
    exif = Image.Exif()
    exif[0x0112] = turn
    path = folder / "toy_train" / "images" / "train.png"
    stored.save(path, exif=exif)
    text = HEADER + "train.png,0,8,4,40,30\ntrain.png,0,60,2,64,9\n"
    read(folder, text)
    source, _ = open_folder(folder)
    example = source.example(0, 0)
    if turn in (2, 3, 4):  # Half a turn and mirror images keep the frame, so nothing shows which one was labelled.
        assert source.example(0, 0).labels[0, 1:].tolist() == [8 / 64, 4 / 32, 40 / 64, 30 / 32]
        return
    width, height = example.image.size
    x1, y1, x2, y2 = (example.labels[0, 1:] * [width, height, width, height]).round().astype(int)
    assert example.image.convert("L").point(lambda value: 255 * (value > 127)).getbbox() == (x1, y1, x2, y2)


def test_pictures_that_disagree_about_the_turn_are_left_out(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("train", "other"):
        Image.new("RGB", (64, 32)).save(folder / "toy_train" / "images" / f"{name}.png", exif=exif)
    read(folder, HEADER + "train.png,0,8,4,40,30\nother.png,0,8,4,30,60\n")
    found = training_set(folder, Choice())
    assert [picture.path.name for picture in found.splits["train"]] == ["other.png"]
    (problem,) = found.problems
    assert str(problem).endswith("train.png: skipped: its boxes fit only the picture before its EXIF turn")


def test_broken_pictures_are_found_before_the_training(folder):
    whole = (folder / "toy_train" / "images" / "train.png").read_bytes()
    noise = Image.effect_noise((64, 32), 50)
    noise.save(folder / "toy_train" / "images" / "half.jpg")
    jpeg = (folder / "toy_train" / "images" / "half.jpg").read_bytes()
    (folder / "toy_train" / "images" / "tail.jpg").write_bytes(jpeg + b"appended" * 2000)
    contents = {
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "half.jpg": jpeg[: len(jpeg) // 2],
        "text.jpg": b"no picture",
    }
    for name, content in contents.items():
        (folder / "toy_train" / "images" / name).write_bytes(content)
    (folder / "toy_train" / "images" / "folder.jpg").mkdir()
    names = ["train.png", "tail.jpg", *contents, "folder.jpg"]
    found = read(folder, HEADER + "".join(f"{name},0,8,4,40,30\n" for name in names))
    assert [picture.path.name for picture in found.splits["train"]] == ["train.png", "tail.jpg"]
    unreadable = {p.file.name for p in found.problems if p.kind == "unreadable picture"}
    assert unreadable == set(contents)
    assert [p.message for p in found.problems if p.kind == "no picture"] == ["folder.jpg: no such picture"]


def test_size_that_the_labels_say_is_compared(folder):
    found = read(folder, "filename,width,height,class,xmin,ymin,xmax,ymax\ntrain.png,128,64,0,8,4,40,30\n")
    assert [p.message for p in found.problems] == ["labelled as 128x64, the picture has 64x32"]
