"""Whether two functions returned the same result: asked before any of them is timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Peers that round an IoU or a box in another way may decide a pair that grazes the threshold differently.
_SHARE_THAT_MAY_DIFFER = 1e-3


@dataclass(frozen=True)
class Agreement:
    """Whether the results are the same, and what is worth saying about it ("" if nothing)."""

    same: bool
    note: str = ""


def exact(ours: Any, theirs: Any) -> Agreement:
    """Integer tensors, or tuples of them: equal to the last bit."""
    pairs = _pairs(ours, theirs)
    differ = [f"{_differing(a, b)} of {a.numel()} values differ" for a, b in pairs if not _equal(a, b)]
    return Agreement(not differ, "; ".join(differ))


def close(ours: Any, theirs: Any) -> Agreement:
    """Float tensors, or tuples with some: equal up to rounding; integer tensors among them exactly."""
    for a, b in _pairs(ours, theirs):
        if a.shape != b.shape:
            return Agreement(False, f"shapes {list(a.shape)} and {list(b.shape)}")
        if not a.is_floating_point() and not _equal(a, b):
            return Agreement(False, f"{_differing(a, b)} of {a.numel()} values differ")
        if a.is_floating_point() and not torch.allclose(a, b.to(a.dtype), rtol=1e-4, atol=1e-4):
            return Agreement(False, f"largest difference {(a - b).abs().max().item():.3g}")
    return Agreement(True)


def kept_boxes(ours: Tensor, theirs: Tensor) -> Agreement:
    """Indices that NMS kept: equal, or sets that differ in the few boxes that another rounding decides."""
    if _equal(ours, theirs):
        return Agreement(True)
    different = len(set(ours.tolist()) ^ set(theirs.tolist()))
    allowed = max(2, int(_SHARE_THAT_MAY_DIFFER * len(ours)))
    if different == 0:
        return Agreement(False, "the same boxes in another order")
    return Agreement(different <= allowed, f"{different} of {len(ours)} kept boxes differ (rounding)")


def torchvision_kept(ours: Tensor, theirs: Tensor) -> Agreement:
    """What torchvision kept: the same on the CPU; its CUDA kernel fuses multiply-adds, so there :func:`kept_boxes`."""
    return kept_boxes(ours, theirs) if ours.is_cuda else exact(ours, theirs)


def torchvision_kept_lists(ours: tuple[Tensor, Tensor], theirs: list[Tensor]) -> Agreement:
    """Padded indices and their counts, and a list of indices an image: :func:`torchvision_kept` for each image."""
    keep, counts = ours
    pairs = zip(keep, counts.tolist(), theirs, strict=True)
    agreed = [torchvision_kept(row[:count], kept) for row, count, kept in pairs]
    notes = [f"image {i}: {one.note}" for i, one in enumerate(agreed) if one.note]
    return Agreement(all(one.same for one in agreed), "; ".join(notes[:3]))


def rows(ours: Tensor, theirs: Tensor) -> Agreement:
    """Detections [..., 6]: equal up to rounding, but for the few rows that another rounding decides."""
    if ours.shape != theirs.shape:
        return Agreement(False, f"shapes {list(ours.shape)} and {list(theirs.shape)}")
    different = int((~torch.isclose(ours, theirs.to(ours.dtype), rtol=1e-4, atol=1e-4)).any(dim=-1).sum())
    total = ours.shape[:-1].numel()
    note = f"{different} of {total} rows differ (rounding)" if different else ""
    return Agreement(different <= max(2, _SHARE_THAT_MAY_DIFFER * total), note)


def detections(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Agreement:
    """Padded detections and their counts: the same rows up to rounding, but for the few that another rounding decides.

    Rows are looked for anywhere in their image: one that is kept by one side alone moves all that follow it.
    """
    counts = int((ours[1] - theirs[1]).abs().sum())
    if counts > max(2, _SHARE_THAT_MAY_DIFFER * int(ours[1].sum())):
        return Agreement(False, f"the counts differ by {counts}")
    different = 0
    for a, b in zip(ours[0], theirs[0].to(ours[0].dtype), strict=True):
        same = torch.isclose(a[:, None], b[None], rtol=1e-4, atol=1e-4).all(dim=-1)
        different += max(int((~same.any(dim=1)).sum()), int((~same.any(dim=0)).sum()))
    total = ours[0].shape[:-1].numel()
    note = f"{different} of {total} rows differ (rounding)" if different else ""
    return Agreement(different <= max(2, _SHARE_THAT_MAY_DIFFER * total), note)


def matched_anchors(ours: Any, theirs: Any) -> Agreement:
    """Targets of two matching rules: the anchors with different classes or offsets, counted."""
    (offsets, _, classes), (their_offsets, _, their_classes) = ours, theirs
    far = ~torch.isclose(offsets, their_offsets, rtol=1e-3, atol=1e-3).unflatten(1, (-1, 4)).all(dim=-1)
    different = int((far | (classes != their_classes)).sum())
    note = f"another matching rule: {different} of {classes.numel()} anchors differ" if different else ""
    return Agreement(different == 0, note)


def _pairs(ours: Any, theirs: Any) -> list[tuple[Tensor, Tensor]]:
    if isinstance(ours, Tensor):
        return [(ours, theirs)]
    return list(zip(ours, theirs, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a == b.to(a.device)).all())


def _differing(a: Tensor, b: Tensor) -> int:
    return int((a != b).sum()) if a.shape == b.shape else a.numel()
