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
from tinyssd.data.images import read_picture
from tinyssd.data.loader import to_input
from tinyssd.data.place import fitted
from tinyssd.errors import ConfigError
from tinyssd.export import formats, write
from tinyssd.export.deployed import Deployed, deployed
from tinyssd.export.readme import readme
from tinyssd.export.write import ExportError, as_input, export
from tinyssd.model.network import TinySSD, TinySSDConfig
from tinyssd.model.pyramid import PyramidConfig, PyramidSSD
from tinyssd.prediction.predict import predict_pictures
from tinyssd.run.checkpoint import load_model, save_checkpoint
from tinyssd.run.config import RunConfig
from tinyssd.text import printable

import tinyssd_ops

NAMES = ("square", "a \x1b[31mdisc")
CLASSIC = TinySSDConfig(
    num_classes=3,
    image_size=(32, 48),
    widths=((8,), (8,), ()),
    sizes=((0.2, 0.3), (0.4, 0.5), (0.8, 0.9)),
    ratios=((1.0, 2.0, 0.5),) * 3,
)
# The default network, as narrow and shallow as can be.
DEFAULT = PyramidConfig(
    num_classes=3,
    image_size=(64, 96),
    anchors=(((12.0, 12.0),), ((32.0, 32.0),), ((48.0, 60.0),)),
    widths=(8, 8, 8, 8),
    depths=(1, 1, 1, 1),
    neck=8,
)
# Width and height: the input's, nearly its shape, wider, higher, and both of them larger than it.
SIZES = ((96, 64), (90, 64), (60, 20), (24, 48), (288, 96), (64, 256))
SOURCES = Path(__file__).resolve().parents[1]
ONNX = all(importlib.util.find_spec(name) for name in formats.FORMATS["onnx"].packages)
needs_onnx = pytest.mark.skipif(not ONNX, reason="onnx, onnxscript or onnxruntime is not installed")


def classic():
    """The textbook's network, untrained, with scores that differ."""
    torch.manual_seed(0)
    model = TinySSD.from_config(CLASSIC).eval()
    with torch.no_grad():
        for head in model.class_heads:
            head.weight.mul_(5)
    return model


def default():
    """The default network, untrained, with scores and boxes that differ."""
    torch.manual_seed(0)
    model = PyramidSSD.from_config(DEFAULT)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # The statistics of one batch.
    with torch.no_grad():
        # Scores around a half, some dozens of them above: those that are all but 1 would be too alike to have an order.
        for heads, std, bias in ((model.class_heads, 0.2, -0.8), (model.offset_heads, 0.1, 0.0)):
            for *_, last in heads:
                torch.nn.init.normal_(last.weight, std=std)
                torch.nn.init.constant_(last.bias, bias)
        model(
            to_input(
                torch.from_numpy(np.stack([np.array(drawn((96, 64), seed)) for seed in range(8)])).permute(0, 3, 1, 2)
            )
        )
    return model.eval()


def drawn(size, seed=0):
    """A picture of coarse noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def saved(folder, model, network):
    """A run of the network; it finds something everywhere."""
    folder.mkdir()
    config = RunConfig(NAMES, network, DataConfig(train_size=4, val_size=4))
    row = {"best_threshold": 0.5, "best_threshold_per_class": [0.5, 0.5]}
    progress = {"epoch": 1, "step": 0, "loss_sum": 0.0, "history": [row]}
    contents = {"config": config.to_dict(), "model": model.state_dict(), "progress": progress}
    save_checkpoint(folder / "checkpoint.pt", contents)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of the default network."""
    return saved(tmp_path_factory.mktemp("runs") / "run", default(), DEFAULT)


@pytest.fixture(scope="module")
def classic_run(tmp_path_factory):
    """The folder of a run of the textbook's network."""
    return saved(tmp_path_factory.mktemp("runs") / "classic", classic(), CLASSIC)


@pytest.fixture(scope="module")
def pictures():
    return [drawn(size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def exported(run):
    """The folder of the default network in all formats, written by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(run / "inductor"))
        assert main(["export", str(run), "--format", "aoti", "torchscript", *(["onnx"] if ONNX else [])]) == 0
    return run / "export"


@pytest.fixture(scope="module")
def package(exported):
    return exported / "model.pt2"


def expect_alike(found, wanted, tolerance, threshold=0.0):
    """Rows (class, confidence, x1, y1, x2, y2) in any order, as nearly equal confidences may change places.

    Those as near to the threshold as the tolerance may be missing on one side.
    """
    for rows, others in ((found, wanted), (wanted, found)):
        for name, *numbers in rows:
            near = [np.abs(np.subtract(numbers, other[1:])).max() for other in others if other[0] == name]
            assert numbers[0] < threshold + tolerance or min(near, default=1.0) < tolerance, (name, numbers)


def predicted(run, pictures):
    """What ``tinyssd predict`` finds, for each picture."""
    trained = load_model(run)
    found = predict_pictures(trained.model, pictures, trained.config.class_names, trained.score_thresholds)
    return [[(one.label, one.score, *one.box) for one in rows] for rows in found]


def test_the_command_writes_the_textbooks_network(classic_run, capsys):
    assert main(["export", str(classic_run), "--format", "torchscript"]) == 0
    said = capsys.readouterr().out
    assert "finds what the network finds" in said
    assert "README.md" in said
    out = classic_run / "export"
    assert {path.name for path in out.iterdir()} == {"README.md", "model.ts", "model.json"}
    assert json.loads((out / "model.json").read_text())["keep_shape"] is False
    assert "stretched over the input, whatever its shape" in (out / "README.md").read_text()


@pytest.mark.parametrize("name", [pytest.param("onnx", marks=needs_onnx), "aoti", "torchscript"])
def test_written_and_loaded_again(run, exported, pictures, name):
    model, images = deployed(load_model(run)), as_input(pictures, DEFAULT)
    rows, counts = model(images)
    assert counts.sum() > 10, "else nothing is compared"
    found = formats.FORMATS[name].load(exported / formats.FORMATS[name].file)
    for batch, wanted, count in ((images, rows, counts), (images[1:2], rows[1:2], counts[1:2])):
        other_rows, other_counts = found(batch)
        assert torch.equal(other_counts, count)
        for one, other, n in zip(wanted.tolist(), other_rows.tolist(), count.tolist(), strict=True):
            expect_alike(other[:n], one[:n], 1e-4)
    about = json.loads((exported / "model.json").read_text())
    assert about["classes"] == list(NAMES)
    assert (about["keep_shape"], about["stretch_below"], about["fill"]) == (True, 1.15, [114, 114, 114])


def test_every_file_notes_how_pictures_come_onto_the_input(run, exported):
    notes = write.notes(load_model(run).config)
    wanted = {"height": "64", "width": "96", "keep_shape": "1", "stretch_below": "1.15", "fill": "114 114 114"}
    assert notes == {**wanted, "classes": "square\n" + r"a \x1b[31mdisc"}
    text = dict.fromkeys(notes, "")
    torch.jit.load(str(exported / "model.ts"), _extra_files=text)
    assert {name: one.decode() for name, one in text.items()} == notes
    if ONNX:
        import onnx

        assert {one.key: one.value for one in onnx.load(exported / "model.onnx").metadata_props} == notes


@pytest.mark.parametrize("network", [DEFAULT, CLASSIC], ids=["default", "classic"])
@pytest.mark.parametrize("size", [*SIZES, (4, 900)], ids=str)
def test_the_readme_lays_pictures_on_the_input(network, size, tmp_path, monkeypatch):
    config = RunConfig(NAMES, network, DataConfig())
    (program, *_) = snippets(readme(Deployed(torch.nn.Identity(), (0.5, 0.5)), config))
    picture = drawn(size)
    picture.save(tmp_path / "photo.jpg", "PNG")
    (tmp_path / "model.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(program, names)
    assert np.array_equal(names["images"], as_input([picture], network).numpy())
    shares = np.array([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.75]], dtype=np.float32)
    place = fitted(size, network.image_size[::-1], network.keep_shape)
    wanted = place.back(shares, network.image_size[::-1]) * (*size, *size)
    np.testing.assert_allclose(names["on_picture"](shares), wanted, atol=1e-6)


def snippets(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("block", [pytest.param(1, marks=needs_onnx), 2, 3], ids=["onnx", "aoti", "torchscript"])
def test_the_readme_finds_what_predict_finds(run, exported, tmp_path, block):
    """In a process of its own, on a photograph that lies on its side and has another shape than the input."""
    picture, turned = drawn((170, 60)), Image.Exif()
    turned[0x0112] = 6
    picture.rotate(90, expand=True).save(exported / "photo.jpg", quality=95, exif=turned)
    blocks = snippets((exported / "README.md").read_text())
    program = [sys.executable, "-c", f"{blocks[0]}\n{blocks[block]}"]
    done = subprocess.run(program, cwd=exported, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [re.fullmatch(r"(.*) (\S+) \[(.*)\]", line) for line in done.stdout.splitlines()]
    shares = [[float(x) / side for x, side in zip(line[3].split(), (170, 60) * 2, strict=True)] for line in lines]
    found = [(line[1], float(line[2]), *box) for line, box in zip(lines, shares, strict=True)]
    (wanted,) = predicted(run, [read_picture(exported / "photo.jpg")])
    assert len(wanted) > 3
    expect_alike(found, wanted, 2e-3, threshold=0.5)


def test_package_in_a_process_without_our_python(run, package, pictures, tmp_path):
    model, images = deployed(load_model(run)), as_input(pictures, DEFAULT)
    torch.save(images, tmp_path / "images.pt")
    library = sys.modules["tinyssd_ops._C"].__file__
    code = f"""
import sys, torch
torch.ops.load_library({library!r})
model = torch._inductor.aoti_load_package({str(package)!r})
torch.save([model(images) for images in torch.load("images.pt").split([2, 1, 3])], "found.pt")
assert not [name for name in sys.modules if name.startswith("tinyssd")], "the library alone"
"""
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    found = torch.load(tmp_path / "found.pt")
    for (rows, counts), batch in zip(found, images.split([2, 1, 3]), strict=True):
        wanted, wanted_counts = model(batch)
        assert torch.equal(counts, wanted_counts)
        for one, other, n in zip(wanted.tolist(), rows.tolist(), counts.tolist(), strict=True):
            expect_alike(other[:n], one[:n], 1e-4)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.skipif(not (SOURCES / "examples").is_dir(), reason="an installed package is tested, not a source tree")
def test_cpp_example(run, package, pictures, tmp_path):
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
    found = {name: [] for name in names}
    for line in done.stdout.splitlines():
        name, label, numbers = re.fullmatch(r"(\S+) (.*) (\S+ \S+ \S+ \S+ \S+)", line).groups()
        found[name].append((label, *map(float, numbers.split())))
    for name, wanted in zip(names, predicted(run, pictures), strict=True):
        assert len(wanted) > 2
        # Its pixels are those of Pillow, but for some that are one off where a picture is resized.
        tolerance = 1e-4 if name == "0.ppm" else 5e-2
        others = [(printable(label), *numbers) for label, *numbers in wanted]
        expect_alike(found[name], others, tolerance, threshold=0.5)
    broken = subprocess.run(
        [build / "detect", package, "none.ppm"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert broken.returncode == 1
    assert "none.ppm: not a binary PPM" in broken.stderr


def test_a_threshold_for_each_class():
    model, images = classic(), torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
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
def test_what_differs_is_not_written(classic_run, pictures, tmp_path, monkeypatch, wrong):
    trained = load_model(classic_run)
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


def test_three_lines_of_python(classic_run, pictures, tmp_path):
    trained = tinyssd.Run(classic_run)
    assert trained.predict(pictures[0], score=0.3)[0].label in NAMES
    assert trained.export("torchscript", out=tmp_path) == [tmp_path / "model.ts"]
    with pytest.raises(ConfigError, match="expected some of onnx, aoti, torchscript, got tflite"):
        trained.export("tflite")
    with pytest.raises(ConfigError, match="score: expected a number from 0 to 1, got 30"):
        trained.predict(pictures[0], score=30)
    for wrong in (np.zeros((8, 8, 3), np.uint8), [pictures[0]], None):
        with pytest.raises(TypeError, match=f"a file or a picture of Pillow, got {type(wrong).__name__}"):
            trained.predict(wrong)
