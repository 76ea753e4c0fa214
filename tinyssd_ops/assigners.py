"""Which anchor or point learns which ground-truth box: the rules of today's detectors, for a whole batch at once.

No rule makes a matrix of anchors x boxes: memory is O(A + G) beside the results. Common to all of them:

- Results are int64 [B, A]: the index of the anchor's box, -1 for background, -2 for anchors that should count as
  neither.
- ``gt_valid`` False marks padding, whose boxes mean nothing. ``gt_ignored`` True marks regions to be ignored (crowds,
  in COCO's terms): no anchor is assigned to them, and an anchor whose largest IoU over all valid boxes is with one of
  them, and above 0, becomes -2, whatever the rule says.
- Ties go to the lowest anchor, then to the lowest box.

Which rule for which detector stands in ``docs/assignment.md``; shapes, dtypes and errors are those of
:mod:`tinyssd_ops.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tinyssd_ops._checks import flag, number, whole_number, whole_numbers
from tinyssd_ops.ops import _backend, _given


def assign_threshold(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    high_threshold: float = 0.5,
    low_threshold: float = 0.4,
    allow_low_quality: bool = False,
    match_every_box: bool = False,
) -> Tensor:
    """Each anchor's best box by two thresholds on the IoU: the rule of RPN, RetinaNet and SSD.

    The box of its largest IoU where that reaches ``high_threshold``; below ``low_threshold`` background (-1), between
    the two neither (-2).

    Args:
        anchors: [A, 4].
        gt_boxes: [B, G, 4], or [G, 4] for one image.
        gt_valid: bool [B, G] (or [G]), False marks padding; None: all are valid.
        gt_ignored: bool [B, G] (or [G]), True marks regions to be ignored; None: none is.
        high_threshold: The least IoU of a match, 0..1.
        low_threshold: The least IoU of an anchor that is not background, at most ``high_threshold``.
        allow_low_quality: Anchors whose IoU with some box is the largest that this box has, ties included, keep their
            own best box, however low. A box that overlaps no anchor ties with all of them: then every anchor of the
            image keeps its best box.
        match_every_box: Each box takes the lowest anchor of its largest IoU, whatever that anchor had; the last of the
            boxes that want one anchor gets it.

    Returns:
        int64 [B, A] (or [A]): the index of the anchor's box, -1 or -2.

    Sources: Ren et al., "Faster R-CNN", 2015; Lin et al., "Focal Loss for Dense Object Detection", 2017; Liu et al.,
    "SSD", 2016. Equivalent to torchvision's ``Matcher(high, low, allow_low_quality)``, and with equal thresholds and
    ``match_every_box`` to its ``SSDMatcher``, where no union is 0.
    """
    backend = _backend(anchors=anchors, gt_boxes=gt_boxes, **_given(gt_valid=gt_valid, gt_ignored=gt_ignored))
    thresholds = number("high_threshold", high_threshold), number("low_threshold", low_threshold)
    choices = flag("allow_low_quality", allow_low_quality), flag("match_every_box", match_every_box)
    return backend.assign_threshold(anchors, gt_boxes, gt_valid, gt_ignored, *thresholds, *choices)


def assign_atss(
    anchors: Tensor,
    level_sizes: Sequence[int],
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    topk: int = 9,
) -> Tensor:
    """Adaptive training sample selection: a threshold on the IoU for each box, from the anchors nearest to it.

    The candidates of a box are, on each level, the ``topk`` anchors whose centres are nearest to the box's centre.
    Those whose IoU reaches the mean plus the standard deviation of the candidates' IoUs, and whose centre lies inside
    the box (not on its edge), are its own. An anchor that is so for several boxes goes to the one with the largest IoU.

    Distances are compared squared; mean and variance (that of a sample, as in the authors' code) are summed in float64,
    candidate by candidate, level by level, so that every backend returns the same bits.

    Args:
        anchors: [A, 4], level after level.
        level_sizes: The number of anchors of each of 1..16 levels; they add up to A.
        gt_boxes: [B, G, 4], or [G, 4] for one image.
        gt_valid: bool [B, G] (or [G]), False marks padding; None: all are valid.
        gt_ignored: bool [B, G] (or [G]), True marks regions to be ignored; None: none is.
        topk: The most candidates of a box on a level, 1..64.

    Returns:
        int64 [B, A] (or [A]): the index of the anchor's box, -1 or -2.

    Source: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
    Selection", 2020, algorithm 1.
    """
    backend = _backend(anchors=anchors, gt_boxes=gt_boxes, **_given(gt_valid=gt_valid, gt_ignored=gt_ignored))
    level_sizes, topk = whole_numbers("level_sizes", level_sizes), whole_number("topk", topk)
    return backend.assign_atss(anchors, level_sizes, gt_boxes, gt_valid, gt_ignored, topk)


def assign_task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """Task-aligned assignment: the points whose prediction fits a box best, in class and in place.

    The alignment of a point with a box is ``score ** alpha * IoU ** beta``, of the score of the box's class and of the
    predicted box. Each box chooses the ``topk`` points of the largest alignment among those that lie inside it (not on
    its edge) and have one above 0. A point that several boxes choose goes to the one with the largest IoU.

    Powers are made of multiplications and a square root, so that every backend returns the same bits.

    Args:
        scores: [B, A, C], the probabilities of the classes, 0..1.
        boxes: [B, A, 4], the predicted boxes.
        points: [A, 2], ``(x, y)``: the centres of the cells that predict, in the unit of the boxes.
        gt_labels: integers [B, G], 0..C - 1; a box of another class is chosen by no point.
        gt_boxes: [B, G, 4].
        gt_valid: bool [B, G], False marks padding; None: all are valid.
        gt_ignored: bool [B, G], True marks regions to be ignored, here by the IoU of the predicted boxes.
        topk: The most points of a box, 1..64. TOOD has 13, YOLOv8 to YOLO11 10.
        alpha: A multiple of 0.5 from 0 to 10. TOOD has 1, YOLOv8 to YOLO11 0.5.
        beta: A multiple of 0.5 from 0 to 10.

    Returns:
        int64 [B, A]: the index of the point's box, -1 or -2. Float32 or float64 [B, A]: the target of the score of that
        box's class, the alignment scaled so that a box's best point gets the box's largest IoU; 0 without a box.

    Source: Feng et al., "TOOD: Task-aligned One-stage Object Detection", 2021, section 3.2.
    """
    backend = _backend(
        scores=scores,
        boxes=boxes,
        points=points,
        gt_labels=gt_labels,
        gt_boxes=gt_boxes,
        **_given(gt_valid=gt_valid, gt_ignored=gt_ignored),
    )
    rule = whole_number("topk", topk), number("alpha", alpha), number("beta", beta)
    return backend.assign_task_aligned(scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored, *rule)


def assign_simota(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor | None = None,
    gt_ignored: Tensor | None = None,
    radius: float = 2.5,
    topk: int = 10,
) -> tuple[Tensor, Tensor]:
    """SimOTA: each box takes the points of the lowest cost, as many as its predictions deserve.

    Candidates are the points inside some box or near some box's centre, in both directions within ``radius`` strides of
    it (not on an edge). The cost of a point for a box is the binary cross entropy of its scores, summed over the
    classes, plus 3 times ``-log(IoU + 1e-8)``; points that are not both inside the box and near its centre cost more
    than all that are (the penalty of the authors' code). A box takes as many points as the sum of its ``topk`` largest
    IoUs with candidates, without the fraction, at least 1. A point that several boxes take goes to the one of the
    lowest cost. A point with a NaN score takes no part.

    Sums run over the classes in their order and over the IoUs from the largest on; logarithms are made of basic
    operations and are at least -100, so that every backend returns the same bits.

    Args:
        scores: [B, A, C], the probabilities of the classes, 0..1; YOLOX has ``sqrt(class * objectness)``.
        boxes: [B, A, 4], the predicted boxes.
        points: [A, 2], ``(x, y)``: the centres of the cells that predict, in the unit of the boxes.
        strides: [A], the width of each point's cell.
        gt_labels: integers [B, G], 0..C - 1; a box of another class takes no point.
        gt_boxes: [B, G, 4].
        gt_valid: bool [B, G], False marks padding; None: all are valid.
        gt_ignored: bool [B, G], True marks regions to be ignored, here by the IoU of the predicted boxes.
        radius: In strides, 0 to 1e6.
        topk: The most points of a box, 1..64.

    Returns:
        int64 [B, A]: the index of the point's box, -1 or -2. Float32 or float64 [B, A]: the IoU of the predicted box
        with it, YOLOX's target of the class's score; 0 without a box.

    Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.1.
    """
    backend = _backend(
        scores=scores,
        boxes=boxes,
        points=points,
        strides=strides,
        gt_labels=gt_labels,
        gt_boxes=gt_boxes,
        **_given(gt_valid=gt_valid, gt_ignored=gt_ignored),
    )
    rule = number("radius", radius), whole_number("topk", topk)
    return backend.assign_simota(scores, boxes, points, strides, gt_labels, gt_boxes, gt_valid, gt_ignored, *rule)


def assignment_target(
    assigned: Tensor, gt_labels: Tensor, gt_boxes: Tensor, anchors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What an assignment tells each anchor to learn: the triple of :func:`tinyssd_ops.multibox_target`, for any rule.

    One pass over the anchors, instead of a dozen in Torch.

    Args:
        assigned: int64 [B, A], what an assigner returned: the index of the anchor's box, -2 for anchors that count as
            neither, any other number for background.
        gt_labels: integers [B, G], the first object class being 0.
        gt_boxes: [B, G, 4].
        anchors: [A, 4]: the targets are the offsets of :func:`tinyssd_ops.encode_boxes` from them. None: the targets
            are the boxes.

    Returns:
        targets [B, 4A], 0 without a box; mask [B, 4A], 1 for matched anchors, else 0, both float32, or float64 if an
        input is float64; classes int64 [B, A], ``label + 1``, 0 for background, -1 for anchors that count as neither.
    """
    backend = _backend(assigned=assigned, gt_labels=gt_labels, gt_boxes=gt_boxes, **_given(anchors=anchors))
    return backend.assignment_target(assigned, gt_labels, gt_boxes, anchors)
