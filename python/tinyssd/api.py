"""Train, use and export a detector from Python, in the words of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tinyssd.commands.train import add
from tinyssd.errors import ConfigError, DataError, TrainingError
from tinyssd.run.checkpoint import Trained, load_model
from tinyssd.run.folder import latest_run

if TYPE_CHECKING:
    from PIL import Image

    from tinyssd.prediction.predict import Detection


class Run:
    """A trained network and the folder it lies in.

    Args:
        folder: A run folder, or a checkpoint; None: the latest run in ``runs/``.
        device: Where the network goes.

    Attributes:
        folder: The run folder.
        trained: The network, its configuration and its thresholds.

    Raises:
        CheckpointError: If there is no usable checkpoint.
    """

    def __init__(self, folder: Path | str | None = None, device: str = "cpu") -> None:
        path = latest_run() if folder is None else Path(folder)
        self.trained: Trained = load_model(path, device)
        self.folder = path if path.is_dir() else path.parent

    def predict(self, picture: Path | str | Image.Image, score: float | None = None) -> list[Detection]:
        """The objects in a picture, by falling confidence, their boxes as shares of it.

        Args:
            picture: A file, or a picture that is upright already.
            score: The least confidence; None: the best one on the run's validation pictures.

        Raises:
            DataError: If the file is no picture.
            ConfigError: If ``score`` is not within 0..1.
            TypeError: If ``picture`` is neither, such as an array, which may be BGR: ``Image.fromarray`` takes RGB.
        """
        from PIL import Image

        from tinyssd.data.images import read_picture
        from tinyssd.prediction.predict import predict_picture

        if not isinstance(picture, (str, Path, Image.Image)):
            raise TypeError(f"picture: expected a file or a picture of Pillow, got {type(picture).__name__}")
        if score is not None and not 0 <= score <= 1:
            raise ConfigError(f"score: expected a number from 0 to 1, got {score}")
        image = read_picture(Path(picture)) if isinstance(picture, (str, Path)) else picture
        threshold = self.trained.score_thresholds if score is None else score
        return predict_picture(self.trained.model, image, self.trained.config.class_names, threshold)

    def export(self, *formats: str, out: Path | str | None = None) -> list[Path]:
        """Writes the network for other programs, as ``tinyssd export`` does, and compares what was written.

        Args:
            formats: "onnx", "aoti" or "torchscript"; none: "onnx".
            out: The folder; None: ``export`` in the run folder.

        Returns:
            The files.

        Raises:
            ConfigError: If a format cannot be written here.
            DataError: If the run's validation pictures, which are compared on, are not there any more.
        """
        from tinyssd.commands.export import compared_pictures
        from tinyssd.export.deployed import deployed
        from tinyssd.export.formats import FORMATS
        from tinyssd.export.write import export

        wanted = formats or ("onnx",)
        if unknown := [name for name in wanted if name not in FORMATS]:
            raise ConfigError(f"formats: expected some of {', '.join(FORMATS)}, got {', '.join(unknown)}")
        config = self.trained.config
        folder = self.folder / "export" if out is None else Path(out)
        written = export(deployed(self.trained), config, wanted, folder, compared_pictures(config, None))
        return [one.path for one in written]

    def report(self) -> Path:
        """Writes the run's page, as ``tinyssd report`` does; returns its path."""
        from tinyssd.report.write import write_report

        return write_report(self.folder)


def train(
    data: Path | str,
    run: Path | str | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    backbone: str | None = None,
    backbone_weights: Path | str | None = None,
    init: Path | str | None = None,
    seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Run:
    """Trains a detector as ``tinyssd train`` does; what is None is as it is there.

    Args:
        data: A folder of labelled pictures, or "synthetic" or "banana".
        run: The run folder; None: one in ``runs/``.
        epochs: Passes over the training pictures.
        batch_size: Pictures a step.
        image_size: The longer side of the network's input in pixels.
        backbone: A network of timm that takes the place of the network's own backbone.
        backbone_weights: What it begins with: "pretrained" (as timm has them), a file of weights, or "none".
        init: A run, with whose weights this one begins; it may have other classes.
        seed: Of weights, order and augmentation.
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: Processes that read pictures.

    Raises:
        DataError: If the data cannot be used.
        ConfigError: If a setting makes no sense, or the run folder holds something already.
        CheckpointError: If ``init`` is no run that can be used.
        BackboneError: If the backbone or its weights cannot be had.
        TrainingError: If the loss is infinite or NaN, or Ctrl-C stopped the run.
    """
    given = {
        "run": run,
        "epochs": epochs,
        "batch-size": batch_size,
        "image-size": image_size,
        "backbone": backbone,
        "backbone-weights": backbone_weights,
        "init": init,
        "seed": seed,
        "device": device,
        "workers": workers,
    }
    if str(data).startswith("-"):
        raise DataError(f"{data}: no such folder")
    words = ["train", str(data)]
    words += [f"--{name}={value}" for name, value in given.items() if value is not None]
    parser = argparse.ArgumentParser(exit_on_error=False)
    add(parser.add_subparsers())
    options = parser.parse_args(words)
    if options.command(options) != 0:
        raise TrainingError("the run was stopped before its end")
    return Run(run)  # The latest, where none was named.
