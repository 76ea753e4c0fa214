"""The running average of the weights, which is steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from tinyssd.model.detector import Detector

# The first averages forget faster, or they would remember how the training began.
_WARM_UP_STEPS = 10.0


def averaged(model: Detector, keep: float) -> AveragedModel:
    """An average that keeps the share ``keep`` of itself in a step, less at the beginning; 0 is the model itself."""
    return AveragedModel(model, multi_avg_fn=_towards(keep), use_buffers=True)


def _towards(keep: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averages: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        share = min(keep, (1 + float(steps)) / (_WARM_UP_STEPS + float(steps))) if keep > 0 else 0.0
        # Called for each dtype on its own.
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(current), 1 - share)
        else:
            torch._foreach_copy_(list(averages), list(current))

    return update
