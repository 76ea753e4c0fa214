"""``python -m benchmarks.training``: a step of training beside a plain loop, its network and its convolutions alone.

Batches of 32 pictures of 256x256 pixels, drawn at random with eight objects each, for the default network and the
textbook's. Every side is a process of its own, which takes its turns while the others wait: our way of keeping freed
memory holds for a whole process, and the plain loop is to go without. The figures are times of the processor, which
say what a step costs on a busy machine too; reading pictures is not counted.

``--json`` keeps the result; ``python -m benchmarks.speed`` makes the table of docs/detector.md of what is kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tinyssd.data.loader import to_input
from tinyssd.model.build import build
from tinyssd.model.loss import LossConfig
from tinyssd.model.network import TinySSDConfig
from tinyssd.model.pyramid import PyramidConfig
from tinyssd.run.config import RunConfig, TrainConfig
from tinyssd.training.criterion import batch_loss
from tinyssd.training.recipe import RECIPE
from tinyssd.training.state import State
from tinyssd.training.targets import ignored_boxes
from tinyssd.training.train import _keep_freed_memory
from torch import Tensor, nn

import tinyssd_ops
from benchmarks import inputs, speed

_CLASSES, _OBJECTS = ("a", "b", "c"), 8

Step = Callable[[], object]


def main(argv: Sequence[str]) -> int:
    """Measures; prints a line for each network and side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="(default: all)")
    parser.add_argument("--side", type=int, default=256, help="of the pictures, pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="of every side (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="keep the result in this file")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = speed.describe("training", argv)
    for network in options.networks:
        config = NETWORKS[network](options.side, options.batch)
        size, measured = (options.side, options.side), _measure(config, options.sides, options.rounds)
        for name, times in zip(options.sides, measured, strict=True):
            row = speed.Row(network, size, options.batch, name, statistics.median(times), options.rounds)
            result.rows.append(row)
            print(f"{network}, {name}: {row.seconds * 1e3:.0f} ms a step", flush=True)
        if options.json is not None:
            speed.save(result, options.json)  # After each, so that a run that is cut off leaves what it measured.
    return 0


def _measure(config: RunConfig, sides: Sequence[str], rounds: int) -> list[list[float]]:
    """Seconds of the processor of each step of each side."""
    # A forked process need not import all of torch anew, nor has this one any thread that it could miss.
    context = multiprocessing.get_context("fork")
    seconds: list[list[float]] = [[] for _ in sides]
    runners = []
    for name in sides:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(config, name, theirs, [ours, *(one for _, one in runners)]), daemon=True
        )
        process.start()
        theirs.close()
        runners.append((process, ours))
    for turn in range(rounds + 2):
        for (_, connection), times in zip(runners, seconds, strict=True):
            connection.send(turn)
            taken = connection.recv()
            if turn >= 2:  # The first ones find their memory, and compile.
                times.append(taken)
    for process, connection in runners:
        connection.send(None)
        process.join()
    return seconds


def _serve(config: RunConfig, name: str, connection: Connection, inherited: Sequence[Connection]) -> None:
    """Takes a step whenever asked, and answers its seconds; ends at None, or when the asking process is gone."""
    for one in inherited:
        one.close()
    torch.manual_seed(0)
    step = SIDES[name](config)
    while connection.recv() is not None:
        started = time.process_time()
        step()
        connection.send(time.process_time() - started)


def _batch(config: RunConfig) -> tuple[Tensor, Tensor]:
    """Pictures as a loader gives them, and their labels."""
    images = torch.randint(0, 256, (config.train.batch_size, 3, *config.model.image_size), dtype=torch.uint8)
    return images, inputs.labels(len(images), _OBJECTS, len(_CLASSES), 0)


def _ours(config: RunConfig, forward: Callable[[nn.Module], Any] = lambda model: model) -> Step:
    """What the loop of tinyssd.training.train does with a batch; ``forward`` makes of a network what is called."""
    _keep_freed_memory()
    images, labels = _batch(config)
    # So many steps that the learning rate stays next to nothing: the network must not diverge on noise.
    state = State.start(config, torch.device("cpu"), 1_000_000)
    state.model.train()
    network = forward(state.model)

    def step() -> Tensor:
        outputs = network(to_input(images, config.train.channels_last))
        loss, _ = batch_loss(outputs, labels, ignored_boxes(labels), config)
        state.step(loss, config.train.clip)
        return loss.detach()

    return step


def _plain(config: RunConfig) -> Step:
    """The loop of a textbook: the same network and loss, plain Torch in place of our kernels, torch's defaults."""
    images, labels = _batch(config)
    pixels = images.float() / 127.5 - 1
    model = build(config.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> Tensor:
        # No device has a kernel: every op is the Torch reference.
        with mock.patch.object(tinyssd_ops.ops, "_NATIVE_DEVICES", frozenset()):
            loss, _ = batch_loss(model(pixels), labels, ignored_boxes(labels), config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _network(config: RunConfig) -> Step:
    """The network forward and backward, without loss and optimizer."""
    _keep_freed_memory()
    model, pixels = _prepared(config)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        _, scores, offsets = model(pixels)
        torch.autograd.backward((scores, offsets), (torch.ones_like(scores), torch.ones_like(offsets)))

    return step


def _convolutions(config: RunConfig) -> Step:
    """Each convolution of the network alone, forward and backward, on what it gets within the network."""
    _keep_freed_memory()
    model, pixels = _prepared(config)
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        # Pictures need no gradient, everything else does.
        calls.append((layer, given[0].detach().requires_grad_(given[0].requires_grad), torch.ones_like(output)))

    hooks = [one.register_forward_hook(keep) for one in model.modules() if isinstance(one, nn.Conv2d)]
    model(pixels)
    for hook in hooks:
        hook.remove()

    def step() -> None:
        for layer, given, gradient in calls:
            wanted = [*layer.parameters(), *([given] if given.requires_grad else [])]
            torch.autograd.grad(layer(given), wanted, gradient)

    return step


def _prepared(config: RunConfig) -> tuple[nn.Module, Tensor]:
    model = build(config.model).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # An overload that torch leaves untyped.
    return model, to_input(_batch(config)[0], channels_last=True)


def _contiguous(config: RunConfig) -> Step:
    """Ours with the channels of a picture one after the other."""
    return _ours(replace(config, train=replace(config.train, channels_last=False)))


def _bfloat16(config: RunConfig) -> Step:
    """Ours with the network under autocast."""

    def forward(model: nn.Module) -> Callable[[Tensor], Any]:
        def call(images: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return model(images)

        return call

    return _ours(config, forward)


def _compiled(config: RunConfig) -> Step:
    """Ours with a compiled network."""
    return _ours(config, torch.compile)


def _pyramid(side: int, batch: int) -> RunConfig:
    settings = {**RECIPE, "batch_size": batch, "ema": 0.99}
    network = PyramidConfig(len(_CLASSES) + 1, (side, side))
    return RunConfig(_CLASSES, network, train=TrainConfig(**settings), loss=LossConfig.aligned())


def _classic(side: int, batch: int) -> RunConfig:
    network = TinySSDConfig(len(_CLASSES) + 1, (side, side))
    return RunConfig(_CLASSES, network, train=TrainConfig(batch_size=batch))


NETWORKS = {"default": _pyramid, "classic": _classic}
SIDES: dict[str, Callable[[RunConfig], Step]] = {
    "ours": _ours,
    "plain loop": _plain,
    "network alone": _network,
    "convolutions alone": _convolutions,
    "contiguous": _contiguous,
    "bfloat16": _bfloat16,
    "compiled": _compiled,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
