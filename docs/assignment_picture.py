"""Draws what each rule of assignment.md assigns in one photograph: ``python docs/assignment_picture.py --help``.

The anchors, and for the rules that ask for them the predictions, are those of a network that ``tinyssd train`` trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from tinyssd.data.config import DataConfig
from tinyssd.data.loader import Pictures, to_input
from tinyssd.data.open import open_data
from tinyssd.model.assigners import stages_of
from tinyssd.run.checkpoint import load_model
from torch import Tensor

import tinyssd_ops as ops

# Colours of the objects: those of Okabe and Ito, again and again.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def rules(run: Path, image: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The centres of the anchors [A, 2] in pixels of the input, and by each rule the object of each [A]."""
    model = load_model(run).model
    stages = stages_of(model.config, model.anchors.device)
    with torch.no_grad():
        anchors, logits, offsets = model(to_input(image[None]))
    own, gts, ids = anchors[0] * stages.scale, labels[None, :, 1:] * stages.scale, labels[None, :, 0].long()
    points, scores = (own[:, :2] + own[:, 2:]) / 2, model.probabilities(logits)[:, 1:].transpose(1, 2).contiguous()
    predicted = ops.decode_boxes(own, offsets.unflatten(1, (-1, 4)))
    topk = min(64, 9 * stages.per_cell)
    calls: dict[str, Callable[[], Tensor]] = {
        "multibox_target, IoU 0.5": lambda: ops.assign_anchors(own, gts),
        "assign_threshold as in RetinaNet": lambda: ops.assign_threshold(own, gts, None, None, 0.5, 0.4, True),
        "assign_threshold as in SSD": lambda: ops.assign_threshold(own, gts, None, None, 0.5, 0.5, False, True),
        f"assign_atss, topk={topk}": lambda: ops.assign_atss(own, stages.sizes, gts, topk=topk),
        "assign_task_aligned, topk=13": lambda: ops.assign_task_aligned(scores, predicted, points, ids, gts)[0],
        "assign_simota, topk=10": lambda: ops.assign_simota(scores, predicted, points, stages.strides, ids, gts)[0],
    }
    return points, {name: call()[0] for name, call in calls.items()}


def draw(image: Tensor, labels: Tensor, points: Tensor, assigned: dict[str, Tensor], path: Path) -> None:
    """A panel for each rule: the objects' boxes, and a dot in the colour of its object for each anchor."""
    matplotlib.use("Agg")
    height, width = image.shape[1:]
    figure, axes = plt.subplots(2, 3, figsize=(12, 7))
    apart = torch.rand(points.shape, generator=torch.Generator().manual_seed(0)) * 4 - 2  # anchors share cells
    for axis, (name, found) in zip(axes.flat, assigned.items(), strict=True):
        axis.imshow(image.permute(1, 2, 0), alpha=0.55, extent=(0, width, height, 0), interpolation="bilinear")
        left_out = points[found == -2]
        axis.scatter(*left_out.T, s=3, color="#666666", marker="x", linewidths=0.5)
        for g, (x1, y1, x2, y2) in enumerate((labels[:, 1:] * torch.tensor([width, height] * 2)).tolist()):
            color = COLORS[g % len(COLORS)]
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.4))
            axis.scatter(*(points + apart)[found == g].T, s=9, color=color, edgecolors="black", linewidths=0.4)
        counts = torch.bincount(found[found >= 0], minlength=len(labels))
        neither = f", {len(left_out)} neither" if len(left_out) else ""
        least, most = int(counts.min()), int(counts.max())
        each = f"{least} to {most}" if least < most else f"{least}"
        axis.set_title(f"{name}\n{int(counts.sum())} anchors, {each} an object{neither}", fontsize=9)
        axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 88})
    plt.close(figure)


def main() -> None:
    """Opens the data, assigns and draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0] + ".")
    parser.add_argument("--data", required=True, help="what `tinyssd train --data` takes")
    parser.add_argument("--run", type=Path, required=True, help="the run folder of a network trained on it")
    parser.add_argument("--picture", type=int, default=0, help="which of the validation pictures (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("assignment.jpg"))
    options = parser.parse_args()
    network = load_model(options.run).config.model
    _, source = open_data(DataConfig(options.data), network.image_size, 0)
    image, labels = Pictures(source, network.image_size, keep_shape=network.keep_shape)[0, options.picture]
    labels = labels[labels[:, 0] >= 0]
    points, assigned = rules(options.run, image, labels)
    draw(image, labels, points, assigned, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
