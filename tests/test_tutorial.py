"""docs/tutorial.md, block by block, in its short form: one epoch of few pixels."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import tinyssd
from tinyssd.cli import main

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "bccd"
SHORT = ["--epochs=1", "--image-size=64", "--workers=0"]

pytestmark = [
    pytest.mark.skipif(not TUTORIAL.exists(), reason="an installed package is tested, not a source tree"),
    pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="the photographs (shared/data/bccd) are not here"),
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"),
]


def blocks():
    return re.findall(r"```(bash|python)\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)


def test_tutorial(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BCCD_Dataset").symlink_to(PHOTOGRAPHS)
    whole = tinyssd.train
    short = {"epochs": 1, "image_size": 64, "workers": 0}
    monkeypatch.setattr(tinyssd, "train", lambda *where: whole(*where, **short), raising=False)
    run = []
    for language, block in blocks():
        if language == "python":
            exec(compile(block, str(TUTORIAL), "exec"), {})
            continue
        for line in block.splitlines():
            program, *words = shlex.split(line)
            if program != "tinyssd":
                assert program in ("pip", "git"), line
                continue
            status = main([*words, *(SHORT if words[0] == "train" else [])])
            assert status == 0 or (words[0] == "check" and status in (1, 3)), capsys.readouterr().err
            run.append(words[0])
    assert run == ["check", "train", "report", "predict", "export"]
    for file in ("check.html", "runs/cells/report.html", "found/predictions.json", "runs/again/export/model.onnx"):
        assert (tmp_path / file).stat().st_size > 100
