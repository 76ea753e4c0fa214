"""``tinyssd predict``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyssd.commands.common import EXIT_ERROR, EXIT_INTERRUPTED, Commands, print_error
from tinyssd.errors import ConfigError, DataError
from tinyssd.terminal import say
from tinyssd.text import plural

# Objects of a picture that a line names one by one.
_MOST_NAMED = 8


def add(commands: Commands) -> None:
    """Declares ``tinyssd predict``."""
    parser = commands.add_parser(
        "predict",
        help="find objects in pictures",
        description="Draw the objects found and write predictions.json: the boxes (x1, y1, x2, y2) in pixels of the "
        "pictures, which are turned upright. Small pictures are drawn enlarged.",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="pictures, videos, folders of them, or patterns like '*.jpg'"
    )
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
    parser.add_argument(
        "--write",
        action="append",
        choices=("coco", "csv", "yolo"),
        default=[],
        metavar="FORMAT",
        help="the boxes also as COCO's results (coco), CSV (csv) or YOLO's text (yolo); may be given several times",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from tinyssd.model.device import pick_device
    from tinyssd.prediction.files import predict_files
    from tinyssd.prediction.inputs import find_inputs
    from tinyssd.prediction.outputs import Results
    from tinyssd.run.checkpoint import load_model
    from tinyssd.run.folder import latest_run

    if options.score is not None and not 0 <= options.score <= 1:
        raise ConfigError(f"--score: expected a number from 0 to 1, got {options.score}")
    paths = find_inputs(options.images, options.out)
    trained = load_model(options.run or latest_run(), pick_device(options.device))
    threshold = trained.score_thresholds if options.score is None else options.score
    class_names = trained.config.class_names
    results = Results(options.out, class_names, paths)
    failed = stopped = False
    try:
        found = predict_files(trained.model, paths, results, class_names, threshold)
        for one in tqdm(found, unit=" pictures", leave=False, disable=None):
            if isinstance(one, DataError):
                print_error(one)
                failed = True
            else:
                say(_line(one))
    except KeyboardInterrupt:
        stopped = True
    finally:
        written = results.write(options.write)
    images = len({row["image"] for row in results.rows})
    count = f"{images} of {len(paths)} files before it was stopped" if stopped else plural(images, "picture")
    say(f"wrote {count} and {', '.join(written)} (confidence from {_least(threshold)}) to {options.out}/")
    return EXIT_INTERRUPTED if stopped else EXIT_ERROR if failed else 0


def _least(threshold: float | Sequence[float]) -> str:
    """One percentage, or the range of the classes'."""
    limits = [threshold] if isinstance(threshold, float) else threshold
    low, high = f"{min(limits):.0%}", f"{max(limits):.0%}"
    return low if low == high else f"{low} to {high}, by class"


def _line(row: dict[str, Any]) -> str:
    found = _found(row["detections"])
    moment = f" at {row['time']:.2f} s" if "time" in row else ""
    return f"{row['image']}{moment}: {found}"


def _found(detections: list[dict[str, Any]]) -> str:
    """Each object with its confidence; of many, how many of each class."""
    if len(detections) > _MOST_NAMED:
        counts = Counter(d["label"] for d in detections)
        return ", ".join(f"{count} x {label}" for label, count in counts.most_common())
    return ", ".join(f"{d['label']} {d['score']:.0%}" for d in detections) or "nothing"
