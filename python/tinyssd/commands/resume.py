"""Which run ``tinyssd train`` goes on with: one that ``--resume`` names, or one that torchrun has started anew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tinyssd import processes
from tinyssd.commands.common import data_name, expect_data
from tinyssd.errors import CheckpointError, ConfigError
from tinyssd.terminal import say

if TYPE_CHECKING:
    from tinyssd.run.config import RunConfig

_SETTINGS = (
    "train",
    "val",
    "format",
    "classes",
    "strict",
    "run",
    "config",
    "batch_size",
    "lr",
    "image_size",
    "model",
    "backbone",
    "backbone_weights",
    "init",
    "loss",
    "assigner",
    "seed",
)


def resumed(options: argparse.Namespace) -> tuple[Path, RunConfig] | None:
    """The folder and the configuration of the run to go on with; None where a new one is to begin."""
    if options.resume is not None:
        _refuse_settings(options)
        return _continued(options.resume, options)
    if _began_before(options):
        say(f"torchrun has started this command anew: the run in {options.run} goes on from its last checkpoint")
        return _continued(options.run, options)
    return None


def _began_before(options: argparse.Namespace) -> bool:
    """Whether this is a restart by torchrun, after which there is a checkpoint to go on from.

    Raises:
        ConfigError: If a restart could not find the run.
    """
    from tinyssd.run.checkpoint import load_checkpoint
    from tinyssd.run.folder import CHECKPOINT

    if processes.restarts() > 0:
        again = f"torchrun --max-restarts {processes.restarts()}"
        if options.run is None:
            raise ConfigError(f"{again}: name the run folder with --run DIR, in which a restart finds the run")
        if processes.job() is None:
            raise ConfigError(
                f"{again}: name the job by its --rdzv-id too, by which a restart knows the run as its own"
            )
    if processes.job() is None or options.run is None or not (options.run / CHECKPOINT).exists():
        return False
    return load_checkpoint(options.run / CHECKPOINT).get("job") == processes.job()


def _refuse_settings(options: argparse.Namespace) -> None:
    """Raises :class:`ConfigError` where ``--resume`` is to go on with other settings than the run's."""
    given = [f"--{name.replace('_', '-')}" for name in _SETTINGS if getattr(options, name) is not None]
    if given:
        raise ConfigError(f"--resume continues a run with its own settings; leave out {', '.join(given)}")


def _continued(run: Path, options: argparse.Namespace) -> tuple[Path, RunConfig]:
    """The folder and the configuration of a run that is to be continued.

    Where its data are, how long it goes on, and the machine's part may change.
    """
    from dataclasses import replace

    from tinyssd.run.checkpoint import load_checkpoint, made_by_this_version
    from tinyssd.run.config import RunConfig
    from tinyssd.run.folder import CHECKPOINT

    run = run.parent if run.name == CHECKPOINT else run
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run folder")
    file = run / CHECKPOINT
    contents = load_checkpoint(file)
    with made_by_this_version(file):
        config = RunConfig.from_dict(contents["config"])
        finished = contents["progress"]["epoch"]
    epochs = config.train.epochs if options.epochs is None else options.epochs
    if epochs < finished:
        raise ConfigError(f"--epochs: the run has done {finished} already, got {epochs}")
    train = replace(
        config.train,
        epochs=epochs,
        device=options.device or config.train.device,
        workers=config.train.workers if options.workers is None else options.workers,
    )
    data = config.data if options.data is None else replace(config.data, name=data_name(options.data))
    config = replace(config, train=train, data=data)
    expect_data(config)
    return run, config
