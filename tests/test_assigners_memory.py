"""The assigners make no matrix of anchors x boxes."""

from __future__ import annotations

import re
from pathlib import Path

import cases
import pytest
import torch

import tinyssd_ops
from tinyssd_ops import ops as op_module

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> float:
    """A number of /proc/self/status, in MB."""
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.parametrize("op", ["assign_threshold", "assign_atss", "assign_task_aligned", "assign_simota"])
def test_peak(op):
    if "cpu" not in op_module._NATIVE_DEVICES:
        pytest.skip("the reference makes the matrix")
    try:
        RESET.write_text("5")
    except OSError as error:
        pytest.skip(f"no peak memory here: {error}")
    num_anchors, num_gt = 8400, 3000  # a float32 matrix would take 96 MB an image
    g = cases.generator(1)
    anchors = cases.random_boxes(num_anchors, 1, side=0.1)
    gts, labels = cases.random_boxes(2 * num_gt, 2, side=0.1).view(2, num_gt, 4), torch.zeros(2, num_gt).long()
    points, strides = anchors[:, :2].contiguous(), torch.full((num_anchors,), 0.02)
    head = torch.rand(2, num_anchors, 2, generator=g), anchors.expand(2, -1, -1).contiguous(), points
    args = {
        "assign_threshold": (anchors, gts, None, None, 0.5, 0.4, True, True),
        "assign_atss": (anchors, [8000, 400], gts),
        "assign_task_aligned": (*head, labels, gts),
        "assign_simota": (*head, strides, labels, gts),
    }[op]
    RESET.write_text("5")
    before = memory("VmRSS")
    getattr(tinyssd_ops, op)(*args)
    assert memory("VmHWM") - before < 40
