"""What a network finds in validation pictures, beside what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tinyssd.data.source import IGNORED_FROM, Example, Source
from tinyssd.evaluation.evaluate import coco_evaluation
from tinyssd.prediction.predict import Detection, predict_pictures
from tinyssd.run.checkpoint import Trained
from tinyssd_ops import box_iou

# From this IoU on a result has found an object.
FOUND_IOU = 0.5
# Weaker results count for nobody.
_LEAST_CONFIDENCE = 0.01
_BATCH = 8


@dataclass(frozen=True)
class PictureFindings:
    """A picture.

    Attributes:
        index: Its place in the source.
        truth: [G, 5], ``(class from 0, x1, y1, x2, y2)`` as shares of the picture, ignored objects left out.
        ignored: [I, 5], the rows of ignored objects, as sources have them.
        found: All results, by falling confidence.
        sure: Which of them reach the threshold of their class.
        object_of: For each result the object that it found, whatever its class, or -1.
        overlap: For each result its IoU with that object, 0 for none.
    """

    index: int
    truth: np.ndarray
    ignored: np.ndarray
    found: tuple[Detection, ...]
    sure: np.ndarray
    object_of: np.ndarray
    overlap: np.ndarray

    @property
    def quality(self) -> float:
        """Panoptic quality: the IoUs of the hits over hits, half of the false results and half of the missed objects.

        1 where there is nothing and nothing is found. Source: Kirillov et al., "Panoptic Segmentation", 2019.
        """
        right = [
            self.object_of[i] >= 0 and self.truth[self.object_of[i], 0] == self.found[i].class_index
            for i in range(len(self.found))
        ]
        hits = self.sure & np.array(right, dtype=bool)
        total = (int(self.sure.sum()) + len(self.truth)) / 2
        return float(self.overlap[hits].sum() / total) if total else 1.0


def look(trained: Trained, source: Source, most: int) -> list[PictureFindings]:
    """Looks at the pictures of a source, evenly spread ones where there are more than ``most``."""
    names = trained.config.class_names
    thresholds = np.array(trained.score_thresholds)
    count = min(len(source), most)
    indices = [place * len(source) // count for place in range(count)]
    pictures = []
    for start in tqdm(range(0, count, _BATCH), desc="looking", unit=" batches", leave=False, disable=None):
        batch = [source.example(index, 0) for index in indices[start : start + _BATCH]]
        found = predict_pictures(trained.model, [one.image for one in batch], names, _LEAST_CONFIDENCE)
        for place, (example, detections) in enumerate(zip(batch, found, strict=True)):
            pictures.append(_matched(indices[start + place], example, detections, thresholds))
    return pictures


def _matched(index: int, example: Example, found: Sequence[Detection], thresholds: np.ndarray) -> PictureFindings:
    """The surest result first, each takes the object that it overlaps most and that no other took."""
    ignored = example.labels[:, 0] <= IGNORED_FROM
    truth = example.labels[~ignored]
    boxes = torch.tensor([one.box for one in found], dtype=torch.float32).reshape(-1, 4)
    overlaps = box_iou(boxes, torch.from_numpy(truth[:, 1:].copy())).numpy().copy()
    sure = np.array([one.score >= thresholds[one.class_index] for one in found], dtype=bool)
    object_of, overlap = np.full(len(found), -1), np.zeros(len(found))
    # Sure results first: an unsure one of another class must not take the object of a sure one.
    for i in [*np.flatnonzero(sure), *np.flatnonzero(~sure)] if len(truth) else []:
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= FOUND_IOU:
            object_of[i], overlap[i] = best, overlaps[i, best]
            overlaps[:, best] = -1
    return PictureFindings(index, truth, example.labels[ignored], tuple(found), sure, object_of, overlap)


def confusion(pictures: Sequence[PictureFindings], num_classes: int) -> np.ndarray:
    """How often an object of class i was called j: int64 [N + 1, N + 1].

    The last row is that of results where no object is, the last column that of objects that nothing sure found. What
    lies in an ignored object counts for nobody.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for picture in pictures:
        missed = set(range(len(picture.truth)))
        for i in np.flatnonzero(picture.sure):
            class_index = picture.found[i].class_index
            if picture.object_of[i] >= 0:
                missed.discard(int(picture.object_of[i]))
                counts[int(picture.truth[picture.object_of[i], 0]), class_index] += 1
            elif not _inside(picture.found[i].box, picture.ignored[:, 1:]):
                counts[num_classes, class_index] += 1
        for unseen in missed:
            counts[int(picture.truth[unseen, 0]), num_classes] += 1
    return counts


def _inside(box: tuple[float, ...], ignored: np.ndarray) -> bool:
    """Whether half of a box lies in an ignored one."""
    x1, y1, x2, y2 = box
    size = (ignored[:, 2:].clip(max=(x2, y2)) - ignored[:, :2].clip(min=(x1, y1))).clip(min=0).prod(axis=1)
    return bool((size > 0.5 * (x2 - x1) * (y2 - y1)).any())


@dataclass(frozen=True)
class Curve:
    """Precision and recall, at the IoU 0.50, of the results from each confidence on: arrays [K], and the objects."""

    confidence: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    objects: int

    def at(self, threshold: float) -> tuple[float, float]:
        """Precision and recall from this confidence on; the precision of no result is NaN."""
        count = int((self.confidence >= threshold).sum())
        if count == 0:
            return float("nan"), 0.0 if self.objects else float("nan")
        return float(self.precision[count - 1]), float(self.recall[count - 1])


@dataclass(frozen=True)
class ClassRow:
    """A class: its objects, its AP over IoUs, at 0.50, and over small, medium and large objects; NaN for none."""

    objects: int
    ap: float
    ap50: float
    by_size: tuple[float, float, float]
    curve: Curve


def by_class(
    pictures: Sequence[PictureFindings], num_classes: int, image_size: tuple[int, int]
) -> tuple[list[ClassRow], ClassRow]:
    """COCO's numbers of each class, and of all: means of the AP, and one curve over all results."""
    predictions = [
        np.array([(one.class_index + 1, one.score, *one.box) for one in picture.found], dtype=np.float64).reshape(-1, 6)
        for picture in pictures
    ]
    truth = [np.concatenate((p.truth, p.ignored)) for p in pictures]
    evaluation = coco_evaluation(predictions, truth, num_classes, image_size)
    # [IoU threshold, recall, class, size]
    precision = evaluation.eval["precision"][..., -1]
    at_50 = coco_evaluation(predictions, truth, num_classes, image_size, iou_50_only=True)
    matches = list(_matches(at_50, num_classes))
    rows = [_row(precision[:, :, i : i + 1], _curve(matches[i])) for i in range(num_classes)]
    scores, hits, objects = zip(*matches, strict=True)
    return rows, _row(precision, _curve((np.concatenate(scores), np.concatenate(hits), sum(objects))))


def _row(precision: np.ndarray, curve: Curve) -> ClassRow:
    mean: Callable[[np.ndarray], float] = lambda v: float(v[v > -1].mean()) if (v > -1).any() else float("nan")  # noqa: E731
    small, medium, large = (mean(precision[..., size]) for size in (1, 2, 3))
    return ClassRow(curve.objects, mean(precision[..., 0]), mean(precision[0, ..., 0]), (small, medium, large), curve)


Matches = tuple[np.ndarray, np.ndarray, int]


def _matches(evaluation: Any, num_classes: int) -> Iterator[Matches]:
    """For each class the confidences of its results, whether they hit at the IoU 0.50, and its objects."""
    results, objects = (one.dataset["annotations"] for one in (evaluation.cocoDt, evaluation.cocoGt))
    ignored = {one["id"] for one in objects if one["iscrowd"]}
    pairs = [tuple(map(int, pair.split("_"))) for pair in evaluation.eval["matched"]]
    hits = {found for found, thing in pairs if thing not in ignored}
    in_ignored = {found for found, thing in pairs if thing in ignored} - hits
    for category in range(1, num_classes + 1):
        counted = [one for one in results if one["category_id"] == category and one["id"] not in in_ignored]
        scores = np.array([one["score"] for one in counted], dtype=np.float64)
        right = np.array([one["id"] in hits for one in counted], dtype=bool)
        yield scores, right, sum(one["category_id"] == category and not one["iscrowd"] for one in objects)


def _curve(matches: Matches) -> Curve:
    scores, hits, objects = matches
    order = np.argsort(-scores, kind="stable")
    right = hits[order].cumsum()
    return Curve(scores[order], right / np.arange(1, len(order) + 1), right / max(objects, 1), objects)
