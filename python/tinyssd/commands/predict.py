"""``tinyssd predict``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyssd.commands.common import EXIT_ERROR, Commands, print_error
from tinyssd.errors import ConfigError


def add(commands: Commands) -> None:
    """Declares ``tinyssd predict``."""
    parser = commands.add_parser(
        "predict",
        help="find objects in pictures",
        description="Draw the objects found and write predictions.json: the boxes (x1, y1, x2, y2) in pixels of the "
        "pictures, which are turned upright. Small pictures are drawn enlarged.",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="picture files, or folders of them")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="a run folder or a checkpoint (default: the latest in runs/)"
    )
    parser.add_argument(
        "--score",
        type=float,
        metavar="P",
        help="least confidence, 0 to 1 (default: the best one on the run's validation pictures)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from tinyssd.model.device import pick_device
    from tinyssd.prediction.inputs import find_pictures
    from tinyssd.prediction.outputs import predict_files
    from tinyssd.run.checkpoint import latest_run, load_model

    if options.score is not None and not 0 <= options.score <= 1:
        raise ConfigError(f"--score: expected a number from 0 to 1, got {options.score}")
    paths = find_pictures(options.images)
    trained = load_model(options.run or latest_run(), pick_device(options.device))
    threshold = trained.score_threshold if options.score is None else options.score
    results, errors = predict_files(trained.model, trained.config.class_names, paths, options.out, threshold)
    for result in results:
        found = ", ".join(f"{d['label']} {d['score']:.0%}" for d in result["detections"]) or "nothing"
        print(f"{result['image']}: {found}")
    pictures = "1 picture" if len(results) == 1 else f"{len(results)} pictures"
    print(f"wrote {pictures} and predictions.json (confidence from {threshold:.0%}) to {options.out}/")
    for error in errors:
        print_error(error)
    return EXIT_ERROR if errors else 0
