"""The detection core of single-shot detectors: IoU, anchor assignment, NMS and the fused steps around them."""

from tinyssd_ops._version import __version__
from tinyssd_ops.assigners import (
    assign_atss,
    assign_simota,
    assign_task_aligned,
    assign_threshold,
    assignment_target,
)
from tinyssd_ops.boxes import (
    center_to_corner,
    clip_boxes,
    corner_to_center,
    decode_boxes,
    encode_boxes,
    multibox_prior,
)
from tinyssd_ops.ops import (
    assign_anchors,
    batched_nms,
    box_iou,
    detect,
    info,
    iou_pairs,
    multibox_detection,
    multibox_target,
    nms,
    nms_padded,
    soft_nms,
)

__all__ = [
    "__version__",
    "assign_anchors",
    "assign_atss",
    "assign_simota",
    "assign_task_aligned",
    "assign_threshold",
    "assignment_target",
    "batched_nms",
    "box_iou",
    "center_to_corner",
    "clip_boxes",
    "corner_to_center",
    "decode_boxes",
    "detect",
    "encode_boxes",
    "info",
    "iou_pairs",
    "multibox_detection",
    "multibox_prior",
    "multibox_target",
    "nms",
    "nms_padded",
    "soft_nms",
]
