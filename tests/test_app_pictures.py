"""Picture files of anybody's making: read, or refused in a sentence that names the file."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from tinyssd.data.images import PICTURE_SUFFIXES, read_header, read_picture, to_rgb
from tinyssd.errors import DataError
from tinyssd.prediction.predict import Detection, drawn_detections

ORIENTATION = 0x0112


def noise(width=8, height=6):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def exif(*entries):
    """Raw Exif data of entries ``(tag, type, count, four bytes)``, which no library would write."""
    listed = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + listed + bytes(4)


@pytest.mark.parametrize("turn", range(10))
def test_every_turn(tmp_path, turn):
    path, tags = tmp_path / "x.png", Image.Exif()
    tags[ORIENTATION] = turn
    noise().save(path, exif=tags)
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored)
    picture, header = read_picture(path), read_header(path)
    assert np.array_equal(np.asarray(picture), np.asarray(expected))
    assert header.size == picture.size
    assert header.turned == (turn if 1 <= turn <= 8 else 1)


TURN_6 = (ORIENTATION, 3, 1, b"\0\6\0\0")
BROKEN_EXIF = {
    "width_as_text": ((0x0100, 2, 4, b"abc\0"), TURN_6),
    "resolution_as_number": (TURN_6, (0x011A, 3, 1, b"\0\6\0\0")),
    "turn_as_text": ((ORIENTATION, 2, 4, b"six\0"),),
    "turn_elsewhere": ((ORIENTATION, 5, 1, b"\xff\xff\xff\0"),),
    "huge_count": ((ORIENTATION, 3, 2**32 - 1, b"\xff\xff\xff\xff"),),
    "loop": ((0x8769, 4, 1, struct.pack(">I", 8)), TURN_6),
}


@pytest.mark.parametrize("name", BROKEN_EXIF)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif(tmp_path, name):
    """The picture is read, and turned if its turn can be."""
    path, entries = tmp_path / "x.jpg", BROKEN_EXIF[name]
    noise().save(path, exif=exif(*entries))
    turned = TURN_6 in entries
    assert read_header(path).turned == (6 if turned else 1)
    assert read_header(path).size == read_picture(path).size == ((6, 8) if turned else (8, 6))


def unknown_dds() -> bytes:
    return b"DDS " + struct.pack("<I", 124) + bytes(120)


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_formats_that_pillow_does_not_know(tmp_path, suffix):
    """Pillow goes by what is in a file, whatever its name is: DDS files of unknown kinds are "not implemented"."""
    path = tmp_path / f"x{suffix}"
    path.write_bytes(unknown_dds())
    for read in (read_picture, read_header):
        with pytest.raises(DataError, match=f"x{suffix}: cannot read this picture"):
            read(path)


def test_no_copy_of_what_is_rgb(tmp_path):
    noise().save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    assert to_rgb(picture) is picture
    before = np.asarray(picture).copy()
    drawn = drawn_detections(picture, [Detection("disc", 0, 0.5, (0.1, 0.1, 0.9, 0.9))])
    assert not np.array_equal(np.asarray(drawn.resize(picture.size)), before)
    assert np.array_equal(np.asarray(picture), before)
