"""The command line from end to end, with tiny settings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tinyssd.cli import main

TINY = {
    "model": {
        "image_size": [32, 32],
        "widths": [[8], [8], []],
        "sizes": [[0.2, 0.3], [0.4, 0.5], [0.8]],
        "ratios": [[1, 2], [1], [1]],
    },
    "data": {"train_size": 8, "val_size": 4},
    "train": {"epochs": 1, "batch_size": 4, "workers": 0},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    status = main(["train", "--config", str(folder / "tiny.json"), "--run", str(folder / "run"), "--device", "cpu"])
    assert status == 0
    return folder / "run"


def test_help_does_not_wait_for_torch():
    code = "import sys, tinyssd.cli; tinyssd.cli._parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning_unless_told_to(before, after, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if before is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    assert main(["info"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == after


def test_train_leaves_pictures(run):
    for name in ("curves.png", "predictions.png"):
        assert Image.open(run / name).width > 500


def test_eval(run, capsys):
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert "AP50" in capsys.readouterr().out
    assert json.loads((run / "eval.json").read_text())["pictures"] == 4


def test_eval_compares_classes_by_name(run, tmp_path, capsys):
    for split in ("train", "val"):
        images = tmp_path / f"toy_{split}" / "images"
        images.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(images / "a.png")
        (images.parent / "label.csv").write_text(
            "img_name,label,xmin,ymin,xmax,ymax\na.png,0,1,1,9,9\na.png,1,1,1,9,9\n"
        )
    (tmp_path / "classes.txt").write_text("star\nwhale\n")
    command = ["eval", str(run), "--device", "cpu", "--workers", "0", "--data", str(tmp_path)]
    assert main(command) == 0
    output = capsys.readouterr()
    assert "the run knows no whale: objects of that name are left out" in output.err
    assert re.search(r"AP, fish +-\n +AP, star +\d\.\d{3}\n", output.out)
    per_class = json.loads((run / "eval.json").read_text())["ap_per_class"]
    assert [ap is None for ap in per_class] == [True, False, True]  # fish, star, heart
    (tmp_path / "classes.txt").write_text("dog\nwhale\n")
    assert main(command) == 2
    assert "has the classes dog, whale, the run finds fish, star, heart: none in common" in capsys.readouterr().err


def test_predict(run, tmp_path, capsys):
    for folder, size in (("a", (100, 60)), ("b", (700, 900))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", size, "teal").save(tmp_path / folder / "x.png")
    pictures = [str(tmp_path / "a"), str(tmp_path / "b" / "x.png")]
    command = ["predict", *pictures, "--out", str(tmp_path / "out"), "--run", str(run), "--score", "0.05"]
    assert main([*command, "--device", "cpu"]) == 0
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(result["width"], result["height"]) for result in results] == [(100, 60), (700, 900)]
    assert [result["drawn"] for result in results] == ["x.png", "x-2.png"]
    assert any(result["detections"] for result in results)
    for result in results:
        assert (tmp_path / "out" / result["drawn"]).is_file()
        for detection in result["detections"]:
            x1, y1, x2, y2 = detection["box"]
            assert 0 <= x1 <= x2 <= result["width"]
            assert 0 <= y1 <= y2 <= result["height"]


def test_predict_never_writes_among_the_pictures(run, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    before = (tmp_path / "x.png").read_bytes()
    assert main(["predict", str(tmp_path / "x.png"), "--out", str(tmp_path), "--run", str(run)]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_predict_goes_on_after_a_picture_that_cannot_be_read(run, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.jpg").write_text("no picture")
    (pictures / "b.jpg").mkdir()
    Image.new("L", (9, 9)).save(pictures / "c.jpg")
    assert main(["predict", str(pictures), "--out", str(tmp_path / "out"), "--run", str(run), "--device", "cpu"]) == 2
    assert [row["drawn"] for row in json.loads((tmp_path / "out" / "predictions.json").read_text())] == ["c.jpg"]
    output = capsys.readouterr()
    assert "wrote 1 picture and" in output.out
    assert output.err.startswith(f"tinyssd: error: {pictures / 'a.jpg'}: cannot read this picture")


def test_output_folder_that_is_a_file_is_one_sentence(run, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    (tmp_path / "out").touch()
    assert main(["predict", str(tmp_path / "x.png"), "--out", str(tmp_path / "out"), "--run", str(run)]) == 2
    assert capsys.readouterr().err == f"tinyssd: error: {tmp_path / 'out'}: File exists\n"


def test_resume_of_a_finished_run_changes_nothing(run, capsys):
    before = (run / "metrics.jsonl").read_text()
    assert main(["train", "--resume", str(run)]) == 0
    assert (run / "metrics.jsonl").read_text() == before


def test_the_length_is_told_in_passes():
    """Of few pictures an epoch is several passes; ``--epochs`` counts passes of one."""
    from tinyssd.commands.common import describe
    from tinyssd.training.demo import demo_config

    config = demo_config()
    config = replace(config, train=replace(config.train, epochs=1, passes=3))
    assert "for 1 epoch of 3 passes over the pictures on " in describe(config, Path("run"))
    assert "for 1 epoch on " in describe(replace(config, train=replace(config.train, passes=1)), Path("run"))


def test_help_tells_the_defaults(capsys):
    from tinyssd.training.demo import demo_config
    from tinyssd.training.recipe import RECIPE

    demo = demo_config()
    for command, defaults in (
        ("train", (RECIPE["batch_size"], RECIPE["learning_rate"])),
        ("demo", (demo.train.epochs, demo.data.train_size)),
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert all(f"(default: {value})" in text for value in defaults)


def test_demo(tmp_path, capsys):
    command = ["demo", "--run", str(tmp_path / "demo"), "--epochs", "1", "--pictures", "8", "--workers", "0"]
    assert main([*command, "--test-pictures", "8", "--device", "cpu"]) == 0
    assert "AP50" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names >= {"predictions.png", "anchors.png", "curves.png", "test.json", "checkpoint.pt"}


def test_info(capsys):
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    for word in ("torch", "backends", "faster-coco-eval", "defusedxml", "filelock", "shtab"):
        assert word in output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--data", "nowhere"], "no such folder; expected one, or the name 'synthetic' or 'banana'"),
        (["train", "--device", "tpu"], "expected auto, cpu or cuda"),
        (["train", "--epochs", "0"], "expected at least 1"),
        (["train", "--image-size", "8"], "at least 32, got 8"),
        (["train", "--image-size", "0"], "at least 32, got 0"),
        (["train", "--model", "classic", "--image-size", "8"], "too small"),
        (["train", "--loss", "focal"], "add --model classic"),
        (["train", "--lr", "-1"], "expected a positive number"),
        (["train", "--lr", "inf"], "expected a positive number"),
        (["train", "--resume", "nowhere"], "no such run folder"),
        (["train", "--resume", "nowhere", "--lr", "1"], "leave out --lr"),
        (["train", "--config", "nowhere.json"], "cannot be read as JSON"),
        (["train", "--seed", "-1"], "expected at least 0"),
        (["train", "--classes", "nowhere.txt"], "--classes nowhere.txt: no such file"),
        (["train", "--seed", str(2**31)], "less than 2147483648"),
        (["train", "--workers", "-1"], "expected at least 0"),
        (["demo", "--pictures", "0"], "expected at least 1"),
        (["demo", "--test-pictures", "0"], "expected at least 1"),
        (["eval", "nowhere"], "no such checkpoint"),
        (["predict", "nowhere.jpg"], "no such file or folder"),
    ],
)
def test_mistakes_are_one_sentence(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("tinyssd: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_train_does_not_overwrite_a_run(run, capsys):
    assert main(["train", "--run", str(run)]) == 2
    assert f"continue it with 'tinyssd train --resume {run}'" in capsys.readouterr().err
    assert main(["demo", "--run", str(run)]) == 2
    assert "holds a run already" in capsys.readouterr().err
