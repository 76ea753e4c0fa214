"""The ops. Each call goes to the native kernel of the tensors' device, or to the Torch reference where there is none.

Shapes: A anchors, G ground-truth boxes an image (padded), B images, C classes with the background as class 0, N boxes.
Boxes are ``(x1, y1, x2, y2)``, float, in any unit, one unit a call. Inputs may be float16, bfloat16, float32 or
float64, in any mix; computed in float64 if one of them is, else in float32, and float results have that dtype.
A NaN score ranks last, a box with a NaN overlaps nothing, a union of 0 or less is an IoU of 0.

Every function raises a ValueError that names the argument, what it was and what it must be, for a wrong shape, dtype,
device or value; a TypeError for a wrong type (tensors are dense ones: not sparse, nested or quantized). Thresholds on
the IoU lie in 0..1 and are rounded to the dtype of the computation.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor

from tinyssd_ops import _autograd, _checks, _extension, _iou, _registration, reference
from tinyssd_ops._version import __version__

_EXTENSION = _extension.load()
_NATIVE_DEVICES = _EXTENSION.devices
if _EXTENSION.cpu is not None:
    _registration.register()


_KERNELS = (
    "box_iou",
    "iou_pairs",
    "assign_anchors",
    "multibox_target",
    "nms",
    "batched_nms",
    "nms_padded",
    "soft_nms",
    "multibox_detection",
    "detect",
    "assign_threshold",
    "assign_atss",
    "assign_task_aligned",
    "assign_simota",
    "assignment_target",
)
_TORCH_ONLY = ("multibox_prior", "encode_boxes", "decode_boxes", "corner_to_center", "center_to_corner", "clip_boxes")


def _backend(**tensors: Tensor) -> Any:
    """Where the op runs; on a mix of devices the checks of either backend name the odd one."""
    native = True
    for name, tensor in tensors.items():
        _checks.expect_tensor(name, tensor)
        # Asking for the name of a device takes longer than the rest of this.
        native = native and ("cpu" if tensor.is_cpu else tensor.device.type) in _NATIVE_DEVICES
    if not native and not torch.compiler.is_compiling() and any(tensor.is_cuda for tensor in tensors.values()):
        _extension.warn_of_the_reference(_EXTENSION.reasons["cuda"])
    return torch.ops.tinyssd_ops if native else reference


def _given(**tensors: Tensor | None) -> dict[str, Tensor]:
    """The optional tensors that are there."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def info() -> dict[str, Any]:
    """Versions, and which backend serves the ops on which device, and why.

    Returns:
        ``version``, ``torch``, ``python``; ``backends``: for each device type ``{"backend": "native" or "reference",
        "why": a sentence}``, and where CUDA kernels are loaded ``"gpus"``: a sentence for each GPU, with its driver and
        whether the library holds code for it, or one for why there is none;
        ``ops``: for each op and device type ``"native"``, ``"reference"``, or ``"torch"`` where the op is made of Torch
        operations everywhere; ``build``: the compiler, SIMD paths, CUDA version and
        architectures and ABI target of each native library, and ``simd``, the path in use.
    """
    backends: dict[str, dict[str, Any]] = {
        device: {"backend": "native" if device in _NATIVE_DEVICES else "reference", "why": why}
        for device, why in _EXTENSION.reasons.items()
    }
    if _EXTENSION.cuda is not None:
        backends["cuda"]["gpus"] = _extension.gpus(_EXTENSION.cuda)
    modules = {"_C": _EXTENSION.cpu, "_C_cuda": _EXTENSION.cuda}
    return {
        "version": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "backends": backends,
        "ops": {
            name: {device: served["backend"] if name in _KERNELS else "torch" for device, served in backends.items()}
            for name in (*_KERNELS, *_TORCH_ONLY)
        },
        "build": {name: module.build_info() for name, module in modules.items() if module is not None},
    }


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes. Differentiable in both arguments, as often as you like.

    The gradient is finite, whatever the boxes are; at a tie, where two boxes share an edge, each gets half of it.

    Args:
        boxes1: [..., N, 4].
        boxes2: [..., M, 4]; the leading sizes broadcast.

    Returns:
        [..., N, M], float32 or float64.

    ``tinyssd_ops.torchvision.box_iou`` has torchvision's signature, and its page the differences.
    """
    return _autograd.call(_backend(boxes1=boxes1, boxes2=boxes2).box_iou, boxes1, boxes2)


def iou_pairs(
    boxes1: Tensor,
    boxes2: Tensor,
    kind: str = "iou",
    aligned: bool = False,
    eps: float = 0.0,
    union_eps: float = 0.0,
) -> Tensor:
    """The IoU family: IoU, or IoU less a penalty, of every pair of boxes or row by row, as losses want it.

    - ``"iou"``: ``intersection / (union + union_eps)``.
    - ``"giou"``: less ``(hull - union) / (hull + eps)``, the hull being the smallest box around both (Rezatofighi et
      al., "Generalized Intersection over Union", 2019).
    - ``"diou"``: less the squared distance of the centres over the squared diagonal of the hull, plus ``eps``.
    - ``"ciou"``: less, further, ``alpha * v``, where ``v`` is the squared difference of the angles of the diagonals,
      times ``4 / pi**2``, and ``alpha = v / (1 - iou + v + eps)`` is a constant to the gradient (both: Zheng et al.,
      "Distance-IoU Loss", 2020).

    A term whose denominator is not positive and finite is 0. Differentiable in both arguments, as often as you like,
    with a finite gradient whatever the boxes are: at a tie, where two boxes share an edge, each gets half of it; edges
    that touch count as overlapping; a slope is cut to 2**96 in float32 and 2**992 in float64.

    Args:
        boxes1: [..., N, 4], or [..., 4] if aligned.
        boxes2: [..., M, 4], or [..., 4] if aligned; the leading sizes broadcast.
        kind: See above.
        aligned: The first box with the first, the second with the second, in place of every pair.
        eps: Added to the denominators but the union's.
        union_eps: Added to the union.

    Returns:
        [..., N, M], or [...] if aligned: float32 or float64.
    """
    backend = _backend(boxes1=boxes1, boxes2=boxes2)
    _checks.expect(
        isinstance(kind, str) and kind in _iou.KINDS, f"kind: expected one of {', '.join(_iou.KINDS)}, got {kind!r}"
    )
    if _checks.flag("aligned", aligned) and boxes1.shape != boxes2.shape:
        boxes1, boxes2 = _checks.broadcast_boxes(boxes1, boxes2)
    added = (_checks.number("union_eps", union_eps), _checks.number("eps", eps))
    return _autograd.call(backend.iou_pairs, boxes1, boxes2, _iou.KINDS.index(kind), aligned, *added)


def assign_anchors(
    anchors: Tensor, gt_boxes: Tensor, gt_valid: Tensor | None = None, iou_threshold: float = 0.5
) -> Tensor:
    """The ground-truth box of each anchor.

    First each anchor takes its best box where that IoU reaches the threshold. Then, once for each valid box: the
    largest IoU left in the whole anchors x boxes matrix gives that anchor to that box, and both leave. So every valid
    box gets an anchor, even at IoU 0, while anchors last. Ties: lowest anchor index, then lowest box index.

    Args:
        anchors: [A, 4].
        gt_boxes: [B, G, 4], or [G, 4] for one image.
        gt_valid: bool [B, G] (or [G]), False marks padding; None: all are valid.
        iou_threshold: The least IoU of the first step, 0..1.

    Returns:
        int64 [B, A] (or [A]): the index of the anchor's box, -1 for background.

    Source: the assignment of Zhang et al., "Dive into Deep Learning", section 14.4.3.
    """
    backend = _backend(anchors=anchors, gt_boxes=gt_boxes, **_given(gt_valid=gt_valid))
    return backend.assign_anchors(anchors, gt_boxes, gt_valid, _checks.number("iou_threshold", iou_threshold))


def multibox_target(anchors: Tensor, labels: Tensor, iou_threshold: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """What the detector should predict: :func:`assign_anchors` and :func:`encode_boxes` in one pass.

    Args:
        anchors: [1, A, 4] or [A, 4].
        labels: [B, G, 5], rows ``(class, x1, y1, x2, y2)``, the first object class being 0; class < 0 marks padding.
        iou_threshold: As in :func:`assign_anchors`.

    Returns:
        offsets [B, 4A], 0 for background; mask [B, 4A], 1 for matched anchors, else 0; classes int64 [B, A],
        ``label + 1``, 0 for background.
    """
    backend = _backend(anchors=anchors, labels=labels)
    return backend.multibox_target(anchors, labels, _checks.number("iou_threshold", iou_threshold))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: a box goes when it overlaps a kept box of higher rank by IoU > threshold.

    Args:
        boxes: [N, 4].
        scores: [N].
        iou_threshold: 0..1.

    Returns:
        int64 [K]: the kept indices by falling score, equal scores by index. On CUDA, waits for the device once.

    ``tinyssd_ops.torchvision.nms`` takes what torchvision's takes, and its page has the differences.
    """
    backend = _backend(boxes=boxes, scores=scores)
    return backend.nms(boxes, scores, _checks.number("iou_threshold", iou_threshold))


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` within each class: boxes of different classes never suppress each other.

    Args:
        boxes: [N, 4].
        scores: [N].
        idxs: [N], any integer dtype and any values: the class (or level, or image) of each box.
        iou_threshold: 0..1.

    Returns:
        int64 [K]: the kept indices by falling score, equal scores by index. On CUDA, waits for the device once.

    Ids are compared; no coordinate is shifted. ``tinyssd_ops.torchvision.batched_nms`` takes what torchvision's takes.
    """
    backend = _backend(boxes=boxes, scores=scores, idxs=idxs)
    return backend.batched_nms(boxes, scores, idxs, _checks.number("iou_threshold", iou_threshold))


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    class_ids: Tensor | None = None,
    score_threshold: float | None = None,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`nms` of a whole batch in a fixed shape: nothing waits for the device, and vmap and capture work.

    (The kernels, that is; the Torch reference looks at its data on the way.)

    Args:
        boxes: [B, N, 4].
        scores: [B, N].
        iou_threshold: 0..1.
        class_ids: [B, N] integers; boxes of different classes never suppress each other. None: one class.
        score_threshold: Boxes that score below it (or NaN) take no part. None: all take part.
        max_output: K, the most boxes kept an image, the best ones. None: N.

    Returns:
        int64 [B, K]: the kept indices by falling score, equal scores by index, padded with -1; int64 [B]: how many.
    """
    backend = _backend(boxes=boxes, scores=scores, **_given(class_ids=class_ids))
    iou_threshold = _checks.number("iou_threshold", iou_threshold)
    if score_threshold is not None:
        score_threshold = _checks.number("score_threshold", score_threshold)
    if max_output is not None:
        max_output = _checks.whole_number("max_output", max_output)
    return backend.nms_padded(boxes, scores, iou_threshold, class_ids, score_threshold, max_output)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    gaussian: bool = False,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    class_ids: Tensor | None = None,
    score_threshold: float | None = 0.001,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS of a whole batch in a fixed shape: a kept box lowers the scores of those it overlaps.

    Again and again the box of the highest score is kept, and that of each box left is multiplied: by ``1 - IoU`` where
    the IoU reaches the threshold (linear), or by ``exp(-IoU**2 / sigma)`` (Gaussian). A box whose score falls below
    ``score_threshold`` is out. Scores are taken to be 0 or more. Nothing waits for the device.

    Args:
        boxes: [B, N, 4].
        scores: [B, N].
        gaussian: Which of the two.
        iou_threshold: Of the linear one, 0..1.
        sigma: Of the Gaussian one, above 0.
        class_ids: [B, N] integers; boxes of different classes leave each other alone. None: one class.
        score_threshold: See above; a NaN is below it. None: all boxes are kept, in a new order.
        max_output: K, the most boxes kept an image, the best ones. None: N.

    Returns:
        int64 [B, K]: the kept indices by falling new score, equal scores by index, padded with -1; [B, K]: their new
        scores, padded with 0; int64 [B]: how many.

    Source: Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", 2017.
    """
    backend = _backend(boxes=boxes, scores=scores, **_given(class_ids=class_ids))
    gaussian = _checks.flag("gaussian", gaussian)
    iou_threshold, sigma = _checks.number("iou_threshold", iou_threshold), _checks.number("sigma", sigma)
    if score_threshold is not None:
        score_threshold = _checks.number("score_threshold", score_threshold)
    if max_output is not None:
        max_output = _checks.whole_number("max_output", max_output)
    return backend.soft_nms(boxes, scores, gaussian, iou_threshold, sigma, class_ids, score_threshold, max_output)


def multibox_detection(
    cls_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float = 0.5,
    pos_threshold: float = 0.01,
) -> Tensor:
    """A row for every anchor: its class after suppression, its confidence and its box.

    The class and confidence of an anchor are the argmax and max of its probabilities, background included (the lowest
    class of equals; a NaN counts as the largest). Anchors that are not background go through NMS, whatever their class.
    Row order: kept boxes by falling confidence, then suppressed ones by index, then background by index; the latter two
    have class 0. Then every row whose confidence is below ``pos_threshold`` gets class 0 and ``1 - confidence``.

    Args:
        cls_probs: [B, C, A], class 0 being the background.
        offset_preds: [B, 4A], in the encoding of :func:`encode_boxes`.
        anchors: [1, A, 4] or [A, 4].
        nms_threshold: 0..1.
        pos_threshold: The confidence from which a detection counts as one.

    Returns:
        [B, A, 6]: ``(class, confidence, x1, y1, x2, y2)``; boxes are not clipped.

    Source: the detection of Zhang et al., "Dive into Deep Learning", section 14.4.4, with the background as class 0.
    """
    backend = _backend(cls_probs=cls_probs, offset_preds=offset_preds, anchors=anchors)
    nms_threshold = _checks.number("nms_threshold", nms_threshold)
    pos_threshold = _checks.number("pos_threshold", pos_threshold)
    return backend.multibox_detection(cls_probs, offset_preds, anchors, nms_threshold, pos_threshold)


def detect(
    cls_probs: Tensor,
    offset_preds: Tensor,
    anchors: Tensor,
    nms_threshold: float = 0.5,
    score_threshold: float = 0.01,
    max_detections: int = 100,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """The detections of a batch: decode, filter by score, NMS, and the best K, in a fixed shape.

    Every pair of an anchor and an object class that scores at least ``score_threshold`` is a candidate, and NMS keeps
    classes apart. With ``class_agnostic`` an anchor stands for its best object class alone, and NMS ignores classes.

    Args:
        cls_probs: [B, C, A], class 0 being the background.
        offset_preds: [B, 4A], in the encoding of :func:`encode_boxes`.
        anchors: [1, A, 4] or [A, 4].
        nms_threshold: 0..1.
        score_threshold: The least probability of a candidate; NaN is never one.
        max_detections: K, the most detections an image.
        class_agnostic: See above.

    Returns:
        [B, K, 6]: ``(class, confidence, x1, y1, x2, y2)`` by falling confidence (equal ones by anchor, then class),
        boxes not clipped, padded with rows of class -1 and zeros; int64 [B]: how many rows are detections.
    """
    backend = _backend(cls_probs=cls_probs, offset_preds=offset_preds, anchors=anchors)
    nms_threshold = _checks.number("nms_threshold", nms_threshold)
    score_threshold = _checks.number("score_threshold", score_threshold)
    max_detections = _checks.whole_number("max_detections", max_detections)
    class_agnostic = _checks.flag("class_agnostic", class_agnostic)
    return backend.detect(
        cls_probs, offset_preds, anchors, nms_threshold, score_threshold, max_detections, class_agnostic
    )
