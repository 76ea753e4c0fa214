"""Networks by their configuration."""

from __future__ import annotations

from typing import Any

from tinyssd.model.detector import Detector
from tinyssd.model.network import TinySSD, TinySSDConfig
from tinyssd.model.pyramid import PyramidConfig, PyramidSSD

ModelConfig = TinySSDConfig | PyramidConfig


def build(config: ModelConfig) -> Detector:
    """The network that ``config`` describes, freshly initialised."""
    return TinySSD.from_config(config) if isinstance(config, TinySSDConfig) else PyramidSSD.from_config(config)


def config_type(settings: dict[str, Any]) -> type[TinySSDConfig] | type[PyramidConfig]:
    """Whose settings these are: only the textbook's network has sizes and ratios."""
    return TinySSDConfig if {"sizes", "ratios"} & settings.keys() else PyramidConfig
