"""``python -m benchmarks.prediction``: pictures a second of prediction, network, decoding and suppression included.

The default network is exported as it would be for use, and the sides run in one process, turn by turn: the network
folded, as ``tinyssd predict`` uses it, and as it was trained, the AOTInductor package (``--aoti``, whose compilation
takes a minute), and onnxruntime on the ONNX file. Decoding and scaling of photographs are not counted. On one thread
the times are the processor's.

``--json`` keeps the result; ``python -m benchmarks.speed`` makes the table of docs/detector.md of what is kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tinyssd.data.loader import to_input
from tinyssd.export.deployed import Deployed, deployed
from tinyssd.export.formats import FORMATS
from tinyssd.model.fold import folded
from tinyssd.model.pyramid import PyramidSSD
from tinyssd.run.checkpoint import load_model
from torch import Tensor

from benchmarks import speed
from benchmarks.measure import Timed, side_by_side


def main(argv: Sequence[str]) -> int:
    """Measures; prints a line for each side."""
    options = _parse(argv)
    torch.set_num_threads(options.threads)
    result = speed.describe("prediction", argv)
    for size in options.sizes:
        sides = _load(size, options)
        for batch in options.batches:
            images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
            timed = [Timed(side, [(images,)]) for side in sides.values()]
            for one in timed:
                one.run(images)
            for name, timing in zip(sides, side_by_side(timed, torch.device("cpu"), options.seconds), strict=True):
                result.rows.append(speed.Row("default", (size[1], size[0]), batch, name, timing.median, timing.samples))
                print(f"{size[1]}x{size[0]}, batch {batch}, {name}: {batch / timing.median:.1f} pictures/s", flush=True)
        if options.json is not None:
            speed.save(result, options.json)  # After each, so that a run that is cut off leaves what it measured.
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prediction", description=(__doc__ or "").split("\n\n")[0].partition(": ")[2]
    )
    parser.add_argument("--run", type=Path, help="a run folder (default: the default network with random weights)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="pixels (default: 256 512)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="pictures at once (default: 1 8)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for every side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of every side (default: %(default)s)")
    parser.add_argument("--aoti", action="store_true", help="the AOTInductor package too")
    parser.add_argument("--json", type=Path, metavar="OUT", help="keep the result in this file")
    options = parser.parse_args(argv)
    if options.run is not None:
        options.sizes = [load_model(options.run).config.model.image_size]
    else:
        options.sizes = [(side, side) for side in options.sizes]
    return options


def _load(size: tuple[int, int], options: argparse.Namespace) -> dict[str, Callable[[Tensor], object]]:
    """The sides at one size of the input, height and width."""
    torch.manual_seed(0)
    if options.run:
        model = deployed(load_model(options.run))
    else:
        network = PyramidSSD(4, image_size=size).eval()
        with torch.no_grad():
            _, scores, _ = network(to_input(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)))
        # Some dozens of a picture's anchors reach it, as in a trained network.
        model = Deployed(network, (scores.sigmoid().quantile(0.99).item(),) * 3)
    sides: dict[str, Callable[[Tensor], object]] = {"ours": _folded(model.eval()), "not folded": model}
    images = torch.zeros(2, 3, *size, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("aoti", "onnx") if options.aoti else ("onnx",):
            path = Path(folder) / FORMATS[name].file
            FORMATS[name].write(model, images, path, {})
            sides[name] = _session(path) if name == "onnx" else FORMATS[name].load(path)
    return sides


def _folded(model: Any) -> Callable[[Tensor], object]:
    """What ``tinyssd predict`` does."""
    network = folded(model.model)

    @torch.no_grad()
    def predict(images: Tensor) -> object:
        outputs = network(to_input(images, channels_last=True))
        return network.select(*outputs, model.score_threshold)

    return predict


def _session(path: Path) -> Callable[[Tensor], object]:
    """onnxruntime with as many threads as torch has."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path.read_bytes(), settings, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
