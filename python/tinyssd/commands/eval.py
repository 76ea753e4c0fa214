"""``tinyssd eval``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tinyssd.commands.common import Commands, add_machine_options, metrics_table


def add(commands: Commands) -> None:
    """Declares ``tinyssd eval``."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a run",
        description="Evaluate on validation pictures; writes eval.json and predictions.png into the run folder.",
    )
    parser.add_argument("run", type=Path, nargs="?", help="a run folder (default: the latest in runs/)")
    parser.add_argument("--data", help="another data set than the run's, of the same classes")
    add_machine_options(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from tinyssd.data.loader import Pictures, default_workers, make_loader
    from tinyssd.data.open import open_data
    from tinyssd.errors import DataError
    from tinyssd.evaluation.evaluate import evaluate
    from tinyssd.files import write_json
    from tinyssd.model.device import pick_device
    from tinyssd.prediction.gallery import save_predictions
    from tinyssd.run.checkpoint import latest_run, load_model

    run = options.run or latest_run()
    device = pick_device(options.device or "auto")
    trained = load_model(run, device)
    model, config = trained.model, trained.config
    data = config.data if options.data is None else replace(config.data, name=options.data)
    _, source = open_data(data, config.model.image_size, config.train.seed)
    if len(source.class_names) != len(config.class_names):
        raise DataError(f"{data.name}: has {len(source.class_names)} classes, the run has {len(config.class_names)}")
    pictures = Pictures(source, config.model.image_size)
    workers = default_workers() if options.workers is None else options.workers
    loader, _ = make_loader(pictures, config.train.batch_size, workers=workers)
    metrics = evaluate(model, loader, device, config.train.channels_last, config.train.match_iou)
    if source.class_names != config.class_names:
        names = f"{', '.join(config.class_names)} as {', '.join(source.class_names)}"
        print(f"tinyssd: note: classes are compared by their numbers: {names}", file=sys.stderr)
    print(f"{run} on {len(source)} validation pictures of {data.name}")
    print(metrics_table(metrics, config.class_names))
    if run.is_dir():
        save_predictions(model, source, run / "predictions.png", trained.score_threshold)
        write_json(run / "eval.json", {"data": data.name, "pictures": len(source), **metrics.to_dict()})
        print(f"wrote eval.json and predictions.png to {run}/")
    return 0
