"""Text files of any origin."""

from __future__ import annotations

import codecs
from pathlib import Path

from tinyssd.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MOST_BYTES = 1 << 28
_START_BYTES = 1 << 16
_PIECE_BYTES = 1 << 16


def read_text(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        DataError: If it is larger than ``most_bytes``, cannot be read, or is in another encoding; the message says
            which line shows it.
    """
    data = bytearray()
    try:
        with path.open("rb") as file:
            # A piece at a time: asked for all that it may be, Python would make room for all of that at once.
            while len(data) <= most_bytes and (piece := file.read(_PIECE_BYTES)):
                data += piece
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > most_bytes:
        raise DataError(f"{path}: larger than {most_bytes >> 20} MiB, which no label file of this kind is")
    encoding = _encoding(data)
    if encoding is None:
        raise DataError(f"{path}: not text, or in UTF-16 without its mark; save it in UTF-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not in UTF-8 ({data[error.start]:#04x}); save the file in UTF-8"
        ) from error


def read_start(path: Path) -> str:
    """The first 64 KiB of a file as text, for a look at what it is; empty where it is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_START_BYTES)
    except OSError:
        return ""
    encoding = _encoding(data)
    return "" if encoding is None else data.decode(encoding, errors="replace")


def _encoding(data: bytes | bytearray) -> str | None:
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    return marked or (None if b"\0" in data[:4096] else "utf-8")
