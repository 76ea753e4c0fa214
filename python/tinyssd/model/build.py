"""Networks by their configuration."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tinyssd.model.detector import Detector
from tinyssd.model.network import TinySSD, TinySSDConfig, make_anchors
from tinyssd.model.pyramid import PyramidConfig, PyramidSSD, pyramid_anchors

ModelConfig = TinySSDConfig | PyramidConfig


def build(config: ModelConfig) -> Detector:
    """The network that ``config`` describes, freshly initialised."""
    return TinySSD.from_config(config) if isinstance(config, TinySSDConfig) else PyramidSSD.from_config(config)


def anchors_of(config: ModelConfig) -> Tensor:
    """The anchors of such a network: [1, A, 4], corners as shares of the input."""
    return make_anchors(config) if isinstance(config, TinySSDConfig) else pyramid_anchors(config)


def config_type(settings: dict[str, Any]) -> type[TinySSDConfig] | type[PyramidConfig]:
    """Whose settings these are: only the textbook's network has sizes and ratios."""
    return TinySSDConfig if {"sizes", "ratios"} & settings.keys() else PyramidConfig
