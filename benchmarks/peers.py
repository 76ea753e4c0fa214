"""What one would use instead of the library: other packages, and the loops that tutorials teach.

Each function takes what the op takes and returns what the op returns, so that results can be compared. Conversions that
a peer needs (NumPy arrays, pixels) are made by the ``*_inputs`` functions, outside the timing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

PACKAGES = ("torchvision", "powerboxes", "lsnms", "fastbbox")


@functools.cache
def find(package: str) -> tuple[ModuleType | None, str]:
    """The package or None, and its version or why it cannot be imported."""
    try:
        return importlib.import_module(package), importlib.metadata.version(package)
    # A binary package that does not fit fails in its own way: torchvision beside a CPU-only torch, in a RuntimeError.
    except Exception as error:
        return None, f"not importable because {type(error).__name__}: {' '.join(str(error).split())}"


def available(package: str) -> bool:
    """Whether the package can be used here."""
    return find(package)[0] is not None


def _module(name: str) -> Any:
    """A module of an available package, typed as anything: the peers have no common types."""
    return importlib.import_module(name)


# --- torchvision -----------------------------------------------------------------------------------------------------


def torchvision_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """``torchvision.ops.nms``."""
    return _module("torchvision").ops.nms(boxes, scores, threshold)


def torchvision_batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, threshold: float) -> Tensor:
    """``torchvision.ops.batched_nms``: shifts coordinates up to 1000 boxes, goes class by class above."""
    return _module("torchvision").ops.batched_nms(boxes, scores, idxs, threshold)


def torchvision_nms_padded(boxes: Tensor, scores: Tensor, threshold: float) -> list[Tensor]:
    """``torchvision.ops.nms`` image by image; the results are left in a list, so nothing is timed but that."""
    return [torchvision_nms(*image, threshold) for image in zip(boxes, scores, strict=True)]


def torchvision_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``torchvision.ops.box_iou``."""
    return _module("torchvision").ops.box_iou(boxes1, boxes2)


def torchvision_assign(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """torchvision's SSD matcher, image by image: the same rule as ours where no two boxes want one anchor."""
    matcher = _module("torchvision.models.detection._utils").SSDMatcher(0.5)
    return torch.stack([matcher(torchvision_box_iou(boxes, anchors)) for boxes in gt_boxes])


def torchvision_target(anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """torchvision's SSD matcher and box coder, image by image."""
    coder = _module("torchvision.models.detection._utils").BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    anchors = anchors.reshape(-1, 4)
    assigned = torchvision_assign(anchors, labels[..., 1:])
    offsets, masks, classes = [], [], []
    for row, image in zip(assigned, labels, strict=True):
        matched = row >= 0
        offset, target = torch.zeros_like(anchors), torch.zeros_like(row)
        offset[matched] = coder.encode_single(image[row[matched], 1:], anchors[matched])
        target[matched] = image[row[matched], 0].long() + 1
        offsets.append(offset.flatten())
        masks.append(matched[:, None].expand(-1, 4).to(offset.dtype).flatten())
        classes.append(target)
    return torch.stack(offsets), torch.stack(masks), torch.stack(classes)


# torchvision clips boxes to the picture before NMS, our definition does not: in a picture three times as wide, with
# the anchors in its middle third, nothing is clipped and the results are the same.
_PIXELS = 300.0


def torchvision_detect_inputs(logits: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Any, ...]:
    """The inputs of ``detect`` in the form of torchvision's SSD."""
    outputs = {"cls_logits": logits, "bbox_regression": offsets.unflatten(1, (-1, 4))}
    return outputs, [anchors.reshape(-1, 4) * _PIXELS + _PIXELS] * len(logits)


def torchvision_detect(outputs: dict[str, Tensor], anchors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """``SSD.postprocess_detections`` with our settings, its list of results padded."""
    coder = _module("torchvision.models.detection._utils").BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    ssd = SimpleNamespace(
        box_coder=coder, score_thresh=0.01, nms_thresh=0.5, detections_per_img=100, topk_candidates=len(anchors[0])
    )
    shapes = [(int(3 * _PIXELS), int(3 * _PIXELS))] * len(anchors)
    found = _module("torchvision.models.detection.ssd").SSD.postprocess_detections(ssd, outputs, anchors, shapes)
    rows = anchors[0].new_zeros(len(found), 100, 6)
    rows[..., 0] = -1
    for row, image in zip(rows, found, strict=True):
        count = len(image["labels"])
        row[:count, 0], row[:count, 1] = image["labels"], image["scores"]
        row[:count, 2:] = (image["boxes"] - _PIXELS) / _PIXELS
    return rows, torch.tensor([len(image["labels"]) for image in found], device=rows.device)


# --- NumPy packages --------------------------------------------------------------------------------------------------


def powerboxes_nms_inputs(boxes: Tensor, scores: Tensor, threshold: float) -> tuple[Any, ...]:
    """NumPy arrays; powerboxes wants float64 scores."""
    return boxes.numpy(), scores.double().numpy(), threshold


def powerboxes_nms(boxes: Any, scores: Any, threshold: float) -> Tensor:
    """``powerboxes.nms``, which compares all pairs."""
    return _indices(_module("powerboxes").nms(boxes, scores, threshold, -1.0))


def powerboxes_rtree_nms(boxes: Any, scores: Any, threshold: float) -> Tensor:
    """``powerboxes.rtree_nms``, which finds neighbours in an R-tree."""
    return _indices(_module("powerboxes").rtree_nms(boxes, scores, threshold, -1.0))


def powerboxes_iou(boxes1: Any, boxes2: Any) -> Any:
    """``powerboxes.parallel_iou_distance``: 1 - IoU in float64; the subtraction is left to the check."""
    return _module("powerboxes").parallel_iou_distance(boxes1, boxes2)


def lsnms_nms(boxes: Any, scores: Any, threshold: float) -> Tensor:
    """``lsnms.nms``, its Rust R-tree."""
    return _indices(_module("lsnms").nms(boxes, scores, threshold, 0.0))


def lsnms_batched_nms(boxes: Any, scores: Any, idxs: Any, threshold: float) -> Tensor:
    """``lsnms.nms`` with class ids: moves each class to a place of its own."""
    return _indices(_module("lsnms").nms(boxes, scores, threshold, 0.0, class_ids=idxs))


def fastbbox_iou(boxes1: Any, boxes2: Any) -> Any:
    """``fastbbox.bbox_overlaps``."""
    return _module("fastbbox").bbox_overlaps(boxes1, boxes2)


def numpy_inputs(*args: Any) -> tuple[Any, ...]:
    """Every tensor as a NumPy array on the same memory."""
    return tuple(arg.numpy() if isinstance(arg, Tensor) else arg for arg in args)


def _indices(kept: Any) -> Tensor:
    return torch.from_numpy(kept.astype("int64"))


# --- the loops of tutorials: plain Torch, image by image, box by box -------------------------------------------------


def loop_assign(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """Assignment of all images, one after the other."""
    return torch.stack([_loop_assign_image(anchors, boxes) for boxes in gt_boxes])


def loop_target(anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of all images, one after the other."""
    anchors = anchors.reshape(-1, 4)
    offsets, masks, classes = [], [], []
    for image in labels:
        assigned = _loop_assign_image(anchors, image[:, 1:])
        mask = (assigned >= 0).float()[:, None].repeat(1, 4)
        boxes = torch.zeros_like(anchors)
        target = torch.zeros_like(assigned)
        matched = torch.nonzero(assigned >= 0).squeeze(1)
        boxes[matched] = image[assigned[matched], 1:]
        target[matched] = image[assigned[matched], 0].long() + 1
        offsets.append((_loop_encode(anchors, boxes) * mask).flatten())
        masks.append(mask.flatten())
        classes.append(target)
    return torch.stack(offsets), torch.stack(masks), torch.stack(classes)


def loop_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """NMS that keeps the best box, drops what overlaps it, and starts again with the rest."""
    order = scores.argsort(descending=True, stable=True)
    kept = []
    while len(order) > 0:
        best = order[0]
        kept.append(best)
        if len(order) == 1:
            break
        rest = order[1:]
        overlap = _loop_iou(boxes[best][None], boxes[rest])[0]
        order = rest[overlap <= threshold]
    return torch.stack(kept) if kept else order


def loop_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    gaussian: bool,
    threshold: float,
    sigma: float,
    _: None,
    least: float,
    most: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS of one image after the other: keep the best box, lower the scores of the rest, start again."""
    count = boxes.shape[1] if most is None else most
    keep, kept_scores = boxes.new_full((len(boxes), count), -1, dtype=torch.int64), boxes.new_zeros(len(boxes), count)
    counts = boxes.new_zeros(len(boxes), dtype=torch.int64)
    for image, left in enumerate(scores.clone()):
        while counts[image] < count and left.max() >= least:
            best = left.argmax()
            keep[image, counts[image]], kept_scores[image, counts[image]] = best, left[best]
            counts[image] += 1
            iou = _loop_iou(boxes[image, best][None], boxes[image])[0]
            left *= torch.exp(-(iou**2) / sigma) if gaussian else torch.where(iou >= threshold, 1 - iou, 1)
            left[best] = -1
    return keep, kept_scores, counts


def loop_detection(cls_probs: Tensor, offset_preds: Tensor, anchors: Tensor) -> Tensor:
    """Detection of all images, one after the other."""
    anchors = anchors.reshape(-1, 4)
    images = []
    for probs, offsets in zip(cls_probs, offset_preds.unflatten(1, (-1, 4)), strict=True):
        confidence, classes = probs.max(dim=0)
        boxes = _loop_decode(anchors, offsets)
        foreground = torch.nonzero(classes > 0).squeeze(1)
        kept = foreground[loop_nms(boxes[foreground], confidence[foreground], 0.5)]
        is_kept = torch.zeros_like(classes, dtype=torch.bool)
        is_kept[kept] = True
        suppressed = torch.nonzero((classes > 0) & ~is_kept).squeeze(1)
        background = torch.nonzero(classes == 0).squeeze(1)
        classes = torch.where(is_kept, classes, 0)
        unsure = confidence < 0.01
        classes[unsure] = 0
        confidence = torch.where(unsure, 1 - confidence, confidence)
        rows = torch.cat((classes[:, None].float(), confidence[:, None], boxes), dim=1)
        images.append(rows[torch.cat((kept, suppressed, background))])
    return torch.stack(images)


def _loop_assign_image(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    iou = _loop_iou(anchors, gt_boxes)
    best, box = iou.max(dim=1)
    assigned = torch.where(best >= 0.5, box, -1)
    for _ in range(min(iou.shape)):
        place = int(iou.argmax())
        anchor, box_index = place // iou.shape[1], place % iou.shape[1]
        assigned[anchor] = box_index
        iou[anchor, :] = -1
        iou[:, box_index] = -1
    return assigned


def _loop_iou(a: Tensor, b: Tensor) -> Tensor:
    low = torch.max(a[:, None, :2], b[None, :, :2])
    high = torch.min(a[:, None, 2:], b[None, :, 2:])
    size = (high - low).clamp(min=0)
    inter = size[..., 0] * size[..., 1]
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return inter / (area_a[:, None] + area_b[None, :] - inter)


def _loop_encode(anchors: Tensor, boxes: Tensor) -> Tensor:
    center, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    box_center, box_size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return torch.cat((10 * (box_center - center) / size, 5 * torch.log(1e-6 + box_size / size)), dim=1)


def _loop_decode(anchors: Tensor, offsets: Tensor) -> Tensor:
    center, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    box_center = offsets[:, :2] * size / 10 + center
    box_size = torch.exp(offsets[:, 2:] / 5) * size
    return torch.cat((box_center - box_size / 2, box_center + box_size / 2), dim=1)
