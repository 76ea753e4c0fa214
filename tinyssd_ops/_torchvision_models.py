"""What torchvision's SSD and RetinaNet do picture by picture and class by class, for the whole batch at once.

A shape's letters: B pictures, A anchors, C classes, N candidates of the whole batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tinyssd_ops.assigners import assign_threshold

Detections = list[dict[str, Tensor]]
# Scores in bfloat16 are rounded by less than this part of them.
_ROUNDING = 0.02
_BLOCK = 8 * 64  # anchors, of which _likely_anchors makes 64


class _Candidates(NamedTuple):
    """Pairs of an anchor and a class that score above the threshold."""

    picture: Tensor  # int64 [N]
    anchor: Tensor  # int64 [N], of those of its picture, or of the picture's level
    label: Tensor  # int64 [N]
    score: Tensor  # [N]

    def of(self, which: Tensor) -> _Candidates:
        """Some of them, by index."""
        return _Candidates(*(part.index_select(0, which) for part in self))


@dataclass(frozen=True)
class Postprocessor:
    """``postprocess_detections`` of a model: scores, filter, the best of each group, decoding, suppression."""

    box_coder: Any  # torchvision's: boxes are decoded as the model would, and only those of candidates
    score_thresh: float
    nms_thresh: float
    detections_per_img: int
    topk_candidates: int

    def _suppressed(
        self, found: _Candidates, deltas: Tensor, anchors: Tensor, shapes: list[tuple[int, int]], num_classes: int
    ) -> Detections:
        """What is left of the candidates, whose deltas and anchors are [N, 4]."""
        from tinyssd_ops.torchvision import batched_nms

        picture = found.picture
        boxes = self.box_coder.decode_single(deltas, anchors)
        limits = torch.tensor([(w, h, w, h) for h, w in shapes], dtype=boxes.dtype, device=boxes.device)
        boxes = boxes.clamp(min=0).minimum(limits.index_select(0, picture))
        keep = batched_nms(boxes, found.score, picture * num_classes + found.label, self.nms_thresh)
        # By picture, and within one still by falling score.
        kept_picture = picture[keep]
        counts = kept_picture.bincount(minlength=len(shapes)).tolist()
        kept = [part[: self.detections_per_img] for part in keep[kept_picture.argsort(stable=True)].split(counts)]
        return [{"boxes": boxes[one], "scores": found.score[one], "labels": found.label[one]} for one in kept]


class SSDPostprocessor(Postprocessor):
    """That of torchvision's ``SSD``."""

    def __call__(
        self, head_outputs: dict[str, Tensor], image_anchors: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Detections:
        """As ``SSD.postprocess_detections``."""
        logits = head_outputs["cls_logits"]  # [B, A, C]
        found = self._candidates(logits)
        which = found.picture, found.anchor
        deltas, anchors = head_outputs["bbox_regression"][which], torch.stack(image_anchors)[which]
        return self._suppressed(found, deltas, anchors, image_shapes, logits.shape[2])

    def _candidates(self, logits: Tensor) -> _Candidates:
        # A class that scores more than t is more than t times as likely as the background: most anchors have none, and
        # need no softmax.
        least = math.log(self.score_thresh * (1 - _ROUNDING)) if self.score_thresh > 0 else -math.inf
        places = _likely_anchors(logits, least)
        rows = logits.flatten(0, 1).index_select(0, places)
        likely = (~(_odds(rows) < least)).nonzero().squeeze(1)
        places, rows = places[likely], rows.index_select(0, likely)
        scores = rows.softmax(dim=-1).T[1:]
        label, row = (scores > self.score_thresh).nonzero(as_tuple=True)
        picture = places // logits.shape[1]
        anchor = places - picture * logits.shape[1]
        found = _Candidates(picture[row], anchor[row], label + 1, scores[label, row])
        return _best_of_groups(found, label * logits.shape[0] + found.picture, self.topk_candidates)


class RetinaNetPostprocessor(Postprocessor):
    """That of torchvision's ``RetinaNet``."""

    def __call__(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> Detections:
        """As ``RetinaNet.postprocess_detections``."""
        levels = head_outputs["cls_logits"]  # of each level [B, A, C]
        found, counts = self._candidates(levels)
        # Of the candidates alone: a copy of all boxes would take as long as the search.
        deltas = _rows(
            [one for level in head_outputs["bbox_regression"] for one in level.unbind()], found.anchor, counts
        )
        placed = _rows([one for level in zip(*anchors, strict=True) for one in level], found.anchor, counts)
        return self._suppressed(found, deltas, placed, image_shapes, levels[0].shape[2])

    def _candidates(self, levels: list[Tensor]) -> tuple[_Candidates, list[int]]:
        """Those of the first level, picture by picture, then of the next; how many of each picture in each level."""
        images, _, classes = levels[0].shape
        least = self.score_thresh * (1 - _ROUNDING)
        least = math.log(least / (1 - least)) if 0 < least < 1 else -math.inf
        values = [level.flatten(1) for level in levels]
        places = [_not_below(one, least) for one in values]
        group = torch.cat([row + i * images for i, (row, _) in enumerate(places)])
        index = torch.cat([column for _, column in places])
        score = torch.cat([one[place] for one, place in zip(values, places, strict=True)]).sigmoid()
        above = (score > self.score_thresh).nonzero().squeeze(1)
        group, index, score = group[above], index[above], score[above]
        anchor = index // classes
        found = _Candidates(group, anchor, index - anchor * classes, score)
        found = _best_of_groups(found, group, self.topk_candidates)
        counts = found.picture.bincount(minlength=len(levels) * images).tolist()
        return found._replace(picture=found.picture % images), counts


@dataclass(frozen=True)
class Matcher:
    """The loop over pictures around ``box_iou`` and torchvision's ``Matcher`` or ``SSDMatcher``."""

    high_threshold: float
    low_threshold: float
    allow_low_quality: bool
    match_every_box: bool

    def __call__(self, anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> list[Tensor]:
        """The matched index of each anchor, a tensor int64 [A] a picture: -1 background, -2 between the thresholds.

        Args:
            anchors: Of each picture [A, 4].
            targets: Of each picture ``{"boxes": [G, 4], ...}``.

        Raises:
            ValueError: If the pictures have different anchors. torchvision's generators make the same for all.
        """
        if not _all_equal(anchors):
            raise ValueError("anchors: expected the same for every picture")
        boxes = [one["boxes"] for one in targets]
        counts = torch.tensor([len(one) for one in boxes], device=anchors[0].device)
        padded = pad_sequence(boxes, batch_first=True)
        valid = torch.arange(padded.shape[1], device=counts.device) < counts[:, None]
        thresholds = (self.high_threshold, self.low_threshold)
        found = assign_threshold(
            anchors[0], padded, valid, None, *thresholds, self.allow_low_quality, self.match_every_box
        )
        return list(found)


@dataclass(frozen=True)
class SSDLoss:
    """``SSD.compute_loss`` with the matches of the whole batch in place of those of the loop."""

    model: Any
    match: Matcher

    def __call__(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor], _: list[Tensor]
    ) -> dict[str, Tensor]:
        return type(self.model).compute_loss(self.model, targets, head_outputs, anchors, self.match(anchors, targets))


@dataclass(frozen=True)
class RetinaNetLoss:
    """``RetinaNet.compute_loss`` without its loop."""

    model: Any
    match: Matcher

    def __call__(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        return self.model.head.compute_loss(targets, head_outputs, anchors, self.match(anchors, targets))


def postprocessor(model: Any) -> SSDPostprocessor | RetinaNetPostprocessor:
    """The post-processor of the model, with its settings as they are now."""
    kind = SSDPostprocessor if _is_ssd(model) else RetinaNetPostprocessor
    return kind(model.box_coder, model.score_thresh, model.nms_thresh, model.detections_per_img, model.topk_candidates)


def matcher(model: Any) -> Matcher:
    """The matcher of the model, with its settings as they are now."""
    old = model.proposal_matcher
    return Matcher(old.high_threshold, old.low_threshold, old.allow_low_quality_matches, _is_ssd(model))


def loss(model: Any) -> SSDLoss | RetinaNetLoss:
    """``compute_loss`` of the model with :func:`matcher`."""
    return (SSDLoss if _is_ssd(model) else RetinaNetLoss)(model, matcher(model))


def no_match(quality: Tensor) -> Tensor:
    """In place of an SSD's matcher, whose work its loss does now."""
    return quality


def _is_ssd(model: Any) -> bool:
    from torchvision.models.detection import ssd  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from torchvision.models.detection.retinanet import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        RetinaNet,
    )

    if not isinstance(model, (ssd.SSD, RetinaNet)):
        raise TypeError(f"model: expected torchvision's SSD or RetinaNet, got {type(model).__name__}")
    return isinstance(model, ssd.SSD)


def _all_equal(tensors: list[Tensor]) -> bool:
    """Whether all hold the same: two reductions and one wait, without a mask of all elements."""
    if any(one.shape != tensors[0].shape for one in tensors):
        return False
    every = torch.stack(tensors)
    return torch.equal(every.amax(dim=0), every.amin(dim=0))


def _best_of_groups(found: _Candidates, groups: Tensor, most: int) -> _Candidates:
    """The ``most`` best candidates of each group; ``groups`` [N] rises."""
    counts = groups.bincount()
    if counts.numel() == 0 or counts.max() <= most:
        return found
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(groups), device=groups.device) - starts[groups]
    table = found.score.new_full((len(counts), int(counts.max())), -math.inf)
    table[groups, place] = found.score
    best, place = table.topk(most, dim=1)
    kept = (starts[:, None] + place)[best > -math.inf]
    return found.of(kept)


def _rows(sources: list[Tensor], index: Tensor, counts: list[int]) -> Tensor:
    """Rows [N, 4] of the sources, each [A, 4]: ``index`` [N] names first ``counts[0]`` of the first, and so on."""
    return torch.cat([one.index_select(0, part) for one, part in zip(sources, index.split(counts), strict=True)])


def _odds(logits: Tensor) -> Tensor:
    """How much the best class of each anchor [..., C] exceeds the background, class 0."""
    return _largest(logits[..., 1:]).float() - logits[..., 0].float()


def _largest(values: Tensor) -> Tensor:
    """The largest of each row [..., L], of a long one in two overlapping parts: amax is quick for whole registers."""
    part = values.shape[-1] // 64 * 64
    if part in (0, values.shape[-1]):
        return values.amax(dim=-1)
    return torch.maximum(values[..., :part].amax(dim=-1), values[..., -part:].amax(dim=-1))


def _likely_anchors(logits: Tensor, least: float) -> Tensor:
    """Places int64 [N], rising, of the anchors among B * A; all whose odds are not below ``least`` are among them.

    Of every 8 anchors, 64 apart, the largest logits and the smallest of the background decide for all 8: that reads the
    logits [B, A, C] at the speed of memory, and what is left to look at is an eighth.
    """
    images, anchors = logits.shape[:2]
    blocks = anchors // _BLOCK
    fold = logits[:, : blocks * _BLOCK].unflatten(1, (blocks, 8, 64))
    odds = _largest(fold.amax(dim=2)[..., 1:]).float() - fold[..., 0].amin(dim=2).float()  # [B, blocks, 64]
    likely = torch.ones((images, anchors), dtype=torch.bool, device=logits.device)  # those of the tail too
    likely[:, : blocks * _BLOCK] = (~(odds < least))[:, :, None].expand(-1, -1, 8, -1).reshape(images, -1)
    return likely.flatten().nonzero().squeeze(1)


def _not_below(values: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Rows and columns, in their order, of the values [R, L] that are not below ``least``, NaN among them.

    Quick where few are: the largest of every 256 is found at the speed of memory, and only where that is not below
    are the 256 looked at again.
    """
    blocks = values.shape[1] // 256
    if blocks == 0 or least == -math.inf:
        return (~(values < least)).nonzero(as_tuple=True)  # type: ignore[return-value]
    end = blocks * 256
    fold = values[:, :end].unflatten(1, (blocks, 256))
    row, block = (~(fold.amax(dim=2) < least)).nonzero(as_tuple=True)
    hit, part = (~(fold[row, block] < least)).nonzero(as_tuple=True)
    tail_row, tail = (~(values[:, end:] < least)).nonzero(as_tuple=True)
    found = torch.cat((row[hit] * values.shape[1] + block[hit] * 256 + part, tail_row * values.shape[1] + end + tail))
    found = found.sort().values
    row = found // values.shape[1]
    return row, found - row * values.shape[1]
