"""A font for a text in any script."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_for(text: str, size: float) -> tuple[str, Font]:
    """The text and a font of this size in pixels that can draw it.

    Pillow's own font knows ASCII alone; others come from Matplotlib's, then from the fonts of the system. Where none
    has a letter, the text comes back with that letter as its number, as in ``\\u65b9``: still one name and no other.
    """
    beyond = frozenset(letter for letter in text if not letter.isascii())
    if not beyond:
        return text, ImageFont.load_default(size=size)
    path = _font_with(beyond)
    if path is not None:
        return text, ImageFont.truetype(path, size)
    escaped = text.encode("ascii", "backslashreplace").decode("ascii")
    return escaped, ImageFont.load_default(size=size)


@functools.cache
def _font_with(letters: frozenset[str]) -> str | None:
    """The path of a font that has all these letters."""
    return next((path for path in _fonts() if letters <= _letters_of(path)), None)


def _fonts() -> Iterator[str]:
    from matplotlib import font_manager

    yield font_manager.findfont("DejaVu Sans")
    yield from sorted(font_manager.findSystemFonts())


@functools.cache
def _letters_of(path: str) -> frozenset[str]:
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            codes: Iterable[int] = font.getBestCmap() or ()
            return frozenset(map(chr, codes))
    except (TTLibError, OSError, KeyError, AssertionError):
        return frozenset()  # A font that cannot be read has no letters.
