"""What a row of the suite is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tinyssd_ops as ops
from benchmarks import inputs
from benchmarks.agreement import Agreement
from benchmarks.floors import Floor
from benchmarks.measure import Args

THRESHOLD = 0.5


@dataclass(frozen=True)
class Peer:
    """Something else that does the job of an op.

    Attributes:
        name: As printed.
        run: Takes what ``prepare`` returns.
        agree: Compares the op's result with the peer's.
        package: What must be importable, or None.
        prepare: Turns the op's arguments into the peer's; not timed.
        largest: The largest size at which it ends in reasonable time; None: any.
        same_job: False if its definition differs; the row then says in how much.
        cpu_only: True for NumPy packages.
    """

    name: str
    run: Callable[..., Any]
    agree: Callable[[Any, Any], Agreement]
    package: str | None = None
    prepare: Callable[..., Args] = lambda *args: args
    largest: int | None = None
    same_job: bool = True
    cpu_only: bool = False


@dataclass(frozen=True)
class Case:
    """A row to measure.

    Attributes:
        op: The stem of the op's name.
        inputs: The kind of inputs.
        size: What the plots have on their x axis.
        label: The size in words.
        make: The op's arguments, on the CPU, from a seed.
        run: The op.
        peers: The reference first.
        floors: The larger is the floor.
    """

    op: str
    inputs: str
    size: int
    label: str
    make: Callable[[int], Args]
    run: Callable[..., Any]
    peers: tuple[Peer, ...]
    floors: tuple[Floor, ...]

    @property
    def name(self) -> str:
        """What ``--filter`` searches."""
        return f"{self.op} {self.inputs} {self.label}"


@dataclass(frozen=True)
class Trained:
    """Where real detector output comes from: pictures to train on (or None), and the run folder."""

    data: str | None
    run: Path

    def predictions(self, num_images: int, seed: int) -> inputs.Predictions:
        """See :func:`benchmarks.inputs.detector_predictions`."""
        return inputs.detector_predictions(self.data, self.run, num_images, seed)


def detector_batch(trained: Trained, images: int, seed: int) -> Args:
    """Boxes [B, A, 4] and scores [B, A] of a trained detector's object class, and the threshold.

    The scores are ranks in 0..1, in the detector's order: a detector has equal scores, which peers order differently.
    """
    found = trained.predictions(images, seed)
    boxes = ops.decode_boxes(found.anchors, found.offsets.unflatten(1, (-1, 4)))
    logits = found.logits[..., 1] - found.logits[..., 0]
    rank = logits.argsort(dim=1, stable=True).argsort(dim=1)
    return boxes, (rank + 0.5) / logits.shape[1], THRESHOLD


def on_one_thread(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function, run with one thread of torch's."""

    def single(*args: Any) -> Any:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return run(*args)
        finally:
            torch.set_num_threads(threads)

    return single
