"""Data sets: what they return, and what a wrong file is answered with."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tinyssd.data.augment import AugmentConfig
from tinyssd.data.config import DataConfig
from tinyssd.data.fetch import cache_folder, fetch_banana
from tinyssd.data.images import read_picture
from tinyssd.data.loader import Pictures, make_loader, to_input
from tinyssd.data.open import open_data, open_folder
from tinyssd.data.synthetic import SyntheticSource
from tinyssd.errors import ConfigError, DataError

HEADER = "img_name,label,xmin,ymin,xmax,ymax\n"
PIKACHU = Path(__file__).resolve().parents[2] / "shared" / "data" / "pikachu"


def write_split(folder: Path, lines: str, pictures: dict[str, Image.Image]) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "label.csv").write_text(lines)
    for name, picture in pictures.items():
        picture.save(folder / "images" / name)
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two training pictures of different size and mode, three boxes; one validation picture."""
    wide, gray = Image.new("RGB", (80, 40), (255, 0, 0)), Image.new("L", (20, 20), 255)
    boxes = "a.png,0,0,0,40,20\nb.png,1,5,5,10,20\na.png,1,40,20,80,40\n"
    write_split(tmp_path / "toy_train", HEADER + boxes, {"a.png": wide, "b.png": gray})
    write_split(tmp_path / "toy_val", HEADER + "c.png,0,0,0,80,40\n", {"c.png": wide})
    return tmp_path


def test_folder_gives_resized_pictures_and_shares(folder):
    train, val = open_folder(str(folder))
    assert (len(train), len(val)) == (2, 1)
    assert train.class_names == ("class 0", "class 1")
    image, labels = Pictures(train, (32, 48))[0, 0]
    assert image.shape == (3, 32, 48)
    assert image.dtype == torch.uint8
    torch.testing.assert_close(labels, torch.tensor([[0, 0, 0, 0.5, 0.5], [1, 0.5, 0.5, 1, 1]]))


def test_batch_pads_labels(folder):
    loader, _ = make_loader(Pictures(open_folder(folder)[0], (16, 16)), batch_size=2)
    images, labels = next(iter(loader))
    assert images.shape == (2, 3, 16, 16)
    assert labels[1].tolist() == [[1, 0.25, 0.25, 0.5, 1], [-1] * 5]


def test_picture_without_objects(folder):
    label = folder / "toy_train" / "label.csv"
    label.write_text(label.read_text().replace("b.png,1,5,5,10,20", "b.png,,,,,"))
    loader, _ = make_loader(Pictures(open_folder(folder)[0], (16, 16), AugmentConfig(flip=1, zoom=2)), batch_size=2)
    _, labels = next(iter(loader))
    assert labels[1].tolist() == [[-1] * 5] * 2


@pytest.mark.parametrize("values", [{"flip": 2}, {"color": -1}, {"zoom": 0.5}, {"zoom": float("nan")}])
def test_wrong_augmentation_is_an_error(values):
    with pytest.raises(ConfigError, match=rf"{next(iter(values))}.*: expected"):
        AugmentConfig(**values)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_truncated_picture_is_an_error_also_from_a_worker(folder, name):
    path = folder / "toy_train" / "images" / name
    Image.effect_noise((80, 40), 50).convert("RGB").save(path)
    whole = path.read_bytes()
    label = folder / "toy_train" / "label.csv"
    label.write_text(HEADER + f"{name},0,0,0,40,20\n")
    source, _ = open_folder(folder)
    path.write_bytes(whole[: len(whole) // 2])  # Broken in the meantime: what is broken before is left out.
    with pytest.raises(DataError, match=rf"{name}: cannot read this picture"):
        read_picture(path)
    loader, _ = make_loader(Pictures(source, (16, 16)), batch_size=1, workers=1)
    with pytest.raises(DataError) as error:
        list(loader)
    assert str(error.value).startswith(str(path))


def test_no_picture_at_all_is_an_error(tmp_path):
    (tmp_path / "x.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"x\.png: cannot read this picture"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "tif" if mode in ("CMYK", "I") else "png"
    picture = Image.new(mode, (6, 4), 40000) if mode.startswith("I") else Image.new("RGB", (6, 4), "gray").convert(mode)
    picture.save(tmp_path / f"x.{suffix}")
    rgb = read_picture(tmp_path / f"x.{suffix}")
    assert rgb.mode == "RGB"
    assert rgb.size == (6, 4)
    if mode.startswith("I"):
        assert rgb.getpixel((0, 0)) == (155, 155, 155)


def test_transparent_palette_becomes_rgb_without_a_warning(tmp_path, recwarn):
    picture = Image.new("P", (6, 4))
    picture.putpalette([200, 100, 0])
    picture.save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert read_picture(tmp_path / "x.png").getpixel((0, 0)) == (200, 100, 0)
    assert not recwarn.list


def test_turned_picture_is_turned_upright(tmp_path):
    picture, exif = Image.new("RGB", (6, 4)), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "x.jpg", exif=exif)
    assert read_picture(tmp_path / "x.jpg").size == (4, 6)


def test_epochs_are_the_same_however_many_workers_make_them():
    pictures = Pictures(SyntheticSource(8, 32, fresh=True), (32, 32), AugmentConfig(), seed=3)
    epochs = []
    for workers in (0, 2):
        loader, sampler = make_loader(pictures, 4, shuffle_seed=3, workers=workers)
        sampler.epoch = 5
        epochs.append(list(loader))
    for (images, labels), (others, other_labels) in zip(*epochs, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_skip_leaves_out_the_first_pictures_of_the_epoch():
    loader, sampler = make_loader(Pictures(SyntheticSource(8, 16), (16, 16)), 2, shuffle_seed=1)
    whole = list(loader)
    sampler.skip = 4
    assert len(loader) == 2
    for (images, _), (expected, _) in zip(loader, whole[2:], strict=True):
        assert torch.equal(images, expected)


def test_synthetic_pictures_are_seeded_and_labelled():
    source = SyntheticSource(30, 64, seed=1)
    classes = set()
    for index in range(len(source)):
        example = source.example(index, epoch=0)
        assert np.array_equal(np.array(example.image), np.array(source.example(index, epoch=3).image))
        assert 1 <= len(example.labels) <= source.max_boxes
        assert (example.labels[:, 1:] >= 0).all()
        assert (example.labels[:, 1:] <= 1).all()
        assert (example.labels[:, 3:] > example.labels[:, 1:3]).all()
        classes.update(example.labels[:, 0].astype(int))
    assert classes == {0, 1, 2}
    other = SyntheticSource(30, 64, seed=2)
    assert not np.array_equal(np.array(source.example(0, 0).image), np.array(other.example(0, 0).image))
    fresh = SyntheticSource(30, 64, seed=1, fresh=True)
    assert not np.array_equal(np.array(fresh.example(0, 0).image), np.array(fresh.example(0, 1).image))


def test_to_input_is_centred():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert to_input(images)[0, 0].tolist() == [[-1, 1]]


@pytest.fixture
def archive(tmp_path):
    """A tiny archive of the banana data set's shape."""
    for split in ("train", "val"):
        target = tmp_path / "source" / f"bananas_{split}"
        write_split(target, HEADER + "0.png,0,1,1,5,5\n", {"0.png": Image.new("RGB", (10, 10))})
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        for inside in (tmp_path / "source").rglob("*.*"):
            file.write(inside, Path("banana-detection") / inside.relative_to(tmp_path / "source"))
    return path


def sha1(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def test_banana_is_fetched_once(archive, tmp_path):
    cache = tmp_path / "cache"
    found = fetch_banana(cache, archive.as_uri(), sha1(archive))
    train, val = open_folder(found)
    assert (len(train), len(val), train.class_names) == (1, 1, ("bananas",))
    archive.unlink()
    assert fetch_banana(cache, archive.as_uri(), "no hash needed") == found


def test_banana_offline_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"could not fetch .*put it at .*banana-detection\.zip, or train without"):
        fetch_banana(tmp_path / "cache", (tmp_path / "gone.zip").as_uri())
    assert list((tmp_path / "cache").iterdir()) == []


def test_banana_with_another_hash_is_refused(archive, tmp_path):
    with pytest.raises(DataError, match=r"its SHA-1 is .*, expected 5de26c8f"):
        fetch_banana(tmp_path / "cache", archive.as_uri())


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_banana_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, "evil")
    with pytest.raises(DataError, match="leads out of the archive"):
        fetch_banana(tmp_path / "cache", path.as_uri(), sha1(path))
    assert not list(tmp_path.rglob("evil.txt"))


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tinyssd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "tinyssd"


@pytest.mark.skipif(not PIKACHU.exists(), reason="the Pikachu pictures (shared/data/pikachu) are not here")
def test_pikachu_opens():
    train, val = open_data(DataConfig(str(PIKACHU)), (256, 256))
    assert (len(train), len(val), train.class_names) == (900, 100, ("pikachu",))
