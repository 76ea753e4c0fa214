"""The training step that the suite times: TinySSD, the default loss, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs
from tinyssd_ops import multibox_target


def make_step_inputs(num_images: int, seed: int) -> tuple[Any, ...]:
    """A model, its optimizer, pictures, labels [B, 8, 5] and the targets that belong to them.

    Raises:
        InputError: If ``tinyssd`` cannot be imported.
    """
    try:
        from tinyssd.model.loss import LossConfig
        from tinyssd.model.network import TinySSD
    except ImportError as error:
        raise inputs.InputError(f"tinyssd is not importable ({error})") from error
    torch.manual_seed(seed)
    model = TinySSD(num_classes=2).to(memory_format=torch.channels_last)
    # A learning rate of 0 costs the same and leaves the weights alone, so every step has the same result to compare.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    images = torch.rand(num_images, 3, *model.config.image_size) * 2 - 1
    labels = inputs.labels(num_images, 8, 1, seed)
    targets = multibox_target(model.anchors, labels)
    return images.contiguous(memory_format=torch.channels_last), labels, targets, (model, optimizer, LossConfig())


def step(target: Callable[..., Any] | None, images: Tensor, labels: Tensor, targets: Any, trainer: Any) -> Tensor:
    """One step with ``target`` as the function that makes the targets; None: with the targets given."""
    from tinyssd.model.loss import detection_loss

    model, optimizer, config = trainer
    anchors, scores, offsets = model(images)
    offset_targets, mask, classes = targets if target is None else target(anchors, labels)
    loss = detection_loss(scores, offsets, classes, offset_targets, mask, config).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()
