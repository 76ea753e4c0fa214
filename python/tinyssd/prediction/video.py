"""Videos, by PyAV: their frames as pictures, and pictures as a video."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from tinyssd.errors import DataError
from tinyssd.files import expect_no_stream


def _av() -> ModuleType:
    try:
        import av
    except ModuleNotFoundError as error:
        raise DataError("a video needs the package av: pip install '.[video]'") from error
    return av


def read_frames(path: Path) -> Iterator[tuple[float, Image.Image]]:
    """The frames of the first video stream, each with its time in seconds.

    Raises:
        DataError: If the file is no whole video, or PyAV is not installed.
    """
    av = _av()
    try:
        expect_no_stream(path)
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: no video in this file")
            for frame in container.decode(container.streams.video[0]):
                yield float(frame.time or 0), frame.to_image()
    except (OSError, ValueError) as error:  # PyAV's own errors are kinds of these.
        raise DataError(f"{path}: cannot read this video ({getattr(error, 'strerror', None) or error})") from error


def frame_rate(path: Path) -> Fraction:
    """Frames a second, as the file says it; 25 where it does not."""
    with _av().open(str(path)) as container:
        return Fraction(container.streams.video[0].average_rate or 25)


class VideoWriter:
    """Writes pictures of one size as an MP4 file.

    Args:
        path: The file.
        rate: Frames a second.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._container = _av().open(str(path), mode="w", format="mp4")
        self._rate = rate
        self._stream: Any = None

    def add(self, picture: Image.Image) -> None:
        """The next frame."""
        # The codec wants even sides.
        picture = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
        if self._stream is None:
            self._stream = self._container.add_stream("mpeg4", rate=self._rate)
            self._stream.width, self._stream.height = picture.size
            self._stream.bit_rate = 4 * picture.width * picture.height
            self._stream.pix_fmt = "yuv420p"
        for packet in self._stream.encode(_av().VideoFrame.from_image(picture)):
            self._container.mux(packet)

    def close(self) -> None:
        """Ends the file; without a frame it stays empty."""
        if self._stream is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()
