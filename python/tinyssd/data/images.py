"""Picture files: their size from the header, and their pixels as upright RGB."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from tinyssd.errors import DataError
from tinyssd.files import expect_no_stream

PICTURE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tga", ".tif", ".tiff", ".webp"),
)

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    **{2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE},
    **{6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90},
}
# What ends a whole file is looked for in its last bytes; a camera may append some of its own.
_TAIL_BYTES = 1 << 12
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
# The largest values of sensors of 8 to 16 bits.
_TOPS = (255, 1023, 4095, 16383, 65535)
# What Pillow's decoders raise on broken files; SyntaxError is its own way for some PNG, NotImplementedError for DDS.
_BROKEN = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError, MemoryError),
    *(NotImplementedError, RecursionError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself.

    Attributes:
        size: Width and height of the upright picture in pixels.
        turned: The EXIF turn, 1 to 8.
    """

    size: tuple[int, int]
    turned: int


def read_picture(path: Path) -> Image.Image:
    """A picture of any mode as RGB, turned upright.

    Raises:
        DataError: If the file is missing or is no whole picture.
    """
    with _opened(path) as image:
        turned = _turned(image)
        return to_rgb(image.transpose(_UPRIGHT[turned]) if turned > 1 else image)


def read_header(path: Path) -> Header:
    """The size of a picture without its pixels, which are read only where the file's end looks cut off.

    Raises:
        DataError: If the file is missing or is no whole picture.
    """
    with _opened(path) as image:
        turned = _turned(image)
        width, height = image.size
        if width < 1 or height < 1:
            raise ValueError("it has no pixels")
        if not _ends_well(path, image.format):
            image.load()
        return Header((height, width) if turned >= 5 else (width, height), turned)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB: wider pixels are scaled to 8 bits, transparency is left out.

    One that is RGB and lies in memory is returned itself, as a large one takes hundreds of megabytes.
    """
    if type(image) is Image.Image and image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way.
    return image.convert("RGB")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An open picture; what goes wrong with it becomes a :class:`DataError`."""
    try:
        expect_no_stream(path)
        with warnings.catch_warnings():
            # Of pictures from 90 million pixels on; twice that many are an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except _BROKEN as error:
        raise DataError(f"{path}: cannot read this picture ({_one_line(error)})") from error


def _ends_well(path: Path, kind: str | None) -> bool:
    """Whether the file's last bytes hold what ends a picture of its kind."""
    if kind not in _ENDS:
        return True
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return _ENDS[kind] in file.read()


def _turned(image: Image.Image) -> int:
    """The EXIF turn, 1 to 8; 1 where none can be read, as the picture can be all the same."""
    # Where the header shows no Exif data, getexif() would read a whole PNG file to look behind its pixels.
    if "exif" in image.info:
        with contextlib.suppress(*_BROKEN):
            turned = image.getexif().get(_EXIF_ORIENTATION, 1)
            return int(turned) if turned in range(1, 9) else 1
    return 1


def _to_8_bit(image: Image.Image) -> Image.Image:
    """A picture of wider pixels scaled to 8 bits; Pillow would cut them off at 255.

    White is the largest value of the least number of bits, 8 to 16, that holds all pixels: a sensor of 12 bits writes
    no more than 4095 into 16.
    """
    pixels = np.asarray(image, dtype=np.float64)
    brightest = float(pixels.max(initial=0))
    top = next((top for top in _TOPS if brightest <= top), brightest)
    if image.mode.startswith("I"):
        top = min(top, _TOPS[-1])
    return Image.fromarray((pixels.clip(0, top) * (255 / top)).astype(np.uint8))


def _one_line(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return " ".join(reason.split()) or type(error).__name__
