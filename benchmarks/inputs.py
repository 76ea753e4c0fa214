"""What the ops are measured on. Every function takes a seed: rows rotate inputs drawn with different ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tinyssd_ops import multibox_prior

# The TinySSD network at 256x256: (cells a side, scales) of its stages; 5444 anchors.
_STAGES = ((32, (0.2, 0.272)), (16, (0.37, 0.447)), (8, (0.54, 0.619)), (4, (0.71, 0.79)), (1, (0.88, 0.961)))


class InputError(Exception):
    """Why a kind of input cannot be had on this machine."""


def generator(seed: int) -> torch.Generator:
    """A CPU generator, so that a seed means the same inputs on every device."""
    return torch.Generator().manual_seed(seed)


def random_boxes(count: int, seed: int) -> Tensor:
    """[N, 4], anywhere in the unit square, sides 0.02 to 0.17."""
    random = generator(seed)
    size = 0.02 + 0.15 * torch.rand(count, 2, generator=random)
    corner = torch.rand(count, 2, generator=random) * (1 - size)
    return torch.cat((corner, corner + size), dim=1)


def clustered_boxes(count: int, seed: int) -> Tensor:
    """[N, 4], 50 to an object: copies of N / 50 random boxes, each corner moved by a few percent of the sides."""
    random = generator(seed)
    centers = random_boxes(math.ceil(count / 50), seed)
    boxes = centers[torch.randint(len(centers), (count,), generator=random)]
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + 0.08 * size * torch.randn(count, 4, generator=random).clamp(-3, 3)


def identical_boxes(count: int, seed: int) -> Tensor:
    """[N, 4], N times one box."""
    return random_boxes(1, seed).expand(count, 4).contiguous()


def disjoint_boxes(count: int, seed: int) -> Tensor:
    """[N, 4], no two of which overlap: the cells of a grid in random order, each with a margin."""
    side = math.ceil(math.sqrt(count))
    cell = torch.randperm(side * side, generator=generator(seed))[:count]
    corner = torch.stack((cell % side, cell // side), dim=1) / side
    return torch.cat((corner + 0.1 / side, corner + 0.9 / side), dim=1)


def stripes(count: int, seed: int) -> Tensor:
    """[N, 4], long and thin: 0.2 to 0.5 by 1e-5 to 2e-5, every other one upright."""
    random = generator(seed)
    size = torch.tensor([0.2, 1e-5]) + torch.tensor([0.3, 1e-5]) * torch.rand(count, 2, generator=random)
    corner = torch.rand(count, 2, generator=random) * (1 - size)
    boxes = torch.cat((corner, corner + size), dim=1)
    boxes[::2] = boxes[::2, [1, 0, 3, 2]]
    return boxes


def nearly_identical_boxes(count: int, seed: int) -> Tensor:
    """[N, 4], each corner of one box moved by up to a tenth of its sides."""
    return torch.tensor([0.3, 0.3, 0.6, 0.6]) + 0.03 * torch.rand(count, 4, generator=generator(seed))


def tiny_boxes(count: int, seed: int) -> Tensor:
    """[N, 4], sides of 1e-17 to 2e-17, some of which overlap."""
    random = generator(seed)
    corner = 1e-15 * torch.rand(count, 2, generator=random)
    return torch.cat((corner, corner + 1e-17 * (1 + torch.rand(count, 2, generator=random))), dim=1)


def boxes_of_all_sizes(count: int, seed: int) -> Tensor:
    """[N, 4], the logarithms of the sides uniform over six orders of magnitude."""
    random = generator(seed)
    size = 10 ** (-6 * torch.rand(count, 2, generator=random))
    corner = torch.rand(count, 2, generator=random)
    return torch.cat((corner, corner + size), dim=1)


# What makes suppression hard, by the name of its rows: the boxes and the threshold.
WORST: dict[str, tuple[Callable[[int, int], Tensor], float]] = {
    "disjoint, IoU 0.005": (disjoint_boxes, 0.005),
    "stripes": (stripes, 0.5),
    "one cell, IoU 0.999": (nearly_identical_boxes, 0.999),
    "sides of 1e-17": (tiny_boxes, 0.5),
    "all sizes, IoU 0.02": (boxes_of_all_sizes, 0.02),
}


def scores(count: int, seed: int) -> Tensor:
    """[N], all different, in 0..1: with ties, each library would order the results in its own way."""
    return (torch.randperm(count, generator=generator(seed + 1_000_003)).double() + 0.5).div(count).float()


def class_ids(count: int, num_classes: int, seed: int) -> Tensor:
    """int64 [N], uniform over the classes."""
    return torch.randint(num_classes, (count,), generator=generator(seed + 2_000_003))


def ssd_anchors(scale: int = 1) -> Tensor:
    """[1, A, 4]: TinySSD's anchors, 5444 of them, or those of a picture ``scale`` times as large."""
    ratios = (1.0, 2.0, 0.5)
    stages = [multibox_prior(cells * scale, cells * scale, sizes, ratios) for cells, sizes in _STAGES]
    return torch.cat(stages, dim=1)


def labels(num_images: int, num_boxes: int, num_classes: int, seed: int) -> Tensor:
    """[B, G, 5]: objects with sides 0.1 to 0.5, none of them padding."""
    random = generator(seed)
    size = 0.1 + 0.4 * torch.rand(num_images, num_boxes, 2, generator=random)
    corner = torch.rand(num_images, num_boxes, 2, generator=random) * (1 - size)
    classes = torch.randint(num_classes, (num_images, num_boxes, 1), generator=random).float()
    return torch.cat((classes, corner, corner + size), dim=2)


@dataclass(frozen=True)
class Predictions:
    """What a detector's heads return.

    Attributes:
        logits: [B, A, C].
        offsets: [B, 4A].
        anchors: [1, A, 4].
    """

    logits: Tensor
    offsets: Tensor
    anchors: Tensor


def random_predictions(num_images: int, num_classes: int, seed: int, anchors: Tensor) -> Predictions:
    """Logits and offsets from a normal distribution: an untrained detector, no anchor sure of anything."""
    random = generator(seed)
    num_anchors = anchors.shape[1]
    logits = 2 * torch.randn(num_images, num_anchors, num_classes, generator=random)
    return Predictions(logits, torch.randn(num_images, 4 * num_anchors, generator=random), anchors)


def detector_predictions(data: str | None, run: Path, num_images: int, seed: int) -> Predictions:
    """The heads of a trained TinySSD on real pictures.

    Args:
        data: What ``tinyssd train --data`` takes; None if there is nothing to train on.
        run: The run folder. If it has no checkpoint, a short training leaves one there.
        num_images: B.
        seed: Chooses the validation pictures.

    Raises:
        InputError: If there are no pictures, there is no ``tinyssd``, or the detector in ``run`` has another shape.
    """
    try:
        from tinyssd.data.config import DataConfig
        from tinyssd.data.loader import Pictures, to_input
        from tinyssd.data.open import open_data
        from tinyssd.model.network import TinySSDConfig
        from tinyssd.run.checkpoint import FILE_NAME, load_model
        from tinyssd.run.config import RunConfig, TrainConfig
        from tinyssd.training.train import train
    except ImportError as error:
        raise InputError(f"tinyssd is not importable ({error})") from error
    if data is None:
        raise InputError("no pictures: give --data FOLDER")
    data_config = DataConfig(data)
    if not (run / FILE_NAME).exists():
        print(f"training a detector on {data} for real predictions, once ...", flush=True)
        names = tuple(open_data(data_config, (256, 256))[0].class_names)
        train(RunConfig(names, TinySSDConfig(len(names) + 1), data_config, TrainConfig(epochs=2)), run)
    trained = load_model(run)
    model, config = trained.model, trained.config
    if (config.model.num_classes, model.anchors.shape[1]) != (2, 5444):
        raise InputError(f"the detector in {run} is not the one with 5444 anchors and one class of objects")
    pictures = Pictures(open_data(data_config, config.model.image_size)[1], config.model.image_size)
    chosen = torch.randperm(len(pictures), generator=generator(seed))[:num_images].tolist()
    with torch.no_grad():
        anchors, logits, offsets = model(to_input(torch.stack([pictures[0, index][0] for index in chosen])))
    return Predictions(logits, offsets, anchors)
