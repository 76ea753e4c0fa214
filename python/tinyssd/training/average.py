"""The running average of the weights, which is steadier than the weights of any one step."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tinyssd.model.detector import Detector

# The first averages forget faster, or they would remember how the training began.
_WARM_UP_STEPS = 10.0


class Average:
    """The average of a network's weights and statistics over its steps.

    torch's AveragedModel lists and groups the tensors of both networks anew in each step, which takes ten times as long
    as the arithmetic.

    Attributes:
        network: Has the average's weights.
        steps: That it is made of.

    Args:
        model: The network in training, whose tensors stay the same.
        keep: The share of itself that the average keeps in a step, less at the beginning; 0 is the model itself.
    """

    def __init__(self, model: Detector, keep: float) -> None:
        self.network = copy.deepcopy(model)
        self.steps = 0
        self._keep = keep
        self._own, self._theirs = _tensors(self.network), _tensors(model)

    @torch.no_grad()
    def update(self) -> None:
        """Takes up the weights of the model as they are now."""
        slow = self._keep > 0 and self.steps > 0
        share = min(self._keep, (1 + self.steps) / (_WARM_UP_STEPS + self.steps)) if slow else 0.0
        (floats, counters), (new_floats, new_counters) = self._own, self._theirs
        torch._foreach_lerp_(floats, new_floats, 1 - share)
        torch._foreach_copy_(counters, new_counters)
        self.steps += 1


def _tensors(model: Detector) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and statistics, and the counters among them."""
    every = [*(one.detach() for one in model.parameters()), *model.buffers()]
    return [one for one in every if one.is_floating_point()], [one for one in every if not one.is_floating_point()]
