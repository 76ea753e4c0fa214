"""``tinyssd eval``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tinyssd.commands.common import Commands, add_machine_options, data_name, expect_data, metrics_table
from tinyssd.errors import ConfigError
from tinyssd.terminal import say
from tinyssd.text import printable


def add(commands: Commands) -> None:
    """Declares ``tinyssd eval``."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a run",
        description="Evaluate on validation pictures; writes eval.json and predictions.png into the run folder.",
    )
    parser.add_argument("run", type=Path, nargs="?", help="a run folder (default: the latest in runs/)")
    parser.add_argument("--run", dest="run_option", type=Path, metavar="DIR", help="the same, as predict has it")
    parser.add_argument("--data", help="another data set than the run's; its classes are compared by name")
    add_machine_options(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from tinyssd.data.loader import Pictures, default_workers, make_loader
    from tinyssd.data.open import open_data
    from tinyssd.evaluation.evaluate import evaluate
    from tinyssd.evaluation.names import ByName
    from tinyssd.files import write_json
    from tinyssd.model.device import pick_device
    from tinyssd.prediction.gallery import save_predictions
    from tinyssd.run.checkpoint import load_model
    from tinyssd.run.folder import latest_run

    if options.run is not None and options.run_option is not None:
        raise ConfigError("name the run once: it stands there as --run and without")
    run = options.run or options.run_option or latest_run()
    device = pick_device(options.device or "auto")
    trained = load_model(run, device)
    model, config = trained.model, trained.config
    if options.data is None:
        expect_data(config)
    data = config.data if options.data is None else replace(config.data, name=data_name(options.data))
    _, source = open_data(data, config.model.image_size, config.train.seed)
    if tuple(source.class_names) != config.class_names:
        source = ByName(source, config.class_names)
        if source.unknown:
            unknown = printable(", ".join(source.unknown))
            print(f"tinyssd: note: the run knows no {unknown}: objects of that name are left out", file=sys.stderr)
    pictures = Pictures(source, config.model.image_size, keep_shape=config.model.keep_shape)
    workers = default_workers() if options.workers is None else options.workers
    loader, _ = make_loader(pictures, config.train.batch_size, workers=workers)
    metrics = evaluate(model, loader, device, config.train.channels_last, config.train.match_iou)
    say(f"{run} on {len(source)} validation pictures of {data.name}")
    say(metrics_table(metrics, config.class_names))
    if run.is_dir():
        save_predictions(model, source, run / "predictions.png", trained.score_thresholds)
        write_json(run / "eval.json", {"data": data.name, "pictures": len(source), **metrics.to_dict()})
        say(f"wrote eval.json and predictions.png to {run}/")
    return 0
