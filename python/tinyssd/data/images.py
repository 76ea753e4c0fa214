"""Picture files: their size from the header, and their pixels as upright RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tinyssd.errors import DataError

_EXIF_ORIENTATION = 0x0112


def read_picture(path: Path) -> Image.Image:
    """A picture of any mode as RGB, turned upright.

    Raises:
        DataError: If the file is missing or is no whole picture.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(ImageOps.exif_transpose(image) if _may_be_turned(image) else image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError for some broken PNG files.
        raise DataError(f"{path}: cannot read this picture ({_one_line(error)})") from error


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, from its header."""
    try:
        with Image.open(path) as image:
            turned = _may_be_turned(image) and image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot read this picture ({_one_line(error)})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB: wider pixels are scaled to 8 bits, transparency is left out."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way.
    return image.convert("RGB")


def _may_be_turned(image: Image.Image) -> bool:
    # Where the header shows no Exif data, getexif() would read a whole PNG file to look behind its pixels.
    return "exif" in image.info


def _to_8_bit(image: Image.Image) -> Image.Image:
    """A picture of wider pixels scaled to 8 bits; Pillow would cut them off at 255."""
    pixels = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I") and pixels.max() > 255 else max(float(pixels.max()), 255.0)
    return Image.fromarray((pixels.clip(0, top) * (255 / top)).astype(np.uint8))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
