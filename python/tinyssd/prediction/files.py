"""From picture and video files to a folder of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from tinyssd.data.images import read_picture
from tinyssd.errors import DataError
from tinyssd.model.detector import Detector
from tinyssd.model.fold import folded
from tinyssd.prediction.inputs import VIDEOS
from tinyssd.prediction.outputs import Results
from tinyssd.prediction.predict import Threshold, drawn_detections, predict_pictures
from tinyssd.prediction.video import VideoWriter, frame_rate, read_frames

# As many pictures go through the network at once; large ones lie in memory meanwhile.
_BATCH = 8
_MOST_PIXELS = 40_000_000


def predict_files(
    model: Detector, paths: Sequence[Path], results: Results, class_names: Sequence[str], score_threshold: Threshold
) -> Iterator[dict[str, Any] | DataError]:
    """Looks at pictures and videos and adds what it finds to ``results``, one after the other.

    Args:
        model: In evaluation mode.
        paths: Files.
        results: Where drawn pictures and boxes go.
        class_names: The classes without background.
        score_threshold: The least confidence of a detection, or of each class's detections.

    Yields:
        A row of ``results`` for each picture and each frame, as soon as its picture is written, or the error of a file
        that cannot be used; that keeps no other from being looked at.
    """
    model = folded(model)
    pictures: list[Path] = []
    for path in paths:
        if path.suffix.lower() in VIDEOS:
            yield from _predict_pictures(model, pictures, results, class_names, score_threshold)
            pictures = []
            yield from _predict_video(model, path, results, class_names, score_threshold)
        else:
            pictures.append(path)
    yield from _predict_pictures(model, pictures, results, class_names, score_threshold)


def _predict_pictures(
    model: Detector, paths: Sequence[Path], results: Results, class_names: Sequence[str], score_threshold: Threshold
) -> Iterator[dict[str, Any] | DataError]:
    for batch in _batches(paths):
        good = [(path, picture) for path, picture in batch if isinstance(picture, Image.Image)]
        yield from (error for _, error in batch if isinstance(error, DataError))
        found = predict_pictures(model, [picture for _, picture in good], class_names, score_threshold)
        for (path, picture), detections in zip(good, found, strict=True):
            name = results.draw(path, drawn_detections(picture, detections))
            yield results.add(path, name, picture.size, detections)


def _batches(paths: Iterable[Path]) -> Iterator[list[tuple[Path, Image.Image | DataError]]]:
    batch: list[tuple[Path, Image.Image | DataError]] = []
    pixels = 0
    for path in paths:
        picture: Image.Image | DataError
        try:
            picture = read_picture(path)
            pixels += picture.width * picture.height
        except DataError as error:
            picture = error
        batch.append((path, picture))
        if len(batch) == _BATCH or pixels > _MOST_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _predict_video(
    model: Detector, path: Path, results: Results, class_names: Sequence[str], score_threshold: Threshold
) -> Iterator[dict[str, Any] | DataError]:
    writer = None
    name = results.free_name(path.stem, ".mp4")
    try:
        frames = read_frames(path)
        while batch := list(islice(frames, _BATCH)):
            if writer is None:
                writer = VideoWriter(results.out / name, frame_rate(path))
            found = predict_pictures(model, [frame for _, frame in batch], class_names, score_threshold)
            for (time, frame), detections in zip(batch, found, strict=True):
                writer.add(drawn_detections(frame, detections))
                yield results.add(path, name, frame.size, detections, time)
        if writer is None:
            yield DataError(f"{path}: no frame in this video")
    except DataError as error:
        yield error
    finally:
        if writer is not None:
            writer.close()
