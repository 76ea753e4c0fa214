"""`tinyssd export`: what is written finds what the network finds, in a process of its own and from C++ too."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tinyssd
import torch
from PIL import Image
from tinyssd.cli import main
from tinyssd.data.config import DataConfig
from tinyssd.errors import ConfigError
from tinyssd.export import formats, write
from tinyssd.export.deployed import Deployed, deployed
from tinyssd.export.write import ExportError, as_input, export
from tinyssd.model.network import TinySSD, TinySSDConfig
from tinyssd.run.checkpoint import load_model, save_checkpoint
from tinyssd.run.config import RunConfig

import tinyssd_ops

NAMES = ("square", "a \x1b[31mdisc")
TINY = TinySSDConfig(
    num_classes=3,
    image_size=(32, 48),
    widths=((8,), (8,), ()),
    sizes=((0.2, 0.3), (0.4, 0.5), (0.8, 0.9)),
    ratios=((1.0, 2.0, 0.5),) * 3,
)
SOURCES = Path(__file__).resolve().parents[1]
ONNX = all(importlib.util.find_spec(name) for name in formats.FORMATS["onnx"].packages)
needs_onnx = pytest.mark.skipif(not ONNX, reason="onnx, onnxscript or onnxruntime is not installed")


def network():
    """Untrained, with scores that differ."""
    torch.manual_seed(0)
    model = TinySSD.from_config(TINY).eval()
    with torch.no_grad():
        for head in model.class_heads:
            head.weight.mul_(5)
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose network is untrained; it finds something everywhere."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    model = network()
    config = RunConfig(NAMES, TINY, DataConfig(train_size=4, val_size=4))
    row = {"best_threshold": 0.5, "best_threshold_per_class": [0.5, 0.5]}
    progress = {"epoch": 1, "step": 0, "loss_sum": 0.0, "history": [row]}
    contents = {"config": config.to_dict(), "model": model.state_dict(), "progress": progress}
    save_checkpoint(folder / "checkpoint.pt", contents)
    return folder


@pytest.fixture(scope="module")
def pictures():
    """Of the network's size, so that nothing has to scale them."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((48, 32), Image.Resampling.BICUBIC) for one in pixels]


@pytest.fixture(scope="module")
def package(run):
    """The AOTInductor package of the run, written by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(run / "inductor"))
        assert main(["export", str(run), "--format", "aoti"]) == 0
    return run / "export" / "model.pt2"


@pytest.mark.parametrize("name", [pytest.param("onnx", marks=needs_onnx), "torchscript"])
def test_written_and_loaded_again(run, pictures, name, capsys):
    assert main(["export", str(run), "--format", name, "--out", str(run / name)]) == 0
    said = capsys.readouterr().out
    assert "finds what the network finds" in said
    assert "README.md" in said
    model, images = deployed(load_model(run)), as_input(pictures, TINY.image_size)
    rows, counts = model(images)
    assert counts.sum() > 10, "else nothing is compared"
    found = formats.FORMATS[name].load(run / name / formats.FORMATS[name].file)
    for batch, wanted, count in ((images, rows, counts), (images[1:2], rows[1:2], counts[1:2])):
        other_rows, other_counts = found(batch)
        assert torch.equal(other_counts, count)
        torch.testing.assert_close(other_rows, wanted, rtol=0, atol=1e-5)
    about = json.loads((run / name / "model.json").read_text())
    assert about["classes"] == list(NAMES)
    assert {path.name for path in (run / name).iterdir()} == {"README.md", formats.FORMATS[name].file, "model.json"}


@needs_onnx
def test_the_readme_works(run, pictures, monkeypatch, capsys):
    out = run / "onnx"
    if not out.is_dir():  # The test above has written it.
        assert main(["export", str(run), "--out", str(out)]) == 0
    pictures[0].save(out / "photo.jpg", quality=95)
    monkeypatch.chdir(out)
    capsys.readouterr()
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    exec("\n".join(blocks[:2]), {})
    assert capsys.readouterr().out.count("\n") > 3


def test_package_in_a_process_without_our_python(package, pictures, tmp_path):
    model, images = deployed(load_model(package.parents[1])), as_input(pictures, TINY.image_size)
    torch.save(images, tmp_path / "images.pt")
    library = sys.modules["tinyssd_ops._C"].__file__
    code = f"""
import sys, torch
torch.ops.load_library({library!r})
model = torch._inductor.aoti_load_package({str(package)!r})
torch.save([model(images) for images in torch.load("images.pt").split([2, 1])], "found.pt")
assert not [name for name in sys.modules if name.startswith("tinyssd")], "the library alone"
"""
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    found = torch.load(tmp_path / "found.pt")
    for (rows, counts), batch in zip(found, images.split([2, 1]), strict=True):
        wanted, wanted_counts = model(batch)
        assert torch.equal(counts, wanted_counts)
        torch.testing.assert_close(rows, wanted, rtol=0, atol=1e-5)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.skipif(not (SOURCES / "examples").is_dir(), reason="an installed package is tested, not a source tree")
def test_cpp_example(package, pictures, tmp_path):
    build = tmp_path / "build"
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", SOURCES / "examples" / "cpp", "-B", build, *ninja]
    # Less optimisation than a release: the kernels compile in half the time, and give the same bits.
    options = [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    for command in ([*configure, *options], ["cmake", "--build", build, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    names = [f"{i}.ppm" for i in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        picture.save(tmp_path / name)
    done = subprocess.run([build / "detect", package, *names], cwd=tmp_path, capture_output=True, text=True, check=True)
    rows, counts = deployed(load_model(package.parents[1]))(as_input(pictures, TINY.image_size))
    wanted = [(names[i], *row.tolist()) for i, count in enumerate(counts.tolist()) for row in rows[i, :count]]
    found = [re.fullmatch(r"(\S+) (.*) (\S+ \S+ \S+ \S+ \S+)", line) for line in done.stdout.splitlines()]
    assert len(found) == len(wanted) > 10
    for line, (name, label, *numbers) in zip(found, wanted, strict=True):
        assert line[1] == name
        assert line[2] == ("square", r"a \x1b[31mdisc")[int(label) - 1]
        assert [float(number) for number in line[3].split()] == pytest.approx(numbers, abs=1e-5)
    broken = subprocess.run(
        [build / "detect", package, "none.ppm"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert broken.returncode == 1
    assert "none.ppm: not a binary PPM" in broken.stderr


def test_a_threshold_for_each_class():
    model, images = network(), torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    everything, _ = Deployed(model, (0.3, 0.3)).eval()(images)
    middle = float(everything[..., 1][everything[..., 0] == 2].median())
    rows, counts = Deployed(model, (0.3, middle)).eval()(images)
    for one, all_of_it, count in zip(rows, everything, counts.tolist(), strict=True):
        wanted = all_of_it[(all_of_it[:, 0] == 1) | ((all_of_it[:, 0] == 2) & (all_of_it[:, 1] >= middle))]
        assert 0 < len(wanted) < int((all_of_it[:, 0] > 0).sum())
        assert torch.equal(one[:count], wanted)
        assert one[count:, 0].eq(-1).all()
        assert one[count:, 1:].eq(0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows, counts: (rows + torch.tensor([0, 0, 1e-3, 0, 0, 0]), counts),
        lambda rows, counts: (rows, counts - 1),
        lambda rows, counts: (rows.index_fill(2, torch.tensor([0]), 1.0), counts),
        lambda rows, counts: (rows[:, :50], counts.clamp(max=50)),
    ],
    ids=["moved", "one less", "other class", "shorter"],
)
def test_what_differs_is_not_written(run, pictures, tmp_path, monkeypatch, wrong):
    trained = load_model(run)
    right = deployed(trained)
    broken = replace(
        formats.FORMATS["torchscript"],
        write=lambda model, images, path, names: path.write_bytes(b""),
        load=lambda path: lambda images: wrong(*right(images)),
    )
    monkeypatch.setitem(write.FORMATS, "torchscript", broken)
    with pytest.raises(ExportError, match="not written"):
        export(right, trained.config, ["torchscript"], tmp_path / "out", pictures)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_missing_is_said(run, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else real(name, *rest))
    assert main(["export", str(run), "--format", "onnx"]) == 2
    said = capsys.readouterr().err
    assert "needs onnx, onnxscript, onnxruntime; pip install 'tinyssd_ops[export]'" in said
    served = tinyssd_ops.info()
    served["backends"]["cpu"]["backend"] = "reference"
    monkeypatch.setattr(tinyssd_ops, "info", lambda: served)
    assert main(["export", str(run), "--format", "torchscript"]) == 2
    assert "needs the native kernels" in capsys.readouterr().err


def test_three_lines_of_python(run, pictures, tmp_path):
    trained = tinyssd.Run(run)
    assert trained.predict(pictures[0], score=0.3)[0].label in NAMES
    assert trained.export("torchscript", out=tmp_path) == [tmp_path / "model.ts"]
    with pytest.raises(ConfigError, match="expected some of onnx, aoti, torchscript, got tflite"):
        trained.export("tflite")
