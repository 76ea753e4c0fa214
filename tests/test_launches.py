"""What the CUDA ops launch depends on the shapes of their inputs, never on what is in them: so they can be captured."""

from __future__ import annotations

import cases
import pytest
import torch
import with_benchmarks  # noqa: F401  # Makes benchmarks importable.
from cases_assigners import detection_head, strides_of
from simt import run

from benchmarks.work_machine import Machine

pytestmark = pytest.mark.skipif(run.missing() is not None, reason=str(run.missing()))

A, G = 300, 40


def inputs() -> dict[str, tuple[torch.Tensor, ...]]:
    """Heads and labels of the same shapes, from the ordinary to the worst."""
    scores, boxes, points, labels, gts, valid, ignored = detection_head(A, 2 * G)
    flags = torch.zeros_like(valid), torch.ones_like(valid)
    return {
        "ordinary": (scores, boxes, points, labels, gts, valid, ignored),
        "all padding": (scores, boxes, points, labels, gts, flags[0], ignored),
        "all to be ignored": (scores, boxes, points, labels, gts, flags[1], flags[1]),
        "no class": (scores, boxes, points, labels * 0 - 1, gts, flags[1], flags[0]),
        "far away": (scores, boxes, points, labels, gts + 100, flags[1], flags[0]),
        "all alike": (
            scores * 0 + 0.5,
            gts[:, :1].expand_as(boxes).contiguous(),
            gts[0, :1, :2].expand_as(points) + 0.01,
            labels * 0,
            gts[:, :1].expand_as(gts).contiguous(),
            flags[1],
            flags[0],
        ),
        "broken": (
            scores * torch.nan,
            cases.broken(2 * A).view(2, A, 4),
            points,
            labels,
            cases.broken(2 * G).view(2, G, 4),
            valid,
            ignored,
        ),
    }


def arguments(op: str, head: tuple[torch.Tensor, ...]) -> tuple[object, ...]:
    """Those of an op, with every option that asks for more work."""
    scores, boxes, points, labels, gts, valid, ignored = head
    rows = torch.cat((torch.where(valid, labels, -1)[..., None].float(), gts), dim=2)
    return {
        "assign_anchors": (boxes[0], gts, valid, 0.5),
        "multibox_target": (boxes[0], rows, 0.5),
        "assign_threshold": (boxes[0], gts, valid, ignored, 0.5, 0.4, True, True),
        "assign_atss": (boxes[0], [200, 100], gts, valid, ignored, 9),
        "assign_task_aligned": (scores, boxes, points, labels, gts, valid, ignored, 13, 1.0, 6.0),
        "assign_simota": (scores, boxes, points, strides_of(A), labels, gts, valid, ignored, 2.5, 10),
        "assignment_target": (labels.repeat(1, 8)[:, :A].contiguous(), labels, gts, boxes[0]),
    }[op]


OPS = [name for name in cases.sample_calls() if name.startswith("assign")] + ["multibox_target"]


@pytest.mark.parametrize("op", OPS)
def test_launches_do_not_depend_on_data(op):
    machine = Machine()
    launches = {
        kind: [record["what"] for record in machine.count(op, arguments(op, head), 1, 1).records]
        for kind, head in inputs().items()
    }
    assert 1 <= len(launches["ordinary"]) <= 5
    for kind, found in launches.items():
        assert found == launches["ordinary"], kind
