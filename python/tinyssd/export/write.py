"""Writes a network, and calls it written when the file, loaded again, finds what the network finds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tinyssd.data.images import to_rgb
from tinyssd.data.place import ALIKE, GRAY, on_input
from tinyssd.errors import TinySSDError
from tinyssd.export.deployed import Deployed, Predictor
from tinyssd.export.formats import FORMATS, expect_packages
from tinyssd.export.readme import readme
from tinyssd.files import write_atomically, write_json
from tinyssd.model.detector import NetworkConfig
from tinyssd.run.config import RunConfig
from tinyssd.text import printable

# Sums of a convolution in another order differ in their last bits; confidences are at most 1, boxes are shares.
TOLERANCE = 1e-4


class ExportError(TinySSDError):
    """A written file does not find what the network finds."""


@dataclass(frozen=True)
class Written:
    """A file that was checked.

    Attributes:
        path: The file.
        pictures: On how many pictures it was compared.
        detections: How many objects the network finds in them.
        difference: The largest difference of a confidence or a box, in shares.
    """

    path: Path
    pictures: int
    detections: int
    difference: float


def export(
    model: Deployed, config: RunConfig, formats: Sequence[str], out: Path, pictures: Sequence[Image.Image]
) -> list[Written]:
    """Writes a network in several formats, with ``model.json`` and a README beside them.

    Args:
        model: What to write.
        config: Of its run.
        formats: Names in :data:`FORMATS`.
        out: The folder; made if need be.
        pictures: Real ones, to compare the file and the network on; at least one.

    Raises:
        ConfigError: If a format cannot be written here.
        ExportError: If a file finds something else than the network; then it is not there.
    """
    for name in formats:
        expect_packages(name)
    out.mkdir(parents=True, exist_ok=True)
    images = as_input(pictures, config.model)
    written = []
    for name in formats:
        path, kind = out / FORMATS[name].file, FORMATS[name]
        # The ending decides how torch treats a file.
        temporary = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            # Of two pictures: torch takes a batch of one for a constant.
            kind.write(model, images[:1].expand(2, -1, -1, -1).contiguous(), temporary, notes(config))
            written.append(_compared(model, kind.load(temporary), images, path))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    write_json(out / "model.json", about(model, config))
    text = readme(model, config)
    write_atomically(out / "README.md", lambda path: path.write_text(text, encoding="utf-8"))
    return written


def as_input(pictures: Sequence[Image.Image], network: NetworkConfig) -> Tensor:
    """Pictures on the input, as ``tinyssd predict`` lays them there: uint8 [B, 3, H, W]."""
    pixels = [np.array(on_input(to_rgb(one), network.image_size, network.keep_shape)[0]) for one in pictures]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def notes(config: RunConfig) -> dict[str, str]:
    """What lays a picture on the input and names what is found, as text that the file itself carries."""
    height, width = config.model.image_size
    return {
        # A class a line, and nothing that a terminal would obey.
        "classes": "\n".join(printable(name) for name in config.class_names),
        "height": str(height),
        "width": str(width),
        "keep_shape": str(int(config.model.keep_shape)),
        "stretch_below": str(ALIKE),
        "fill": " ".join(str(value) for value in GRAY),
    }


def about(model: Deployed, config: RunConfig) -> dict[str, Any]:
    """What a program that uses the file has to know."""
    return {
        "classes": list(config.class_names),
        "input": {
            "name": "images",
            "shape": ["batch", 3, *config.model.image_size],
            "dtype": "uint8",
            "colours": "RGB",
        },
        "keep_shape": config.model.keep_shape,
        "stretch_below": ALIKE,
        "fill": list(GRAY),
        "score_thresholds": [round(one, 6) for one in model.least[1:].tolist()],
        "nms_threshold": model.nms_threshold,
        "max_detections": model.max_detections,
    }


def _compared(model: Deployed, loaded: Predictor, images: Tensor, path: Path) -> Written:
    """All pictures at once, then the first alone."""
    difference, found = 0.0, 0
    for batch in (images, images[:1]):
        (wanted, counts), (rows, other_counts) = model(batch), loaded(batch)
        if wanted.shape != rows.shape:
            raise ExportError(f"{path}: not written: it answers {list(rows.shape)}, the network {list(wanted.shape)}")
        for one, other, n, m in zip(wanted, rows, counts.tolist(), other_counts.tolist(), strict=True):
            difference = max(difference, _difference(one[:n], other[:m], model.least))
        found = max(found, int(counts.sum()))
    if difference > TOLERANCE:
        raise ExportError(f"{path}: not written: it differs from the network by {difference:.2g}, over {TOLERANCE:g}")
    return Written(path, len(images), found, difference)


def _difference(wanted: Tensor, found: Tensor, least: Tensor) -> float:
    """The largest distance of a row [N, 6] from the nearest of its class in the other list [M, 6]; infinite for none.

    Rows that are within the tolerance of their class's threshold may be there or not.
    """
    largest = 0.0
    for rows, others in ((wanted, found), (found, wanted)):
        sure = rows[rows[:, 1] >= least[rows[:, 0].long()] + TOLERANCE]
        apart = (sure[:, None] - others[None]).abs()
        apart = torch.where(apart[..., 0] == 0, apart.amax(dim=2), torch.inf)
        nearest = torch.cat((apart, apart.new_full((len(sure), 1), torch.inf)), dim=1).amin(dim=1)
        largest = max([largest, *nearest.tolist()])
    return largest
