"""The command line: ``tinyssd train|eval|predict|demo|info``.

Each command imports what it needs when it runs, so ``--help`` does not wait for Torch.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyssd.errors import CheckpointError, ConfigError, TinySSDError

if TYPE_CHECKING:
    from tinyssd.config import RunConfig
    from tinyssd.evaluate import Metrics

_EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130

_DEMO_RUN = Path("runs/demo")
_LOSSES = ("mined", "focal", "classic")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Without the program's name; None takes the command line's.

    Returns:
        The exit status: 0, 2 after an error that was reported, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    # Threads that spin while they wait take the cores from the processes that read pictures, and from other programs:
    # with one of two cores taken, a training ran at 33 pictures a second in place of 46. Read when Torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return options.command(options)
    except ModuleNotFoundError as error:
        print(f"tinyssd: error: no module named {error.name}: pip install '.[train]' installs it", file=sys.stderr)
        return _EXIT_ERROR
    except (TinySSDError, OSError, ImportError) as error:
        _print_error(error)
        return _EXIT_ERROR
    except KeyboardInterrupt:
        print("tinyssd: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED


def _print_error(error: Exception) -> None:
    named = isinstance(error, OSError) and error.filename is not None
    print(f"tinyssd: error: {f'{error.filename}: {error.strerror}' if named else error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tinyssd", description="Train a small detector and use it.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train on a data set",
        description="Train a detector. The run folder keeps config.json, metrics.jsonl, curves.png, predictions.png "
        "and checkpoint.pt.",
        epilog="A folder of your own: DIR/NAME_train/label.csv (img_name,label,xmin,ymin,xmax,ymax; a line a box, in "
        "pixels, classes from 0; 'img_name,,,,,' for a picture without objects), DIR/NAME_train/images/, the same for "
        "DIR/NAME_val, and, if you like, DIR/classes.txt with a class name a line.",
    )
    train.add_argument("--data", help="'synthetic' (default), 'banana', or a folder with NAME_train/ and NAME_val/")
    train.add_argument("--run", type=Path, metavar="DIR", help="the run folder (default: runs/DATA-DATE-TIME)")
    train.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in DIR, with its own settings")
    train.add_argument(
        "--config", type=Path, metavar="FILE", help="a JSON file like a run's config.json, or parts of one"
    )
    train.add_argument("--epochs", type=int, metavar="N", help="passes over the training pictures (default: 9)")
    train.add_argument("--batch-size", type=int, metavar="N", help="pictures a step (default: 32)")
    train.add_argument("--lr", type=float, metavar="RATE", help="peak of the learning rate (default: 0.004)")
    train.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the network's input (default: 256)")
    train.add_argument("--loss", choices=_LOSSES, help="hard negatives 3:1 (default), focal, or the textbook's")
    train.add_argument("--seed", type=int, metavar="N", help="of weights, order and augmentation (default: 0)")
    _add_machine_options(train)
    train.set_defaults(command=_train)

    evaluation = commands.add_parser(
        "eval",
        help="evaluate a run",
        description="Evaluate on validation pictures; writes eval.json and predictions.png into the run folder.",
    )
    evaluation.add_argument("run", type=Path, nargs="?", help="a run folder (default: the latest in runs/)")
    evaluation.add_argument("--data", help="another data set than the run's, of the same classes")
    _add_machine_options(evaluation)
    evaluation.set_defaults(command=_eval)

    predict = commands.add_parser(
        "predict",
        help="find objects in pictures",
        description="Draw the objects found and write predictions.json: the boxes (x1, y1, x2, y2) in pixels of the "
        "pictures, which are turned upright. Small pictures are drawn enlarged.",
    )
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="picture files, or folders of them")
    predict.add_argument(
        "--out",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    predict.add_argument(
        "--run", type=Path, metavar="DIR", help="a run folder or a checkpoint (default: the latest in runs/)"
    )
    predict.add_argument(
        "--score",
        type=float,
        metavar="P",
        help="least confidence, 0 to 1 (default: the best one on the run's validation pictures)",
    )
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    predict.set_defaults(command=_predict)

    demo = commands.add_parser(
        "demo",
        help="train and evaluate on generated pictures, in a few minutes",
        description="Train on generated pictures, evaluate on others, draw the results.",
    )
    demo.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help=f"the run folder (default: {_DEMO_RUN}, an older demo there is replaced)",
    )
    demo.add_argument("--epochs", type=int, metavar="N", help="passes over the training pictures (default: 6)")
    demo.add_argument("--pictures", type=int, metavar="N", help="training pictures an epoch (default: 1200)")
    demo.add_argument(
        "--test-pictures", type=int, metavar="N", default=300, help="held-out pictures (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, metavar="N", default=0, help="of weights and pictures (default: %(default)s)")
    _add_machine_options(demo)
    demo.set_defaults(command=_demo)

    info = commands.add_parser("info", help="versions, and which backend serves which op")
    info.set_defaults(command=_info)
    return parser


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: by the number of cores)"
    )


def _train(options: argparse.Namespace) -> int:
    from tinyssd.train import train

    if options.resume is not None:
        run, config = options.resume, _resumed_config(options)
    else:
        config = _new_config(options)
        run = options.run or Path("runs") / f"{_data_label(config.data.name)}-{time.strftime('%Y%m%d-%H%M%S')}"
        _refuse_used_folder(run)
    print(_describe(config, run), flush=True)
    progress = train(config, run, resume=options.resume is not None)
    if progress.epoch < config.train.epochs:
        print(f"stopped in epoch {progress.epoch + 1}; continue with: tinyssd train --resume {run}")
        return _EXIT_INTERRUPTED
    _draw_validation(run, config)
    print(f"done in {sum(row['seconds'] for row in progress.history):.0f} s of training; see {run}/predictions.png")
    return 0


def _refuse_used_folder(run: Path) -> None:
    if (run / "checkpoint.pt").exists():
        raise ConfigError(
            f"{run}: holds a run already; continue it with 'tinyssd train --resume {run}', or choose another --run"
        )


def _eval(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from tinyssd.checkpoint import latest_run, load_model, write_json
    from tinyssd.data import Pictures, default_workers, make_loader
    from tinyssd.errors import DataError
    from tinyssd.evaluate import evaluate
    from tinyssd.gallery import save_predictions
    from tinyssd.sources import open_data
    from tinyssd.train import pick_device

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
    print(_metrics_table(metrics, config.class_names))
    if run.is_dir():
        save_predictions(model, source, run / "predictions.png", trained.score_threshold)
        write_json(run / "eval.json", {"data": data.name, "pictures": len(source), **metrics.to_dict()})
        print(f"wrote eval.json and predictions.png to {run}/")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from tinyssd.checkpoint import latest_run, load_model
    from tinyssd.predict import find_pictures, predict_files
    from tinyssd.train import pick_device

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
        _print_error(error)
    return _EXIT_ERROR if errors else 0


def _demo(options: argparse.Namespace) -> int:
    from tinyssd.demo import demo_config, report
    from tinyssd.train import train

    if options.test_pictures < 1:
        raise ConfigError(f"--test-pictures: expected at least 1, got {options.test_pictures}")
    if options.run is not None:
        _refuse_used_folder(options.run)
    run = options.run or _DEMO_RUN
    started = time.perf_counter()
    sizes = {"epochs": options.epochs, "train_size": options.pictures}
    config = demo_config(
        **{name: value for name, value in sizes.items() if value is not None},
        device=options.device or "auto",
        workers=options.workers,
        seed=options.seed,
    )
    print(_describe(config, run), flush=True)
    progress = train(config, run)
    if progress.epoch < config.train.epochs:
        print(f"stopped in epoch {progress.epoch + 1}; continue with: tinyssd train --resume {run}")
        return _EXIT_INTERRUPTED
    metrics = report(run, options.device or "auto", options.test_pictures)
    print("\non held-out pictures:")
    print(_metrics_table(metrics, config.class_names))
    print(f"\ndone in {time.perf_counter() - started:.0f} s; look at")
    for name in ("predictions.png", "curves.png", "anchors.png"):
        print(f"  {run / name}")
    return 0


def _info(options: argparse.Namespace) -> int:
    import importlib.metadata

    import tinyssd_ops

    _print_tree(tinyssd_ops.info())
    print("application:")
    for package in ("numpy", "pillow", "matplotlib", "tqdm", "pycocotools"):
        try:
            print(f"  {package}: {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {package}: not installed")
    return 0


def _print_tree(values: dict[str, Any], indent: str = "") -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:" if value else f"{indent}{name}: none")
            _print_tree(value, indent + "  ")
        else:
            print(f"{indent}{name}: {value}")


def _new_config(options: argparse.Namespace) -> RunConfig:
    """The defaults, over them the file of ``--config``, over that the options."""
    from dataclasses import replace

    from tinyssd.config import RunConfig, read_config_file
    from tinyssd.loss import LossConfig
    from tinyssd.sources import open_data

    values: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "train": {}, "loss": {}, "augment": {}}
    if options.config is not None:
        values.update(read_config_file(options.config))
    given = {
        "data": {"name": options.data},
        "model": {"image_size": None if options.image_size is None else (options.image_size, options.image_size)},
        "train": {
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "learning_rate": options.lr,
            "seed": options.seed,
            "device": options.device,
            "workers": options.workers,
        },
        "loss": _loss_values(options.loss, LossConfig.classic()),
    }
    if options.loss == "classic":
        given["train"] |= {"match_iou": 0.5, "ignore_iou": 0.5}
    for section, settings in given.items():
        values[section] = {
            **values[section],
            **{key: value for key, value in settings.items() if value is not None},
        }
    if values["data"].get("name", "synthetic") not in ("synthetic", "banana"):
        # A run can be resumed from another folder.
        values["data"]["name"] = str(Path(values["data"]["name"]).resolve())
    # The classes are those of the data, which are opened at the size of the network.
    draft = RunConfig.from_dict({**values, "class_names": (), "model": {**values["model"], "num_classes": 2}})
    source, _ = open_data(draft.data, draft.model.image_size)
    return replace(
        draft,
        class_names=source.class_names,
        model=replace(draft.model, num_classes=len(source.class_names) + 1),
    )


def _loss_values(name: str | None, classic: Any) -> dict[str, Any]:
    if name == "classic":
        return {"classes": classic.classes, "boxes": classic.boxes, "normalize": classic.normalize}
    return {"classes": name}


def _resumed_config(options: argparse.Namespace) -> RunConfig:
    """The configuration of a run that is to be continued; only the machine's part may change."""
    from dataclasses import replace

    from tinyssd.checkpoint import checkpoint_path, load_checkpoint, made_by_this_version
    from tinyssd.config import RunConfig

    fixed = ("data", "run", "config", "epochs", "batch_size", "lr", "image_size", "loss", "seed")
    given = [f"--{name.replace('_', '-')}" for name in fixed if getattr(options, name) is not None]
    if given:
        raise ConfigError(f"--resume continues a run with its own settings; leave out {', '.join(given)}")
    if not options.resume.is_dir():
        raise CheckpointError(f"{options.resume}: no such run folder")
    file = checkpoint_path(options.resume)
    contents = load_checkpoint(file)
    with made_by_this_version(file):
        config = RunConfig.from_dict(contents["config"])
    train = replace(
        config.train,
        device=options.device or config.train.device,
        workers=config.train.workers if options.workers is None else options.workers,
    )
    return replace(config, train=train)


def _draw_validation(run: Path, config: RunConfig) -> None:
    from tinyssd.checkpoint import load_model
    from tinyssd.gallery import save_predictions
    from tinyssd.sources import open_data

    trained = load_model(run)
    _, source = open_data(config.data, config.model.image_size, config.train.seed)
    save_predictions(trained.model, source, run / "predictions.png", trained.score_threshold)


def _data_label(name: str) -> str:
    return Path(name).name or "data"


def _describe(config: RunConfig, run: Path) -> str:
    from tinyssd.train import pick_device

    height, width = config.model.image_size
    classes = ", ".join(config.class_names)
    return (
        f"training on {_data_label(config.data.name)} ({classes}) at {width}x{height} pixels for "
        f"{config.train.epochs} epochs on {pick_device(config.train.device)}; run folder {run}"
    )


def _metrics_table(metrics: Metrics, class_names: Sequence[str]) -> str:
    rows = [
        ("AP50", f"{metrics.ap50:.3f}"),
        ("AP", f"{metrics.ap:.3f}"),
        *((f"AP, {name}", f"{ap:.3f}") for name, ap in zip(class_names, metrics.ap_per_class, strict=True)),
        ("class error", f"{metrics.class_error:.2e}"),
        ("offset MAE", f"{metrics.offset_mae:.3f}"),
        ("best confidence threshold", f"{metrics.best_threshold:.2f}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


if __name__ == "__main__":
    sys.exit(main())
