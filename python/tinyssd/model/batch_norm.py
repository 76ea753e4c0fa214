"""Batch normalisation over the pictures of several processes.

On GPUs it is torch's SyncBatchNorm, which has no CPU path; there it is :class:`SharedBatchNorm`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tinyssd import processes
from tinyssd.errors import ConfigError


def share_statistics(model: nn.Module) -> None:
    """Lets the batch normalisation of a network see what all processes see; its weights stay the same tensors.

    Raises:
        ConfigError: If a layer is of another kind than torch's own.
    """
    for parent in model.modules():
        for name, layer in parent.named_children():
            if not isinstance(layer, nn.BatchNorm2d):
                continue
            if type(layer) is not nn.BatchNorm2d:
                raise ConfigError(f"several processes cannot train a network with layers of {type(layer).__name__}")
            on_gpu = layer.weight.device.type == "cuda"
            setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(layer) if on_gpu else _shared(layer))


class SharedBatchNorm(nn.BatchNorm2d):
    """As its base; in training its statistics are those of all processes, which have equally many pictures."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        if not self.training:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, variance = _moments(input)
        size = processes.count() * input.numel() // input.shape[1]
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.mul_(1 - share).add_(variance, alpha=share * size / max(size - 1, 1))
        return _Normalize.apply(input, self.weight, self.bias, mean, variance, self.eps, size)


def _shared(layer: nn.BatchNorm2d) -> SharedBatchNorm:
    shared = SharedBatchNorm(layer.num_features, layer.eps, layer.momentum)
    shared.weight, shared.bias = layer.weight, layer.bias
    for name, buffer in layer.named_buffers():
        setattr(shared, name, buffer)
    return shared


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all processes: [C] each.

    The variance is put together of that within the processes and that of their means: a difference of squares would
    lose digits.
    """
    with torch.no_grad():
        of_each = processes.gathered(torch.stack(torch.batch_norm_update_stats(features, None, None, 0.0)))  # [P, 2, C]
        mean, variance = of_each.mean(dim=0)
        return mean, variance + of_each[:, 0].var(dim=0, correction=0)


class _Normalize(torch.autograd.Function):
    """Normalises by statistics that are themselves functions of the input, in all processes."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, *others: Any) -> Tensor:
        mean, variance, ctx.eps, ctx.size = others
        ctx.save_for_backward(input, weight, mean, variance)
        return _normalized(input, weight, bias, mean, variance, ctx.eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        input, weight, mean, variance = ctx.saved_tensors
        _, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], input, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        # By way of the statistics the input gets back the means of its gradient and of that times what it was
        # normalised to, everywhere: a factor and a summand for each channel, so that two passes do.
        of_weight, of_bias = processes.summed(torch.stack((by_weight, by_bias))) / ctx.size
        factor = of_weight * weight / (variance + ctx.eps)
        by_input = _normalized(gradients[0], weight, factor * mean, of_bias, variance, ctx.eps)
        by_input.addcmul_(input, factor[:, None, None], value=-1)
        return by_input, by_weight, by_bias, None, None, None, None


def _normalized(input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    normalized: Tensor = torch.ops.aten.native_batch_norm(input, weight, bias, mean, variance, False, 0.0, eps)[0]
    return normalized
