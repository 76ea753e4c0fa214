"""The least that the work can cost on this machine, as functions that are timed beside the ops.

A floor is the larger of what a row lists: the bytes that must be written, the operations that must be done, or a sort
that must be made. It is measured in the same minutes as the op, so a slow moment of the machine meets both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Minimum and maximum of two corners (4), width and height (2), both cut at 0 (2), their product, the union (2), the
# comparison or division: what one IoU costs in lanes of a SIMD register.
_OPERATIONS_A_PAIR = 12


@dataclass(frozen=True)
class Floor:
    """A name for the reader, and a function of the op's arguments that costs as much as the floor."""

    name: str
    run: Callable[..., Any]


def sort(position: int) -> Floor:
    """``torch.sort`` of the argument at ``position``: the scores."""
    return Floor("torch.sort of the scores", lambda *args: torch.sort(args[position]))


def sort_candidates(scores_of: Callable[..., list[Tensor]]) -> Floor:
    """``torch.sort`` of the scores that take part in NMS, one tensor an image; ``scores_of`` finds them, untimed."""
    found: dict[int, list[Tensor]] = {}  # by identity: an input is asked for many times

    def sort_all(*args: Any) -> list[Any]:
        if id(args[0]) not in found:
            found[id(args[0])] = scores_of(*args)
        return [torch.sort(scores) for scores in found[id(args[0])]]

    return Floor("torch.sort of the candidates' scores", sort_all)


def copy_predictions() -> Floor:
    """A copy of the first two arguments: every probability and offset is read."""
    return Floor("a copy of the predictions", lambda scores, offsets, *_: (scores.clone(), offsets.clone()))


def write(shapes: Callable[..., tuple[tuple[int, ...], ...]]) -> Floor:
    """Allocating and filling the outputs, whose shapes in float32 values follow from the arguments."""

    def fill(*args: Any) -> list[Tensor]:
        return [torch.empty(shape, device=args[0].device).fill_(0.5) for shape in shapes(*args)]

    return Floor("torch.empty(output).fill_()", fill)


def all_pairs(pairs: int) -> Floor:
    """A float32 matrix product with one multiply-add for each of the operations that the IoU of ``pairs`` pairs takes.

    A matrix product is the operation that keeps the SIMD lanes busiest. Skipping pairs can beat this floor.
    """

    def multiply(*args: Any) -> Tensor:
        left, right = _factors(pairs, str(args[0].device))
        return left @ right

    return Floor(f"{_OPERATIONS_A_PAIR} SIMD operations a pair at the rate of a matrix product", multiply)


@functools.lru_cache(maxsize=1)
def _factors(pairs: int, device: str) -> tuple[Tensor, Tensor]:
    side = max(1, round((_OPERATIONS_A_PAIR * pairs) ** (1 / 3)))
    return torch.rand(side, side, device=device), torch.rand(side, side, device=device)
