"""``tinyssd anchors``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyssd.commands.common import Commands
from tinyssd.commands.data_options import add_data_options, choice
from tinyssd.terminal import say
from tinyssd.text import plural


def add(commands: Commands) -> None:
    """Declares ``tinyssd anchors``."""
    parser = commands.add_parser(
        "anchors",
        help="show the input and the anchors that fit a data set",
        description="Show the input and the anchors that 'tinyssd train' would take for a data set, and how well they "
        "fit its objects.",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="a folder of labelled pictures, or a label file in it")
    add_data_options(parser)
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="longer side of the input (default: by the objects)"
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    import numpy as np

    from tinyssd.data.open import training_set
    from tinyssd.data.source import PictureFiles
    from tinyssd.model.fit import overlap
    from tinyssd.model.pyramid import STRIDES
    from tinyssd.training.recipe import fit, training_objects

    data = training_set(options.data, choice(options))
    objects = training_objects(PictureFiles(data.splits["train"], data.class_names))
    fitted = fit(objects, longer_side=options.image_size)
    say(f"{plural(len(objects.class_ids), 'object')}; {fitted}")
    boxes = [(stride, size) for stride, stage in zip(STRIDES, fitted.anchors, strict=True) for size in stage]
    ious = overlap(objects.on_input(fitted.image_size), np.array([size for _, size in boxes]))
    own, best = ious.argmax(axis=1), ious.max(axis=1)
    say("\n  cell  anchor     objects  mean IoU")
    for k, (stride, (width, height)) in enumerate(boxes):
        mine = own == k
        mean = f"{best[mine].mean():8.2f}" if mine.any() else "       -"
        say(f"  {stride:>4}  {f'{width:.0f}x{height:.0f}':<9}  {mine.sum():>7}  {mean}")
    return 0
