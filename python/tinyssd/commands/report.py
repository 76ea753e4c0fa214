"""``tinyssd report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyssd.commands.common import Commands, data_name, expect_data
from tinyssd.terminal import say


def add(commands: Commands) -> None:
    """Declares ``tinyssd report``."""
    parser = commands.add_parser(
        "report",
        help="write a run's page: curves, AP by class, confusion, best and worst pictures",
        description="Evaluate a run on its validation pictures and write report.html into its folder: one file that "
        "needs nothing else.",
    )
    parser.add_argument("run", type=Path, nargs="?", help="a run folder (default: the latest in runs/)")
    parser.add_argument("--data", help="where the run's pictures are now")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from tinyssd.report.write import write_report
    from tinyssd.run.checkpoint import load_model
    from tinyssd.run.folder import latest_run

    run = options.run or latest_run()
    config = load_model(run).config
    if options.data is None:
        expect_data(config)
    data = None if options.data is None else replace(config.data, name=data_name(options.data))
    say(f"wrote {write_report(run, options.device, data)}")
    return 0
