"""How good a detector is: class error, offset error, and average precision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from tinyssd.data.loader import to_input
from tinyssd.data.source import IGNORED_FROM, PADDING
from tinyssd.model.detector import Detector
from tinyssd_ops import multibox_target


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's average precision, 0..1; NaN where there is no object.

    Attributes:
        ap: The mean over the IoU thresholds 0.50, 0.55, ..., 0.95 and over the classes.
        ap50: At the IoU threshold 0.50.
        per_class: ``ap`` of each class without background.
        best_threshold: The confidence from which results should count: there the harmonic mean of precision and recall
            at the IoU threshold 0.50 is highest (the mean over the classes of which an object was found).
        ap50_per_class: ``ap50`` of each class.
        best_threshold_per_class: ``best_threshold`` of each class.
    """

    ap: float
    ap50: float
    per_class: tuple[float, ...]
    best_threshold: float
    ap50_per_class: tuple[float, ...]
    best_threshold_per_class: tuple[float, ...]


@dataclass(frozen=True)
class Metrics:
    """What an evaluation finds.

    Attributes:
        class_error: Share of all anchors whose most likely class is wrong.
        offset_mae: Mean absolute error of the four offsets of matched anchors.
        ap: As in :class:`AveragePrecision`.
        ap50: As in :class:`AveragePrecision`.
        ap_per_class: As in :class:`AveragePrecision`.
        best_threshold: As in :class:`AveragePrecision`.
        ap50_per_class: As in :class:`AveragePrecision`.
        best_threshold_per_class: As in :class:`AveragePrecision`.
    """

    class_error: float
    offset_mae: float
    ap: float
    ap50: float
    ap_per_class: tuple[float, ...]
    best_threshold: float
    ap50_per_class: tuple[float, ...]
    best_threshold_per_class: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """The metrics by name, NaN as None: JSON has no NaN."""
        return {
            name: [_or_none(one) for one in value] if isinstance(value, tuple) else _or_none(value)
            for name, value in dataclasses.asdict(self).items()
        }


@torch.no_grad()
def evaluate(
    model: Detector,
    loader: DataLoader[tuple[Tensor, Tensor]],
    device: torch.device,
    channels_last: bool = True,
    match_iou: float = 0.5,
) -> Metrics:
    """Runs the detector over all batches of ``loader``. Leaves it in evaluation mode."""
    model.eval()
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    absolute_error = torch.zeros((), dtype=torch.float64, device=device)
    matched = torch.zeros((), dtype=torch.float64, device=device)
    anchors_seen = 0
    predictions: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    for images, labels in tqdm(loader, desc="evaluating", unit=" batches", leave=False, disable=None):
        labels = labels.to(device)
        anchors, scores, offsets = model(to_input(images.to(device), channels_last))
        offset_targets, mask, classes = multibox_target(anchors, labels, match_iou)
        wrong += (model.probabilities(scores).argmax(dim=1) != classes).sum()
        absolute_error += ((offsets - offset_targets) * mask).abs().sum()
        matched += mask.sum()
        anchors_seen += classes.numel()
        rows, _ = model.select(anchors, scores, offsets)
        predictions += [row[row[:, 0] > 0] for row in rows.cpu().numpy()]
        truth += [row[row[:, 0] != PADDING] for row in labels.cpu().numpy()]
    precision = average_precision(predictions, truth, model.config.num_classes - 1, model.config.image_size)
    return Metrics(
        class_error=wrong.item() / max(anchors_seen, 1),
        offset_mae=absolute_error.item() / max(matched.item(), 1),
        ap=precision.ap,
        ap50=precision.ap50,
        ap_per_class=precision.per_class,
        best_threshold=precision.best_threshold,
        ap50_per_class=precision.ap50_per_class,
        best_threshold_per_class=precision.best_threshold_per_class,
    )


def average_precision(
    predictions: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    num_classes: int,
    image_size: tuple[int, int] = (256, 256),
) -> AveragePrecision:
    """COCO's average precision by faster-coco-eval, whose numbers are those of pycocotools.

    It does not depend on the order of pictures, results and objects: where confidences are equal, pictures count in the
    order of their results' values, and the results of a picture by class and box.

    Args:
        predictions: For each picture [K, 6], ``(class, confidence, x1, y1, x2, y2)``, classes from 1.
        truth: For each picture [G, 5], ``(class, x1, y1, x2, y2)``, classes from 0, as data sets give them. Ignored
            objects (class ``-2 - c``) are COCO's crowds: what lies in one counts neither for nor against.
        num_classes: Classes without background.
        image_size: Height and width that boxes, given as shares of the picture, are scaled to.
    """
    evaluation = coco_evaluation(predictions, truth, num_classes, image_size)
    # [IoU threshold, recall, class] for objects of all sizes and at most 100 results a picture.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = tuple(_mean(precision[:, :, index]) for index in range(num_classes))
    confidence = evaluation.eval["scores"][0, :, :, 0, -1]
    per_class_50 = tuple(_mean(precision[0, :, index]) for index in range(num_classes))
    thresholds = _best_thresholds(precision[0], confidence, evaluation.params.recThrs)
    present = [one for one in thresholds if not math.isnan(one)]
    threshold = sum(present) / len(present) if present else math.nan
    return AveragePrecision(_mean(precision), _mean(precision[0]), per_class, threshold, per_class_50, thresholds)


def coco_evaluation(
    predictions: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    num_classes: int,
    image_size: tuple[int, int],
    *,
    iou_50_only: bool = False,
) -> Any:
    """The ``COCOeval`` after its work; arguments as in :func:`average_precision`.

    With ``iou_50_only`` it looks at the IoU threshold 0.50 and at objects of all sizes together, nothing else, so that
    ``eval["matched"]`` pairs results and objects at that threshold.
    """
    from faster_coco_eval import COCOeval_faster

    height, width = image_size
    scale = np.array([width, height, width, height], dtype=np.float64)
    pictures = _in_order(predictions, truth)
    objects = [_true_annotation(image, row, scale) for image, (_, rows) in enumerate(pictures) for row in rows]
    results = [
        {**_annotation(image, row[0], row[2:] * scale), "score": float(row[1])}
        for image, (rows, _) in enumerate(pictures)
        for row in rows
    ]
    gt, found = (_coco(one, len(pictures), num_classes) for one in (objects, results))
    evaluation = COCOeval_faster(gt, found, "bbox")
    if iou_50_only:
        params = evaluation.params
        params.iouThrs, params.areaRng, params.areaRngLbl = np.array([0.5]), params.areaRng[:1], params.areaRngLbl[:1]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _in_order(predictions: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures, results and objects in an order that their values alone decide; arguments as above.

    Of equal confidences the evaluation takes those that come first. Results go by falling confidence, then by class and
    box; objects by class and box; pictures by their results, and only where these are the same by their objects, so
    that what is true does not lead the order.
    """
    pictures = []
    for rows, objects in zip(predictions, truth, strict=True):
        rows, objects = rows.astype(np.float64), objects.astype(np.float64)
        by_confidence = np.lexsort((*rows[:, :1:-1].T, rows[:, 0], -rows[:, 1]))
        pictures.append((rows[by_confidence], objects[np.lexsort(objects[:, ::-1].T)]))
    return sorted(pictures, key=lambda picture: (picture[0].tobytes(), picture[1].tobytes()))


def _best_thresholds(precision: np.ndarray, confidence: np.ndarray, recall: np.ndarray) -> tuple[float, ...]:
    """For each class the confidence with the highest F1, NaN where none was found; arrays [recall, class], [recall].

    A class of which nothing was found would have a threshold of 0, and then show whatever lies anywhere.
    """
    f1 = 2 * precision * recall[:, None] / (precision + recall[:, None]).clip(min=1e-9)
    best = confidence[f1.argmax(axis=0), np.arange(f1.shape[1])]
    return tuple(np.where(f1.max(axis=0) > 0, best, math.nan).tolist())


def _true_annotation(image: int, row: np.ndarray, scale: np.ndarray) -> dict[str, Any]:
    ignored = row[0] <= IGNORED_FROM
    class_id = IGNORED_FROM - row[0] if ignored else row[0]
    return {**_annotation(image, class_id + 1, row[1:] * scale), "iscrowd": int(ignored)}


def _annotation(image: int, class_id: float, box: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box)
    size = [x2 - x1, y2 - y1]
    return {
        "image_id": image,
        "category_id": int(class_id),
        "bbox": [x1, y1, *size],
        "area": size[0] * size[1],
    }


def _coco(annotations: list[dict[str, Any]], num_images: int, num_classes: int) -> Any:
    from faster_coco_eval import COCO

    coco: Any = COCO()  # Of a data set's keys only those that the evaluation reads.
    coco.dataset = {
        "images": [{"id": image} for image in range(num_images)],
        "categories": [{"id": class_id} for class_id in range(1, num_classes + 1)],
        # Ids from 1: 0 stands for "not matched".
        "annotations": [{"iscrowd": 0, **row, "id": i} for i, row in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


def _mean(precision: np.ndarray) -> float:
    """The mean of the entries that are there; the evaluation marks others with -1."""
    present = precision[precision > -1]
    return float(present.mean()) if present.size else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
