"""``tinyssd export``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinyssd.commands.common import Commands, data_name, expect_data
from tinyssd.errors import ConfigError
from tinyssd.terminal import say
from tinyssd.text import plural

if TYPE_CHECKING:
    from PIL import Image

    from tinyssd.run.config import RunConfig

_FORMATS = ("onnx", "aoti", "torchscript")
_COMPARED_ON = 8


def add(commands: Commands) -> None:
    """Declares ``tinyssd export``."""
    parser = commands.add_parser(
        "export",
        help="write a run's network for other programs",
        description="Write the network, suppression included, as ONNX, an AOTInductor package or TorchScript. Each "
        "file is loaded again and compared with the network on validation pictures before it counts as written.",
    )
    parser.add_argument("run", type=Path, nargs="?", help="a run folder or a checkpoint (default: the latest in runs/)")
    parser.add_argument(
        "--format", nargs="+", choices=_FORMATS, default=["onnx"], metavar="FORMAT", help=f"{', '.join(_FORMATS)} "
        "(default: onnx)"
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (default: RUN/export)")
    parser.add_argument("--data", help="another data set than the run's to compare on")
    parser.add_argument(
        "--score",
        type=float,
        metavar="P",
        help="least confidence, 0 to 1 (default: the best one on the run's validation pictures)",
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from tinyssd.export.deployed import deployed
    from tinyssd.export.formats import FORMATS, expect_packages
    from tinyssd.export.write import export
    from tinyssd.run.checkpoint import load_model
    from tinyssd.run.folder import latest_run

    if options.score is not None and not 0 <= options.score <= 1:
        raise ConfigError(f"--score: expected a number from 0 to 1, got {options.score}")
    formats = list(dict.fromkeys(options.format))
    for name in formats:
        expect_packages(name)
    run = options.run or latest_run()
    trained = load_model(run)
    pictures = compared_pictures(trained.config, options.data)
    out = options.out or (run if run.is_dir() else run.parent) / "export"
    say(f"exporting {run} as {', '.join(FORMATS[name].title for name in formats)}")
    for one in export(deployed(trained, options.score), trained.config, formats, out, pictures):
        say(
            f"wrote {one.path}: finds what the network finds, {plural(one.detections, 'object')} in "
            f"{plural(one.pictures, 'picture')}, within {one.difference:.1g}"
        )
    say(f"{out / 'README.md'} shows how to use it from Python and C++")
    return 0


def compared_pictures(config: RunConfig, data: str | None) -> Sequence[Image.Image]:
    """Validation pictures of a run, or of another data set, to compare a written file on."""
    from dataclasses import replace

    from tinyssd.data.open import open_data

    if data is None:
        expect_data(config)
    settings = config.data if data is None else replace(config.data, name=data_name(data))
    _, source = open_data(settings, config.model.image_size, config.train.seed)
    return [source.example(index, 0).image for index in range(min(len(source), _COMPARED_ON))]
