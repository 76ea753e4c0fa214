"""`tinyssd predict`: what it looks at, and what it leaves in the folder of results."""

from __future__ import annotations

import csv
import json
import os
import signal

import pytest
import torch
from PIL import Image
from test_app_pictures import BROKEN_EXIF, exif, unknown_dds
from tinyssd.cli import main
from tinyssd.data.config import DataConfig
from tinyssd.drawing.fonts import font_for
from tinyssd.errors import CheckpointError, ConfigError, DataError
from tinyssd.model.network import TinySSD, TinySSDConfig
from tinyssd.prediction import files
from tinyssd.prediction.inputs import find_inputs
from tinyssd.prediction.outputs import Results
from tinyssd.prediction.predict import Detection, predict_picture, predict_pictures
from tinyssd.run.checkpoint import save_checkpoint
from tinyssd.run.config import RunConfig

TINY = TinySSDConfig(
    num_classes=3,
    image_size=(32, 32),
    widths=((8,), (8,), ()),
    sizes=((0.2, 0.3), (0.4, 0.5), (0.8, 0.9)),
    ratios=((1.0, 2.0, 0.5),) * 3,
)
NAMES = ("square", "disc")
FOUND = [Detection("disc", 1, 0.75, (0.1, 0.2, 0.5, 0.4))]


def network() -> TinySSD:
    torch.manual_seed(0)
    return TinySSD.from_config(TINY).eval()


def save_run(folder, model):
    folder.mkdir()
    config = RunConfig(NAMES, TINY, DataConfig())
    progress = {"epoch": 1, "step": 0, "loss_sum": 0.0, "history": []}
    contents = {"config": config.to_dict(), "model": model.state_dict(), "progress": progress}
    save_checkpoint(folder / "checkpoint.pt", contents)
    return folder


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose network is untrained; it finds something everywhere."""
    return save_run(tmp_path / "run", network())


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    for name in ("a.JPG", "b.png", "below/a.jpeg", "below/c.webp"):
        Image.new("RGB", (60, 40), "teal").save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def predict(run, *arguments, out):
    return main(["predict", *map(str, arguments), "--run", str(run), "--out", str(out), "--device", "cpu"])


def rows_of(out):
    return json.loads((out / "predictions.json").read_text())


def test_folders_are_searched_downwards_and_originals_keep_their_format(run, pictures, tmp_path):
    assert predict(run, pictures, "--score", "0.1", out=tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    assert [row["drawn"] for row in rows] == ["a.JPG", "b.png", "a.jpeg", "c.png"]
    formats = {row["drawn"]: Image.open(tmp_path / "out" / row["drawn"]).format for row in rows}
    assert formats == {"a.JPG": "JPEG", "b.png": "PNG", "a.jpeg": "JPEG", "c.png": "PNG"}


def test_patterns_and_names_are_taken_once(pictures, tmp_path):
    found = find_inputs([str(pictures / "*.[Jp]*"), pictures / "b.png", str(pictures / "**" / "c.webp")], tmp_path)
    assert [path.name for path in found] == ["a.JPG", "b.png", "c.webp"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://example.org/photo.jpg", "a web address; download it"),
        ("nowhere/*.jpg", "no file fits this pattern"),
        ("nowhere.jpg", "no such file or folder"),
        ("empty", "no picture in this folder"),
    ],
)
def test_what_is_no_picture_is_an_error(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_inputs([name], tmp_path / "out")


def test_own_results_are_not_looked_at_and_stale_ones_go(run, pictures, tmp_path):
    out = pictures / "out"
    assert predict(run, pictures, out=out) == 0
    (out / "mine.png").write_bytes(b"mine")
    assert predict(run, pictures / "below", out=out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.jpeg", "c.png", "mine.png", "predictions.json"]
    assert len(rows_of(out)) == 2


def test_a_link_to_an_original_in_the_results_folder_protects_it(pictures, tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(pictures / "b.png")
    with pytest.raises(ConfigError, match="choose another folder"):
        Results(pictures, NAMES, [link])


def test_what_lies_in_the_results_folder_is_kept(run, pictures, tmp_path):
    """Files of other calls' and of anybody's, a folder, a link: none is written over, and none keeps others away."""
    out, mine = tmp_path / "out", tmp_path / "mine.png"
    (out / "a.JPG").mkdir(parents=True)
    (out / "c.png").write_bytes(b"mine")
    mine.write_bytes(b"mine too")
    (out / "b.png").symlink_to(mine)
    for _ in range(2):
        assert predict(run, pictures, out=out) == 0
        assert [row["drawn"] for row in rows_of(out)] == ["a-2.JPG", "b-2.png", "a.jpeg", "c-2.png"]
    assert (out / "c.png").read_bytes() == b"mine"
    assert (out / "b.png").read_bytes() == b"mine too"


def test_labels_of_the_pictures_are_kept(run, tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "images" / "a.png")
    labels = tmp_path / "labels" / "a.txt"
    labels.write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels").symlink_to(tmp_path / "labels")
    for out in (tmp_path, tmp_path / "out"):
        assert predict(run, tmp_path / "images" / "a.png", "--score", "0", "--write", "yolo", out=out) != 0
        assert "labels: holds the labels of the pictures; choose another folder" in capsys.readouterr().err
        assert labels.read_text() == "0 0.5 0.5 0.1 0.1\n"


def test_no_picture_takes_the_others_with_it(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "z.png"):
        Image.new("RGB", (60, 40), "teal").save(folder / name)
    (folder / "b.png").write_bytes(unknown_dds())
    Image.new("RGB", (60, 40)).save(folder / "c.jpg", exif=exif(*BROKEN_EXIF["width_as_text"]))
    (folder / "d.jpg").write_bytes(b"no picture")
    assert predict(run, folder, out=tmp_path / "out") == 2
    assert [row["drawn"] for row in rows_of(tmp_path / "out")] == ["a.png", "c.jpg", "z.png"]


def test_long_and_equal_names_fit(tmp_path):
    results = Results(tmp_path / "out", NAMES, [])
    names = [results.free_name("\u65b9" * 120, ".png") for _ in range(2)]
    assert len(set(names)) == 2
    assert all(len(name.encode()) < 230 for name in names)


def test_the_formats_say_the_same(tmp_path):
    results = Results(tmp_path / "out", NAMES, [])
    for stem in ("000017", "000004"):
        results.add(tmp_path / f"{stem}.jpg", f"{stem}.jpg", (200, 100), FOUND)
    assert results.write(["coco", "csv", "yolo"]) == [
        "predictions.json",
        "coco_results.json",
        "predictions.csv",
        "labels/",
    ]
    out = tmp_path / "out"
    coco = json.loads((out / "coco_results.json").read_text())
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in coco] == [
        (17, 2, [20.0, 20.0, 80.0, 20.0]),
        (4, 2, [20.0, 20.0, 80.0, 20.0]),
    ]
    lines = list(csv.DictReader((out / "predictions.csv").open()))
    assert [float(lines[0][side]) for side in ("xmin", "ymin", "xmax", "ymax")] == [20, 20, 100, 40]
    assert (out / "labels" / "000017.txt").read_text() == "1 0.300000 0.300000 0.400000 0.200000 0.7500\n"


def test_a_batch_gives_what_each_picture_gives():
    model = network()
    pictures = [Image.effect_noise(size, 80).convert("RGB") for size in ((64, 48), (30, 90), (32, 32))]
    together = predict_pictures(model, pictures, NAMES, 0.3)
    for picture, found in zip(pictures, together, strict=True):
        alone = predict_picture(model, picture, NAMES, 0.3)
        assert [d.label for d in found] == [d.label for d in alone]
        assert [d.box for d in found] == [pytest.approx(d.box, abs=1e-4) for d in alone]
    assert predict_pictures(model, [], NAMES, 0.3) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_answers_nan_is_an_error(value, tmp_path, pictures, capsys):
    model = network()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    with pytest.raises(CheckpointError, match="answers NaN or infinity"):
        predict_picture(model, Image.new("RGB", (9, 9)), NAMES, 0.5)
    assert predict(save_run(tmp_path / "broken", model), pictures / "b.png", out=tmp_path / "out") == 2
    assert "answers NaN or infinity" in capsys.readouterr().err
    assert rows_of(tmp_path / "out") == []


def test_ctrl_c_keeps_what_was_found(run, pictures, tmp_path, monkeypatch, capsys):
    read, calls = files.read_picture, []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return read(path)

    monkeypatch.setattr(files, "read_picture", interrupted)
    monkeypatch.setattr(files, "_BATCH", 1)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert predict(run, pictures, out=tmp_path / "out") == 130
    finally:
        signal.signal(signal.SIGINT, previous)
    assert len(rows_of(tmp_path / "out")) == 2
    assert "2 of 4 files before it was stopped" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_never_ends_is_not_read(run, pictures, tmp_path, capsys):
    names = ("fifo.png", "fifo.mp4")
    for name in names:
        os.mkfifo(tmp_path / name)
    command = [*(tmp_path / name for name in names), "/dev/zero", pictures / "b.png"]
    assert predict(run, *command, out=tmp_path / "out") == 2
    assert len(rows_of(tmp_path / "out")) == 1
    assert capsys.readouterr().err.count("not a regular file") == 3


def test_video_frames_become_rows_and_a_video(run, tmp_path):
    from fractions import Fraction

    from tinyssd.prediction.video import VideoWriter, read_frames

    writer = VideoWriter(tmp_path / "clip.mp4", Fraction(10))
    for shade in range(12):
        writer.add(Image.new("RGB", (64, 48), (20 * shade, 90, 90)))
    writer.close()
    (tmp_path / "broken.mp4").write_bytes(bytes(5000))
    assert predict(run, tmp_path / "clip.mp4", tmp_path / "broken.mp4", out=tmp_path / "out") == 2
    rows = rows_of(tmp_path / "out")
    assert [row["time"] for row in rows] == pytest.approx([0.1 * frame for frame in range(12)])
    assert {row["drawn"] for row in rows} == {"clip.mp4"}
    assert len(list(read_frames(tmp_path / "out" / "clip.mp4"))) == 12


def test_text_of_any_script_is_drawn_or_escaped(monkeypatch):
    from tinyssd.drawing import fonts

    assert font_for("disc \u00fc", 20)[0] == "disc \u00fc"
    assert font_for("\u0434\u0438\u0441\u043a", 20)[0] == "\u0434\u0438\u0441\u043a"
    monkeypatch.setattr(fonts, "_font_with", lambda letters: None)
    assert font_for("\u65b9 1", 20)[0] == "\\u65b9 1"
