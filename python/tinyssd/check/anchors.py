"""Whether the network's anchors fit the objects, and which would.

An anchor is a box that the network starts from. It learns an object from the anchors that overlap it; one that no
anchor meets at IoU 0.5 is learnt badly, if at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from tinyssd.check.boxes import clipped, has_area
from tinyssd.check.snapshot import Snapshot
from tinyssd.data.labels import Problem
from tinyssd.model.build import ModelConfig, anchors_of
from tinyssd.model.fit import Objects
from tinyssd.model.network import TinySSDConfig
from tinyssd.model.pyramid import PyramidConfig
from tinyssd.training.recipe import fit
from tinyssd_ops import box_iou

MEETS = 0.5
# The share of objects met, over all and as a mean of the classes, that is good enough to change nothing.
_ENOUGH = 0.8
# Proposals that differ by less are equal; the one with less change is taken.
_WORTH = 0.05
# More objects than this say no more about sizes.
_MOST_OBJECTS = 20_000
_CHUNK = 2048
# Edges of the bands of sizes: the root of the area, as a share of the picture's side.
_BANDS = (0.0, 0.04, 0.08, 0.16, 0.32, 0.64, math.inf)


@dataclass(frozen=True)
class Band:
    """Objects of about one size.

    Attributes:
        low: The least size, as a share of the picture's side.
        high: The size that is too large; infinite for the last band.
        objects: How many.
        met: How many of them an anchor meets.
    """

    low: float
    high: float
    objects: int
    met: int


@dataclass(frozen=True)
class Proposal:
    """Settings of the network, and the objects that its anchors then meet.

    Attributes:
        title: What changes.
        config: The sections of a configuration file, as ``tinyssd train --config`` reads them; empty for no change.
        met: The share of all objects, 0 to 1.
        by_class: The share of the objects of each class, by its number; classes without objects are left out.
    """

    title: str
    config: dict[str, dict[str, Any]]
    met: float
    by_class: dict[int, float]

    @property
    def score(self) -> float:
        """What proposals are compared by: the share of all objects, or the mean of the classes' if that is less."""
        return min(self.met, sum(self.by_class.values()) / len(self.by_class))


@dataclass(frozen=True)
class AnchorFit:
    """How the anchors fit.

    Attributes:
        objects: The objects looked at: those to train on, at most 20,000 of them.
        image_size: Height and width of the network's input.
        bands: By size.
        proposals: The network as it is, then changes that were tried.
        best: The proposal to take; the first where no change is worth it.
    """

    objects: int
    image_size: tuple[int, int]
    bands: tuple[Band, ...]
    proposals: tuple[Proposal, ...]
    best: Proposal

    @property
    def now(self) -> Proposal:
        """The network as it is."""
        return self.proposals[0]


def default_network(snapshot: Snapshot, longer_side: int | None = None) -> PyramidConfig:
    """The network that ``tinyssd train`` would take for these pictures."""
    objects = _training_objects(snapshot)
    if not len(objects.class_ids):
        return PyramidConfig(2)
    fitted = fit(objects, longer_side=longer_side)
    return PyramidConfig(2, fitted.image_size, fitted.anchors)


def fit_anchors(snapshot: Snapshot, network: ModelConfig) -> AnchorFit | None:
    """Compares the objects to train on with the anchors of ``network``; None where there are none."""
    boxes, class_ids, pictures = _training_boxes(snapshot)
    if not len(boxes):
        return None
    met = _met(boxes, network)
    sizes = _sizes(boxes)
    bands = tuple(
        Band(low, high, int(inside.sum()), int(met[inside].sum()))
        for low, high in pairwise(_BANDS)
        for inside in [(sizes >= low) & (sizes < high)]
    )
    now = _proposal("the network as it is", {}, met, class_ids)
    changes: tuple[Proposal, ...] = ()
    if now.score < _ENOUGH and isinstance(network, TinySSDConfig):
        changes = tuple(_changes(boxes, class_ids, network))
    elif now.score < _ENOUGH and isinstance(network, PyramidConfig):
        objects = Objects(boxes[:, 2:] - boxes[:, :2], class_ids, pictures)
        changes = (_larger(boxes, objects, network),)
    return AnchorFit(len(boxes), network.image_size, bands, (now, *changes), _best(now, changes))


def anchors_and_sizes(snapshot: Snapshot, fit: AnchorFit | None) -> Iterator[Problem]:
    """Objects that no anchor meets."""
    if fit is None:
        return
    (height, width), now = fit.image_size, fit.now
    message = f"an anchor of the {width}x{height} network meets {now.met:.0%} of the {fit.objects} objects at IoU 0.5"
    worst = min(now.by_class, key=now.by_class.__getitem__)
    if len(now.by_class) > 1 and now.by_class[worst] < now.met / 2:
        message += f", but {now.by_class[worst]:.0%} of the class {snapshot.data.class_names[worst]!r}"
    enough = now.score >= _ENOUGH
    if not enough:
        missing = max(fit.bands, key=lambda band: band.objects - band.met)
        message += f"; most of the others are {band_name(missing)} of the picture's side"
        message += _advice(fit)
    yield Problem("box sizes and anchors", "note" if enough else "warning", message)


def _advice(fit: AnchorFit) -> str:
    if not fit.best.config:
        return "; no other sizes, ratios or input that were tried change much: cut the pictures into parts"
    return f"; with {fit.best.title} it would be {fit.best.met:.0%}"


def band_name(band: Band) -> str:
    """The sizes of a band in words."""
    if math.isinf(band.high):
        return f"{band.low:.0%} or more"
    return f"{band.low:.0%} to {band.high:.0%}"


def _best(now: Proposal, changes: Sequence[Proposal]) -> Proposal:
    """The least change that is enough, else the one after which no larger one is worth it."""
    best = now
    for proposal in changes:
        if best.score < _ENOUGH and proposal.score >= best.score + _WORTH:
            best = proposal
    return best


def _training_objects(snapshot: Snapshot) -> Objects:
    boxes, class_ids, pictures = _training_boxes(snapshot)
    return Objects(boxes[:, 2:] - boxes[:, :2], class_ids, pictures)


def _training_boxes(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The boxes to train on as shares of their pictures, [N, 4], their classes, [N], their pictures' sizes, [N, 2]."""
    boxes, class_ids, pictures = [], [], []
    for split, picture, item in snapshot.objects():
        box = clipped(item.box, picture.size)
        if split == "train" and not item.ignored and snapshot.names_class(item) and has_area(box):
            boxes.append(np.divide(box, picture.size * 2))
            class_ids.append(item.class_id)
            pictures.append(picture.size)
    kept = np.arange(len(boxes))
    if len(boxes) > _MOST_OBJECTS:
        kept = np.random.default_rng(0).choice(len(boxes), _MOST_OBJECTS, replace=False)
    sizes = np.array(pictures, dtype=np.float64).reshape(-1, 2)[kept]
    return np.array(boxes).reshape(-1, 4)[kept], np.array(class_ids, dtype=np.int64)[kept], sizes


def _met(boxes: np.ndarray, network: ModelConfig) -> np.ndarray:
    """For each box whether an anchor meets it, bars beside the picture left out of account: bool [N]."""
    anchors = anchors_of(network)[0]
    chunks = torch.from_numpy(boxes.astype(np.float32)).split(_CHUNK)
    return torch.cat([box_iou(chunk, anchors).amax(dim=1) >= MEETS for chunk in chunks]).numpy()


def _proposal(title: str, change: dict[str, Any], met: np.ndarray, class_ids: np.ndarray) -> Proposal:
    by_class = {int(i): float(met[class_ids == i].mean()) for i in np.unique(class_ids)}
    return Proposal(title, {"model": change} if change else {}, float(met.mean()), by_class)


def _changes(boxes: np.ndarray, class_ids: np.ndarray, network: TinySSDConfig) -> Iterator[Proposal]:
    """Anchors of the objects' own sizes and ratios, and an input of twice the size; the least change first."""
    weights = 1 / np.bincount(class_ids)[class_ids]  # A class counts as much as another, however many objects it has.
    sizes = {"sizes": _fitted_sizes(boxes, weights, network)}
    shapes = {**sizes, "ratios": (_fitted_ratios(boxes, weights),) * len(network.sizes)}
    larger = {"image_size": (2 * network.image_size[0], 2 * network.image_size[1])}
    for title, change in (
        ("fitted sizes", sizes),
        ("fitted sizes and ratios", shapes),
        ("fitted sizes and an input of twice the size", {**sizes, **larger}),
        ("fitted sizes and ratios and an input of twice the size", {**shapes, **larger}),
    ):
        yield _proposal(title, change, _met(boxes, replace(network, **change)), class_ids)


def _larger(boxes: np.ndarray, objects: Objects, network: PyramidConfig) -> Proposal:
    """An input of twice the size, and the anchors that fit it."""
    fitted = fit(objects, (2 * network.image_size[0], 2 * network.image_size[1]))
    change = {"image_size": fitted.image_size}
    met = _met(boxes, replace(network, image_size=fitted.image_size, anchors=fitted.anchors))
    return _proposal("an input of twice the size", change, met, objects.class_ids)


def _fitted_sizes(boxes: np.ndarray, weights: np.ndarray, network: TinySSDConfig) -> tuple[tuple[float, ...], ...]:
    """As many sizes as the network has, spread evenly over the objects', the smallest for the finest stage."""
    counts = [len(stage) for stage in network.sizes]
    shares = (np.arange(sum(counts)) + 0.5) / sum(counts)
    fitted = iter(_quantiles(_sizes(boxes), weights, shares).clip(1e-3).round(3).tolist())
    return tuple(tuple(next(fitted) for _ in range(count)) for count in counts)


def _fitted_ratios(boxes: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """Three ratios of width to height; the middle one first, as each size goes with the first."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    ratios = _quantiles(width / height, weights, np.array([1 / 6, 1 / 2, 5 / 6]))
    low, middle, high = ratios.clip(1e-2, 1e2).round(2).tolist()
    return middle, high, low


def _sizes(boxes: np.ndarray) -> np.ndarray:
    """The root of each area: [N]."""
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _quantiles(values: np.ndarray, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The values below which ``shares`` of the weight lie."""
    order = np.argsort(values)
    below = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    return np.interp(shares, below, values[order])
