"""The inputs that the tests of the assigners share, beside those of cases.py."""

from __future__ import annotations

from typing import Any

import cases
import pytest
import torch
from torch import Tensor


def detection_head(num_anchors: int, num_boxes: int, kind: str = "clustered", seed: int = 0) -> tuple[Tensor, ...]:
    """What a dense head and its labels give an assigner, for two images that share the boxes.

    Scores [2, A, 4], predicted boxes [2, A, 4] near their points, points [A, 2], labels [2, G] (a few of them of no
    class), boxes [2, G, 4], which flags [2, G] call valid and ignored.
    """
    g = cases.generator(seed + 5000)
    num_gt = num_boxes // 2
    truth = cases.BOXES[kind](num_boxes, seed)[: 2 * num_gt].view(2, num_gt, 4)
    scores = torch.rand(2, num_anchors, 4, generator=g)
    points = torch.rand(num_anchors, 2, generator=g) * 1.2
    if num_gt:
        # Many points fall into a box.
        center = (truth[0, :, :2] + truth[0, :, 2:])[torch.arange(num_anchors) % num_gt] / 2
        points = torch.where(torch.arange(num_anchors)[:, None] % 3 > 0, center + points * 0.1 - 0.06, points)
    half = 0.01 + 0.2 * torch.rand(2, num_anchors, 2, generator=g)
    boxes = torch.cat((points - half, points + half), dim=2)
    if num_gt:
        boxes[:, ::4] = truth[:, torch.arange(len(points[::4])) % num_gt] + 0.02 * torch.rand(
            2, len(points[::4]), 4, generator=g
        )
    labels = torch.randint(0, 4, (2, num_gt), generator=g)
    labels[:, 5::7] = torch.tensor([[-1], [4]])
    valid, ignored = (torch.rand(2, num_gt, generator=g) < share for share in (0.8, 0.2))
    return scores, boxes, points, labels, truth, valid, ignored


def strides_of(num_anchors: int) -> Tensor:
    """The widths of the cells of points [A], three levels of them."""
    return torch.tensor([0.02, 0.04, 0.08])[torch.arange(num_anchors) % 3]


def head_cases() -> list[Any]:
    """Arguments of the assigners of points: every kind of boxes, and numbers around the tiles of 64."""
    heads = {f"kind_{kind}": detection_head(130, 18, kind) for kind in cases.BOXES}
    heads |= {f"anchors_{a}": detection_head(a, 14, seed=a) for a in (0, 1, 63, 64, 65, 300)}
    heads |= {f"gts_{g}": detection_head(90, 2 * g, seed=g) for g in (0, 1, 63, 64, 65)}
    scores, *rest = detection_head(130, 18, seed=1)
    heads["tied_scores"] = ((scores * 3).round() / 3, *rest)
    heads["odd_scores"] = (cases.odd_scores(scores.numel()).view_as(scores), *rest)
    scores, boxes, points, labels, truth, *flags = rest = detection_head(200, 18, seed=2)
    heads["tied_boxes"] = (scores, (boxes * 8).round() / 8, points, labels, (truth * 8).round() / 8, *flags)
    heads["broken_boxes"] = (scores, cases.broken(400).view(2, 200, 4), points, labels, truth, *flags)
    heads["broken_points"] = (scores, boxes, cases.broken(200)[:, :2].contiguous(), labels, truth, *flags)
    heads["tied_points"] = (scores, boxes, (points * 8).round() / 8, labels, (truth * 8).round() / 8, *flags)
    heads["no_images"] = tuple(t[:0] if i != 2 else t for i, t in enumerate(rest))
    return [pytest.param(args, id=name) for name, args in heads.items()]


def assigner_calls(anchors: Tensor, gts: Tensor) -> dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Good calls of the assigners, for anchors [70, 4] and boxes [2, 5, 4]."""
    head = detection_head(70, 10)
    valid, ignored = head[5:]
    assigned = (torch.arange(140) % 9 - 3).view(2, 70)  # -3 and 5 are no indices: background
    labels = torch.arange(10).view(2, 5) % 4
    return {
        "assign_threshold": [
            ((anchors, gts), {}),
            ((anchors, gts, valid, ignored, 0.3, 0.1, True, True), {}),
            ((anchors, gts[0], valid[0]), {"allow_low_quality": True}),
        ],
        "assign_atss": [
            ((anchors, [40, 0, 30], gts), {}),
            ((anchors, [70], gts[0], valid[0], ignored[0], 3), {}),
        ],
        "assign_simota": [
            ((*head[:3], strides_of(70), *head[3:5]), {}),
            ((*head[:3], strides_of(70), *head[3:], 1.0, 3), {}),
        ],
        "assign_task_aligned": [
            (head[:5], {}),
            ((*head, 3, 0.5, 2.0), {}),
        ],
        "assignment_target": [
            ((assigned, labels, gts), {}),
            ((assigned, labels, gts, anchors), {}),
        ],
    }
