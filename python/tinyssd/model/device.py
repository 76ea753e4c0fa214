"""Where a network runs."""

from __future__ import annotations

import torch

from tinyssd.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: expected auto, cpu or cuda, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected auto, cpu or cuda, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: this machine or this build of torch has no {name!r}")
    return device
