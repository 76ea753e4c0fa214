"""Backbones of the library timm, with the weights that others have trained on millions of pictures.

A network there that has maps of the pyramid's cells can take the place of its own backbone. timm, and the torchvision
that it needs, are imported when such a network is made.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tinyssd.errors import BackboneError

# In place of a file: the weights that timm names, and downloads where they are not here yet.
PRETRAINED = "pretrained"


class TimmBackbone(nn.Module):
    """The maps of a network of timm, freshly initialised.

    Args:
        name: As timm has it, with or without the tag of its weights.
        image_size: Height and width of the input in pixels; some networks are made for one size.
        strides: Pixels that a cell of each map is wide, the finest first.

    Attributes:
        channels: Of each map.

    Raises:
        BackboneError: If timm cannot be imported, does not know the network, or makes no such maps of it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, image_size: tuple[int, int], strides: Sequence[int]) -> None:
        super().__init__()
        self.name, self.image_size = full_name(name), image_size
        self._indices: list[int] | None = None
        try:
            with torch.device("meta"):  # Only to see what it has.
                maps = self._create().feature_info
            self._indices = _indices(name, maps, strides)
            self.network = self._create()
            settings = _timm().data.resolve_model_data_config(self.network)
        # What the networks there say of a size or a use that is not theirs.
        except (RuntimeError, AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _unfit(name, image_size, _reason(error)) from error
        self.channels: list[int] = self.network.feature_info.channels()
        # The last channels of its maps, where it is a transformer.
        self._turn: bool = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        mean, std = (torch.tensor(settings[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        # From the -1..1 of our pictures to its own 0 on average, with a deviation of 1.
        self.register_buffer("scale", 0.5 / std)
        self.register_buffer("shift", (0.5 - mean) / std)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W], -1..1, to [B, channels, H / stride, W / stride] for each stride."""
        maps = self.network(images * self.scale + self.shift)
        return [one.permute(0, 3, 1, 2) for one in maps] if self._turn else list(maps)

    def begin_with(self, source: str) -> None:
        """Takes weights from elsewhere.

        Args:
            source: ``PRETRAINED``, or a file that holds the weights of this network as timm or its authors keep them.

        Raises:
            BackboneError: If they cannot be had, or are not those of this network.
        """
        if source == PRETRAINED and not _timm().is_model_pretrained(self.name):
            raise BackboneError(f"{self.name}: timm has no pretrained weights of it; {_OTHER_WEIGHTS}")
        one, other = (self._loaded(source, seed) for seed in (0, 1))
        # timm says nothing where a file lacks weights: those that are still random differ.
        lacking = [name for name in one if not torch.equal(one[name], other[name])]
        if lacking:
            raise BackboneError(f"{source}: lacks weights of {self.name}, such as {lacking[0]}")
        self.network.load_state_dict(one)

    def _loaded(self, source: str, seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]), _quiet():
            torch.default_generator.manual_seed(seed)
            try:
                overlay = None if source == PRETRAINED else {"file": source}
                network = self._create(pretrained=True, pretrained_cfg_overlay=overlay)
            except Exception as error:  # A download and the reading of any file end in errors of every kind.
                message = f"{source}: cannot be read as weights of {self.name} ({_reason(error)})"
                if source == PRETRAINED:
                    message = f"{self.name}: its pretrained weights cannot be had ({_reason(error)}); {_OTHER_WEIGHTS}"
                raise BackboneError(message) from error
        return network.state_dict()

    def _create(self, **settings: Any) -> Any:
        known = _timm().get_pretrained_cfg(self.name)
        if known is not None and known.fixed_input_size:
            settings["img_size"] = self.image_size
        settings["out_indices"] = self._indices
        return _timm().create_model(self.name, features_only=True, in_chans=3, **settings)


_OTHER_WEIGHTS = "--backbone-weights FILE takes some from a file, --backbone-weights none begins with random ones"


def full_name(name: str) -> str:
    """The name of a network with the tag of its weights, which timm may change for the name alone.

    Raises:
        BackboneError: If timm cannot be imported, or has no such network.
    """
    timm = _timm()
    architecture = name.partition(".")[0]
    names = timm.list_models()
    if architecture not in names:
        close = difflib.get_close_matches(architecture, names, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise BackboneError(f"{name}: timm {timm.__version__} has no such network{guess}")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")]
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise BackboneError(f"{name}: timm {timm.__version__} has no such weights; it has {', '.join(tags)}") from error
    return f"{architecture}.{known.tag}" if known is not None and known.tag else architecture


def expect_maps(name: str, image_size: tuple[int, int], strides: Sequence[int]) -> None:
    """Tries a backbone, without computing anything.

    Raises:
        BackboneError: As :class:`TimmBackbone` says, and if it fails on pictures of that size.
    """
    with torch.device("meta"):
        backbone = TimmBackbone(name, image_size, strides).eval()
        try:
            maps = backbone(torch.empty(1, 3, *image_size))
        except (RuntimeError, AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _unfit(name, image_size, _reason(error)) from error
    height, width = image_size
    for one, stride in zip(maps, strides, strict=True):
        if one.shape[2:] != (height // stride, width // stride):
            raise _unfit(name, image_size, f"its cells of {stride} pixels are {one.shape[3]}x{one.shape[2]}")


def _indices(name: str, maps: Any, strides: Sequence[int]) -> list[int]:
    """timm's numbers of the last map of each stride."""
    found = dict(zip(maps.reduction(), maps.out_indices, strict=True))
    if not set(strides) <= found.keys():
        has = ", ".join(map(str, found))
        wanted = ", ".join(map(str, strides))
        raise BackboneError(f"{name}: has maps with cells of {has} pixels, a backbone needs {wanted}")
    return [found[stride] for stride in strides]


def _unfit(name: str, image_size: tuple[int, int], reason: str) -> BackboneError:
    height, width = image_size
    return BackboneError(f"{name}: is no backbone for pictures of {width}x{height} ({reason})")


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error), 160, placeholder=" ...") or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back timm's warning of what a file holds besides, such as the classifier, which no backbone has."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # A torchvision that does not fit this torch raises the second.
        raise BackboneError(
            f"a backbone needs timm, which cannot be imported ({_reason(error)}); "
            "pip install 'tinyssd_ops[backbone]' installs it"
        ) from error
    return timm
