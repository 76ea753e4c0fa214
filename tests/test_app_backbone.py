"""Backbones of timm: with random weights of its smallest networks."""

from __future__ import annotations

import dataclasses
import json
import sys

import cases
import pytest
import torch
from app_training import CONFIG, interrupt_at, results
from PIL import Image
from tinyssd.cli import main
from tinyssd.data.loader import to_input
from tinyssd.errors import BackboneError, ConfigError
from tinyssd.model.backbone import PRETRAINED, TimmBackbone, expect_maps, full_name
from tinyssd.model.loss import LossConfig
from tinyssd.model.pyramid import STRIDES, PyramidConfig
from tinyssd.run.checkpoint import load_checkpoint, load_model, save_checkpoint
from tinyssd.training.state import State
from tinyssd.training.train import train

CPU = torch.device("cpu")
NAME = "test_efficientnet.r160_in1k"
ANCHORS = (((8.0, 8.0),), ((16.0, 16.0),), ((24.0, 24.0),))
CONFIG = dataclasses.replace(
    CONFIG,
    model=PyramidConfig(4, (32, 32), ANCHORS, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), neck=8, backbone=NAME),
    loss=LossConfig.aligned(),
)


@pytest.fixture(scope="module")
def timm():
    cases.torchvision()  # It cannot be imported without.
    return pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture(scope="module")
def weights(timm, tmp_path_factory):
    """A file as timm's own networks are kept in, classifier and all."""
    torch.manual_seed(7)
    network = timm.create_model(NAME)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("weights") / "network.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    """A run that began with the weights of a file, which is gone."""
    folder = tmp_path_factory.mktemp("runs")
    lent = folder / "lent.pth"
    lent.write_bytes(weights.read_bytes())
    values = CONFIG.to_dict()
    values["data"] |= {"train_size": 8}
    values["train"] |= {"epochs": 1, "backbone_weights": PRETRAINED}
    values["model"] |= {"backbone": ""}
    (folder / "config.json").write_text(json.dumps(values))
    command = ["train", "--config", str(folder / "config.json"), "--run", str(folder / "run")]
    assert main([*command, "--backbone", "test_efficientnet", "--backbone-weights", str(lent)]) == 0
    lent.unlink()
    return folder / "run"


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_mambaout", "test_coatnet"])
def test_maps_are_those_of_timm(timm, name):
    """Of its numbers for a pixel, too; one of these networks has its channels last, one is made for one size."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name, (64, 96), STRIDES).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    maps = backbone(to_input(pixels))
    sizes = zip(backbone.channels, STRIDES, strict=True)
    assert [one.shape for one in maps] == [(2, width, 64 // stride, 96 // stride) for width, stride in sizes]
    size = {"img_size": (64, 96)} if name == "test_coatnet" else {}
    plain = timm.create_model(name, features_only=True, **size).eval()
    plain.load_state_dict(backbone.network.state_dict(), strict=False)
    numbers = timm.data.resolve_model_data_config(plain)
    mean, std = (torch.tensor(numbers[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = plain((pixels / 255 - mean) / std)[-3:]
    if name == "test_mambaout":
        expected = [one.movedim(-1, 1) for one in expected]
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-4)


def test_a_file_gives_every_weight(weights):
    torch.manual_seed(0)
    backbone = TimmBackbone(NAME, (64, 96), STRIDES)
    before = torch.random.get_rng_state()
    backbone.begin_with(str(weights))
    assert torch.equal(torch.random.get_rng_state(), before)
    kept = torch.load(weights)
    for name, value in backbone.network.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_a_run_needs_no_file_any_more(run, tmp_path, monkeypatch, capsys):
    """It remembers where its weights came from, and is used without them."""
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["backbone"] == NAME
    assert config["train"]["backbone_weights"].endswith("lent.pth")
    assert f"backbone {NAME} (weights of " in (run / "report.html").read_text()
    Image.new("RGB", (90, 60)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert main(["predict", "photo.png", "--run", str(run), "--out", "found", "--device", "cpu"]) == 0
    assert main(["train", "--resume", str(run), "--epochs", "2"]) == 0
    assert f"backbone {NAME} (weights of " in capsys.readouterr().out
    assert len(results(run)) == 2


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_exported(run, tmp_path, form, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ():
        pytest.importorskip(package, reason=f"{package} is not installed")
    # All results: after so few steps the scores are alike, and rounding would decide which are above a larger one.
    assert main(["export", str(run), "--format", form, "--out", str(tmp_path), "--score", "0"]) == 0
    output = capsys.readouterr().out
    assert "finds what the network finds" in output
    assert " 0 objects" not in output


def test_goes_on_as_if_nothing_had_happened(weights, tmp_path, monkeypatch):
    """Interrupted, and continued without the file."""
    lent = tmp_path / "lent.pth"
    lent.write_bytes(weights.read_bytes())
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, ema=0.9, backbone_weights=str(lent)))
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert not train(config, tmp_path / "parts").is_over(config.train)
    lent.unlink()
    train(config, tmp_path / "parts", resume=True)
    one, other = (load_checkpoint(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "parts"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_another_run_gives_its_backbone(run):
    """To other classes too, but not to a network on another backbone."""
    classes = ("heart", "cup", "fish", "moon")
    config = dataclasses.replace(CONFIG, class_names=classes, model=dataclasses.replace(CONFIG.model, num_classes=5))
    state = State.start(config, CPU, 1)
    taken, total = state.begin_with(run, classes)
    assert 0.9 * total < taken < total
    theirs = load_model(run).model.backbone.state_dict()
    torch.testing.assert_close(state.used.backbone.state_dict(), theirs, rtol=0, atol=0)
    own = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, backbone=""))
    with pytest.raises(ConfigError, match=f"has {NAME} as backbone; train with --backbone {NAME}"):
        State.start(own, CPU, 1).begin_with(run, own.class_names)


def test_pretrained_weights_are_those_that_timm_downloads(timm, weights, monkeypatch):
    create = timm.create_model

    def downloaded(name, pretrained=False, **settings):
        if pretrained:
            settings["pretrained_cfg_overlay"] = {"file": str(weights)}
        return create(name, pretrained=pretrained, **settings)

    def offline(name, pretrained=False, **settings):
        if pretrained:
            raise ConnectionError("no route to host\n" + "and more " * 50)
        return create(name, **settings)

    backbone = TimmBackbone(NAME, (64, 96), STRIDES)
    monkeypatch.setattr(timm, "create_model", downloaded)
    backbone.begin_with(PRETRAINED)
    name = "conv_stem.weight"
    assert torch.equal(backbone.network.state_dict()[name], torch.load(weights)[name])
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BackboneError, match=r"cannot be had \(no route to host .*\.\.\.\); --backbone-weights FILE"):
        backbone.begin_with(PRETRAINED)
    with pytest.raises(BackboneError, match="timm has no pretrained weights of it; --backbone-weights FILE"):
        TimmBackbone("test_coatnet", (64, 96), STRIDES).begin_with(PRETRAINED)


def test_files_without_its_weights(timm, weights, tmp_path):
    backbone = TimmBackbone(NAME, (64, 96), STRIDES)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    kept = torch.load(weights)
    torch.save({name: value for name, value in kept.items() if "blocks.4" not in name}, tmp_path / "part.pth")
    torch.save({f"encoder.{name}": value for name, value in kept.items()}, tmp_path / "named.pth")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "other.pth")
    torch.save({**kept, "conv_stem.weight": torch.zeros(1, 3, 3, 3)}, tmp_path / "size.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for file, message in {
        "part.pth": "lacks weights of test_efficientnet.r160_in1k, such as blocks.4",
        "named.pth": "lacks weights of test_efficientnet.r160_in1k, such as conv_stem.weight",
        "other.pth": "cannot be read as weights of test_efficientnet.r160_in1k",
        "size.pth": "cannot be read as weights of test_efficientnet.r160_in1k",
        "text.pth": "cannot be read as weights of test_efficientnet.r160_in1k",
    }.items():
        with pytest.raises(BackboneError, match=message):
            backbone.begin_with(str(tmp_path / file))
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "test_resnets"], "has no such network; did you mean test_resnet?"),
        (["--backbone", "hf-hub:a/b"], "has no such network"),
        (["--backbone", "test_resnet.best"], "has no such weights; it has r160_in1k"),
        (["--backbone", "test_resnet", "--model", "classic"], "leave out --model classic"),
        (["--backbone", "test_resnet", "--backbone-weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--backbone", "test_resnet", "--backbone-weights", "none", "--init", "r"], "leave out one of them"),
        (["--backbone", "test_vit", "--backbone-weights", "none"], "cells of 16 pixels, a backbone needs 8, 16, 32"),
    ],
)
def test_mistakes_are_one_sentence(timm, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.json").write_text(json.dumps({"data": {"train_size": 4, "val_size": 4}}))
    assert main(["train", "--config", "few.json", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tinyssd: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_maps_of_other_sizes(timm):
    expect_maps("test_resnet", (192, 256), STRIDES)
    for name, reason in {
        "inception_v3": r"its cells of 8 pixels are 29x21\)",
        "nest_tiny": r".*square",
        "halonet26t": r"AssertionError\)",
    }.items():
        with pytest.raises(BackboneError, match=rf"{name}: is no backbone for pictures of 256x192 \({reason}"):
            expect_maps(name, (192, 256), STRIDES)


def test_weights_are_of_a_backbone(capsys):
    assert main(["train", "--backbone-weights", "none"]) == 2
    assert "of which network? Name it with --backbone" in capsys.readouterr().err
    state = State.start(dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, backbone="")), CPU, 1)
    with pytest.raises(ConfigError, match="no backbone of timm"):
        state.begin_backbone(PRETRAINED)


def test_without_timm(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    progress = {"epoch": 1, "step": 0, "loss_sum": 0.0, "history": []}
    save_checkpoint(tmp_path / "checkpoint.pt", {"config": CONFIG.to_dict(), "model": {}, "progress": progress})
    for command in (
        ["train", "--backbone", "test_resnet"],
        ["eval", str(tmp_path)],
        ["train", "--resume", str(tmp_path)],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "a backbone needs timm, which cannot be imported (" in error
        assert error.endswith("pip install 'tinyssd_ops[backbone]' installs it\n")
    with pytest.raises(BackboneError):
        full_name(NAME)
