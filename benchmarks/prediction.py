"""``python -m benchmarks.prediction``: pictures a second of prediction, network, decoding and suppression included.

The network is exported as it would be for use, and the sides run in one process, turn by turn: the eager network, as
``tinyssd predict`` uses it, the AOTInductor package (``--aoti``: its compilation takes a minute), and onnxruntime on
the ONNX file. Decoding and scaling of photographs are not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor


def main(argv: Sequence[str]) -> int:
    """Measures; prints a table."""
    options = _parse(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; pictures/s, medians of {options.rounds} rounds"
    )
    print("| pixels | batch | " + " | ".join(_sides(options)) + " |")
    print("|---" * (2 + len(_sides(options))) + "|")
    for size in options.sizes:
        sides = _load(size, options)
        for batch in options.batches:
            images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
            rates = _measure(list(sides.values()), images, options.rounds)
            print(
                f"| {size[1]}x{size[0]} | {batch} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |", flush=True
            )
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prediction", description=(__doc__ or "").split("\n\n")[0].partition(": ")[2]
    )
    parser.add_argument("--run", type=Path, help="a run folder (default: the default network with random weights)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="pixels (default: 256 512)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="pictures at once (default: 1 8)")
    parser.add_argument("--rounds", type=int, default=15, help="of every side (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="(default: torch's)")
    parser.add_argument("--aoti", action="store_true", help="the AOTInductor package too")
    options = parser.parse_args(argv)
    if options.run is not None:
        from tinyssd.run.checkpoint import load_model

        options.sizes = [load_model(options.run).config.model.image_size]
    else:
        options.sizes = [(side, side) for side in options.sizes]
    return options


def _sides(options: argparse.Namespace) -> list[str]:
    return ["eager", *(["AOTInductor"] if options.aoti else []), "onnxruntime"]


def _load(size: tuple[int, int], options: argparse.Namespace) -> dict[str, Callable[[Tensor], object]]:
    """The sides at one size of the input."""
    from tinyssd.export.deployed import Deployed, deployed
    from tinyssd.export.formats import FORMATS
    from tinyssd.model.network import TinySSD
    from tinyssd.run.checkpoint import load_model

    torch.manual_seed(0)
    # A random network finds something everywhere; this threshold leaves about as much as a trained one finds.
    fresh = Deployed(TinySSD(4, image_size=size), (0.5,) * 3)
    model = (deployed(load_model(options.run)) if options.run else fresh).eval()
    sides: dict[str, Callable[[Tensor], object]] = {"eager": model}
    images = torch.zeros(2, 3, *size, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("aoti", "onnx") if options.aoti else ("onnx",):
            path = Path(folder) / FORMATS[name].file
            FORMATS[name].write(model, images, path, {})
            sides[name] = FORMATS[name].load(path)
    return sides


def _measure(sides: Sequence[Callable[[Tensor], object]], images: Tensor, rounds: int) -> list[float]:
    """Pictures a second of each side."""
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 2):
        for side, times in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side(images)
            if turn >= 2:  # The first ones find their memory.
                times.append(time.perf_counter() - start)
    return [len(images) / statistics.median(times) for times in seconds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
