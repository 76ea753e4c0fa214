"""``tinyssd demo``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tinyssd.commands.common import (
    EXIT_INTERRUPTED,
    Commands,
    add_machine_options,
    describe,
    metrics_table,
)
from tinyssd.errors import ConfigError
from tinyssd.terminal import say

_DEMO_RUN = Path("runs/demo")


def add(commands: Commands) -> None:
    """Declares ``tinyssd demo``."""
    parser = commands.add_parser(
        "demo",
        help="train and evaluate on generated pictures, in a few minutes",
        description="Train on generated pictures, evaluate on others, draw the results.",
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help=f"the run folder (default: {_DEMO_RUN}, an older demo there is replaced)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the training pictures (default: 8)")
    parser.add_argument("--pictures", type=int, metavar="N", help="training pictures an epoch (default: 2000)")
    parser.add_argument(
        "--test-pictures", type=int, metavar="N", default=300, help="held-out pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", default=0, help="of weights and pictures (default: %(default)s)"
    )
    add_machine_options(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from tinyssd.report.write import write_report
    from tinyssd.run.folder import refuse_used_folder
    from tinyssd.training.demo import demo_config, report
    from tinyssd.training.train import train

    if options.test_pictures < 1:
        raise ConfigError(f"--test-pictures: expected at least 1, got {options.test_pictures}")
    if options.run is not None:
        refuse_used_folder(options.run)
    run = options.run or _DEMO_RUN
    started = time.perf_counter()
    sizes = {"epochs": options.epochs, "train_size": options.pictures}
    config = demo_config(
        **{name: value for name, value in sizes.items() if value is not None},
        device=options.device or "auto",
        workers=options.workers,
        seed=options.seed,
    )
    say(describe(config, run))
    progress = train(config, run)
    if not progress.is_over(config.train):
        say(f"stopped in epoch {progress.epoch + 1}; continue with: tinyssd train --resume {run}")
        return EXIT_INTERRUPTED
    metrics = report(run, options.device or "auto", options.test_pictures)
    say("\non held-out pictures:")
    say(metrics_table(metrics, config.class_names))
    say(f"\ndone in {time.perf_counter() - started:.0f} s; look at")
    page = write_report(run, options.device or "auto")
    for path in (page, *(run / name for name in ("predictions.png", "curves.png", "anchors.png"))):
        say(f"  {path}")
    return 0
