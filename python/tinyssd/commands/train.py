"""``tinyssd train``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyssd import processes
from tinyssd.commands.common import (
    EXIT_INTERRUPTED,
    Commands,
    add_machine_options,
    data_label,
    data_name,
    describe,
)
from tinyssd.commands.data_options import add_data_options, class_names
from tinyssd.commands.resume import resumed
from tinyssd.errors import ConfigError
from tinyssd.terminal import say

if TYPE_CHECKING:
    from tinyssd.data.source import Source
    from tinyssd.run.config import RunConfig

_MODELS = ("pyramid", "classic")
_LOSSES = ("mined", "focal", "classic")
_ASSIGNERS = ("greedy", "threshold", "atss", "task_aligned", "simota")


def add(commands: Commands) -> None:
    """Declares ``tinyssd train``."""
    parser = commands.add_parser(
        "train",
        help="train on a data set",
        description="Train a detector. The run folder keeps config.json, metrics.jsonl, curves.png, predictions.png, "
        "report.html, best.pt and checkpoint.pt.",
        epilog="A folder of your own may hold Pascal VOC, COCO, YOLO or a table of boxes; format, splits and class "
        "names are found by looking, and said. Boxes that reach outside their picture are clipped, those without area "
        "dropped, broken pictures skipped; all of it is counted, and 'tinyssd check DIR' lists it.",
    )
    parser.add_argument("folder", nargs="?", metavar="DATA", help="a folder of labelled pictures, the same as --data")
    parser.add_argument("--data", help="'synthetic' (default), 'banana', or a folder of labelled pictures")
    add_data_options(parser)
    parser.add_argument(
        "--strict", action="store_true", default=None, help="stop where a label or picture would be changed or skipped"
    )
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run folder (default: runs/DATA-DATE-TIME)")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="continue the run in DIR with its own settings; --epochs may "
        "make it longer, --data say where its pictures are now",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a JSON file like a run's config.json, or parts of one"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the pictures (default: by their number)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures a step (default: 16)")
    parser.add_argument("--lr", type=float, metavar="RATE", help="peak of the learning rate (default: 0.005)")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="longer side of the input (default: by the objects)",
    )
    parser.add_argument(
        "--loss", choices=_LOSSES, help="of --model classic: hard negatives 3:1 (default), focal, or the textbook's"
    )
    parser.add_argument(
        "--model", choices=_MODELS, help="the network: pyramid (default), or classic, that of the textbook"
    )
    parser.add_argument(
        "--backbone", metavar="NAME", help="a network of the library timm in place of pyramid's own backbone"
    )
    parser.add_argument(
        "--backbone-weights",
        metavar="FILE",
        help="what it begins with: 'pretrained' (default: timm downloads them), a file of weights, or 'none'",
    )
    parser.add_argument(
        "--init", type=Path, metavar="RUN", help="begin with the weights of another run; it may have other classes"
    )
    parser.add_argument(
        "--assigner",
        choices=_ASSIGNERS,
        help="which anchors learn an object (default: atss; greedy with --model classic)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, order and augmentation (default: 0)")
    add_machine_options(parser)
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="train with so many processes, each with a share of every batch and, where there are GPUs, one of its own "
        "(default: one)",
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from tinyssd.report.write import write_report
    from tinyssd.training.train import train

    if options.folder is not None:
        if options.data is not None:
            raise ConfigError(
                f"name the data set once: it stands there as {options.folder} and as --data {options.data}"
            )
        options.data = options.folder
    if options.processes is not None and options.processes != processes.count():
        return _launched(options)
    with processes.joined():
        run, config, sources = processes.from_first(_planned, options)
        say(describe(config, run))
        progress = train(config, run, resume=sources is None, sources=sources)
    if not progress.is_over(config.train):
        say(f"stopped in epoch {progress.epoch + 1}; continue with: tinyssd train --resume {run}")
        return EXIT_INTERRUPTED
    if not processes.is_first():
        return 0
    _draw_validation(run, config)
    page = write_report(run, config.train.device)
    say(f"done in {sum(row['seconds'] for row in progress.history):.0f} s of training; see {page}")
    return 0


def _launched(options: argparse.Namespace) -> int:
    from tinyssd.commands.launch import launch

    if options.processes < 1:
        raise ConfigError(f"--processes: expected at least 1, got {options.processes}")
    if processes.count() > 1:
        raise ConfigError(f"--processes {options.processes}: torchrun has started {processes.count()}; leave it out")
    return launch(options.processes, options.words)


def _planned(options: argparse.Namespace) -> tuple[Path, RunConfig, tuple[Source, Source] | None]:
    """The run folder, the configuration, and the pictures; None for those of a run that goes on, not opened yet."""
    from tinyssd.run.folder import refuse_used_folder

    run_and_config = resumed(options)
    if run_and_config is not None:
        return *run_and_config, None
    config, sources = _new_config(options)
    run = options.run or Path("runs") / f"{data_label(config.data.name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    refuse_used_folder(run)
    return run, config, sources


def _new_config(options: argparse.Namespace) -> tuple[RunConfig, tuple[Source, Source]]:
    """The defaults, over them the file of ``--config``, over that the options; and the pictures."""
    from dataclasses import asdict, replace

    from tinyssd.data.open import open_data
    from tinyssd.model.network import TinySSDConfig
    from tinyssd.model.pyramid import PyramidConfig
    from tinyssd.run.config import RunConfig

    values, classic = _base(options)
    _choose_backbone(options, values, classic)
    for section, settings in _given(options).items():
        values[section].update({key: value for key, value in settings.items() if value is not None})
    if "name" in values["data"]:
        values["data"]["name"] = data_name(values["data"]["name"])
    if classic and options.image_size is not None:
        values["model"]["image_size"] = (options.image_size, options.image_size)
    # The classes are those of the data, which are opened at the size of the network.
    network = TinySSDConfig if classic else PyramidConfig
    model = network(**{**values["model"], "num_classes": 2})
    draft = RunConfig.from_dict({**values, "class_names": (), "model": asdict(model)})
    sources = open_data(draft.data, draft.model.image_size, draft.train.seed, say=say)
    names = sources[0].class_names
    config = replace(draft, class_names=names, model=replace(draft.model, num_classes=len(names) + 1))
    if not classic:
        config = _fitted(config, values, sources[0], options.image_size)
    return config, sources


def _base(options: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], bool]:
    """The sections of the configuration without the options' values, and whether the network is the textbook's."""
    from tinyssd.model.build import config_type
    from tinyssd.model.network import TinySSDConfig
    from tinyssd.run.config import read_config_file
    from tinyssd.training.recipe import recipe_defaults

    values: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "train": {}, "loss": {}, "augment": {}}
    if options.config is not None:
        values.update(read_config_file(options.config))
    classic = options.model == "classic" or config_type(values["model"]) is TinySSDConfig
    if classic and options.model == "pyramid":
        raise ConfigError(f"--model pyramid: {options.config} holds the sizes and ratios of the classic network")
    if classic:
        return values, classic
    if options.loss is not None:
        raise ConfigError(f"--loss {options.loss}: is of the textbook's network; add --model classic")
    defaults = recipe_defaults()
    return {name: {**defaults.get(name, {}), **section} for name, section in values.items()}, classic


def _choose_backbone(options: argparse.Namespace, values: dict[str, dict[str, Any]], classic: bool) -> None:
    """Puts the backbone and where its weights come from into the sections of the configuration."""
    from tinyssd.model.backbone import PRETRAINED, full_name

    name = options.backbone or values["model"].get("backbone")
    source = options.backbone_weights
    if classic and name is not None:
        raise ConfigError(f"--backbone {name}: the network of the textbook has its own; leave out --model classic")
    if not name:
        if source is not None:
            raise ConfigError(f"--backbone-weights {source}: of which network? Name it with --backbone")
        return
    if source is not None and options.init is not None:
        raise ConfigError("--backbone-weights and --init both say what the backbone begins with; leave out one of them")
    if source not in (None, "none", PRETRAINED):
        if not Path(source).is_file():
            raise ConfigError(f"--backbone-weights {source}: no such file")
        source = str(Path(source).resolve())
    values["model"]["backbone"] = full_name(name)
    if source is not None:
        values["train"]["backbone_weights"] = "" if source == "none" else source
    elif options.init is not None:
        values["train"]["backbone_weights"] = ""  # Those of the other run.
    else:
        values["train"].setdefault("backbone_weights", PRETRAINED)


def _given(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the options say, by section; None where they say nothing."""
    from tinyssd.model.loss import LossConfig

    given = {
        "data": {
            "name": options.data,
            "train": options.train,
            "val": options.val,
            "format": options.format,
            "classes": class_names(options.classes),
            "strict": options.strict,
        },
        "train": {
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "learning_rate": options.lr,
            "init": None if options.init is None else str(options.init.resolve()),
            "seed": options.seed,
            "device": options.device,
            "workers": options.workers,
        },
        "loss": {**_loss_values(options.loss, LossConfig.classic()), "assigner": options.assigner},
    }
    if options.loss == "classic":
        given["train"] |= {"match_iou": 0.5, "ignore_iou": 0.5}
    return given


def _fitted(config: RunConfig, values: dict[str, dict[str, Any]], source: Source, longer_side: int | None) -> RunConfig:
    """Input, anchors and length by the training pictures, where they are not given."""
    from dataclasses import replace

    from tinyssd.model.backbone import expect_maps
    from tinyssd.model.pyramid import STRIDES, PyramidConfig
    from tinyssd.training.recipe import average_kept, fit, length, training_objects

    if longer_side is not None and longer_side < STRIDES[-1]:
        raise ConfigError(f"--image-size: expected at least {STRIDES[-1]}, got {longer_side}")
    model, train = config.model, config.train
    assert isinstance(model, PyramidConfig)  # The textbook's network keeps its own anchors.
    if "anchors" not in values["model"]:
        fitted = fit(training_objects(source), values["model"].get("image_size"), longer_side)
        say(str(fitted))
        model = replace(model, image_size=fitted.image_size, anchors=fitted.anchors)
    if "epochs" not in values["train"]:
        train = replace(train, **length(len(source), train.batch_size))
    if "ema" not in values["train"]:
        steps = train.epochs * train.passes * len(source) // train.batch_size
        train = replace(train, ema=average_kept(steps))
    if model.backbone:
        expect_maps(model.backbone, model.image_size, STRIDES)
    return replace(config, model=model, train=train)


def _loss_values(name: str | None, classic: Any) -> dict[str, Any]:
    if name == "classic":
        return {"classes": classic.classes, "boxes": classic.boxes, "normalize": classic.normalize}
    return {"classes": name}


def _draw_validation(run: Path, config: RunConfig) -> None:
    from tinyssd.data.open import open_data
    from tinyssd.prediction.gallery import save_predictions
    from tinyssd.run.checkpoint import load_model

    trained = load_model(run)
    _, source = open_data(config.data, config.model.image_size, config.train.seed)
    save_predictions(trained.model, source, run / "predictions.png", trained.score_thresholds)
