"""Several processes train as one does, stop together, and end together where one of them fails."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import tempfile
import time

import numpy as np
import pytest
import torch
from app_training import CONFIG, interrupt_at, results
from test_app_pyramid import SMALL
from tinyssd import processes
from tinyssd.cli import main
from tinyssd.commands import launch as launching
from tinyssd.commands.advice import out_of_resources
from tinyssd.errors import ConfigError
from tinyssd.model.batch_norm import SharedBatchNorm, share_statistics
from tinyssd.model.device import pick_device
from tinyssd.model.loss import LossConfig
from tinyssd.run.checkpoint import load_checkpoint
from tinyssd.training import train as training
from tinyssd.training.train import train
from torch import nn

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or "fork" not in multiprocessing.get_all_start_methods(),
    reason="needs torch.distributed and processes that fork",
)

PYRAMID = dataclasses.replace(CONFIG, model=dataclasses.replace(SMALL, num_classes=4), loss=LossConfig.aligned())


def in_two(function, *arguments, machines=1):
    """What a function returns, or the exception that it raises, in two forked processes that know of each other.

    With two ``machines`` each takes the other to be on another one.
    """
    context, port = multiprocessing.get_context("fork"), launching._free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    started = [
        context.Process(target=_as_one_of_two, args=(rank, port, 2 // machines, pipe[1], function, arguments))
        for rank, pipe in enumerate(pipes)
    ]
    for process in started:
        process.start()
    for _, end in pipes:
        end.close()  # Else a process that dies would leave its reader waiting.
    answers = [_received(pipe[0]) for pipe in pipes]
    for process in started:
        process.join(30)
        assert process.exitcode is not None
    return answers


def _received(pipe):
    try:
        return pipe.recv()
    except EOFError:
        return None


def _as_one_of_two(rank, port, here, pipe, function, arguments):
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["LOCAL_WORLD_SIZE"] = str(here)
    try:
        with processes.joined():
            pipe.send(function(*arguments))
    except (Exception, SystemExit) as error:
        pipe.send(error)


def trained(config, run, resume=False):
    progress = train(config, run, resume)
    return progress.epoch, progress.step, [row["loss"] for row in progress.history]


def kept(run, part):
    """The tensors of a part of a checkpoint, one after another: [N]."""
    contents = load_checkpoint(run / "checkpoint.pt")
    if part == "gradients":
        tensors = [state["exp_avg"] for state in contents["optimizer"]["state"].values()]
    else:
        tensors = [one for name, one in contents["trained"].items() if name.rpartition(".")[2] == part]
    return torch.cat([one.flatten() for one in tensors])


@pytest.mark.parametrize("config", [CONFIG, PYRAMID], ids=["classic", "pyramid"])
def test_two_processes_train_as_one_does(tmp_path, config):
    # A rate that hardly moves the weights: their steps would follow the signs of gradients that are next to nothing.
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1, learning_rate=1e-9))
    one = trained(config, tmp_path / "one")
    first, second = in_two(trained, config, tmp_path / "two")
    assert first == second
    assert first[2] == pytest.approx(one[2], rel=1e-5)
    # An activation next to 0 that rounding puts on its other side changes such gradients by percents.
    for part, tolerance in {"gradients": 0.2, "running_mean": 1e-4, "running_var": 1e-4}.items():
        expected, actual = kept(tmp_path / "one", part), kept(tmp_path / "two", part)
        assert (actual - expected).norm() < tolerance * expected.norm()


def statistics_shared():
    """A layer's output, gradients and averages for this process's half of eight pictures."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.BatchNorm2d(3, momentum=0.1)).double()
    nn.init.uniform_(layer[0].weight)
    images = torch.randn(8, 3, 4, 5, dtype=torch.float64) + 3
    factors = torch.randn(8, 3, 4, 5, dtype=torch.float64)
    if processes.count() > 1:
        share_statistics(layer)
        assert type(layer[0]) is SharedBatchNorm
    mine = slice(processes.rank(), None, processes.count())
    images = images[mine].clone().requires_grad_()
    output = layer(images)
    (output * factors[mine]).sum().backward()
    weights = [processes.summed(one.grad) for one in layer.parameters()]
    return [one.detach().numpy() for one in (output, images.grad, *weights, *layer.buffers())]


def small_and_large():
    """What each of the processes has, of shapes that go through a pipe and of one that does not."""
    return [
        processes.gathered(torch.full(shape, float(processes.rank()))).numpy()
        for shape in ((), (0, 3), (2, 3), (5000,))
    ]


def test_tensors_of_each_process():
    for one in in_two(small_and_large):
        for values, shape in zip(one, ((), (0, 3), (2, 3), (5000,)), strict=True):
            np.testing.assert_array_equal(values, np.stack([np.full(shape, 0.0), np.full(shape, 1.0)]))


def test_a_folder_for_temporary_files_with_a_long_name(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 110)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)
    reading = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=1, workers=1))
    first, second = in_two(trained, reading, tmp_path / "run")
    assert first == second
    assert first[:2] == (1, 0)


@pytest.mark.parametrize("machines", [1, 2])
def test_batch_normalisation_sees_all_pictures(machines):
    output, gradient, *others = statistics_shared()
    for rank, (part, part_gradient, *part_others) in enumerate(in_two(statistics_shared, machines=machines)):
        for mine, expected in zip(
            (part, part_gradient, *part_others), (output[rank::2], gradient[rank::2], *others), strict=True
        ):
            np.testing.assert_allclose(mine, expected, rtol=1e-9, atol=1e-12)


def test_layers_whose_statistics_cannot_be_shared_are_an_error():
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match="cannot train a network with layers of Other"):
        share_statistics(nn.Sequential(Other(3)))


def interrupted_in_the_second(config, run):
    with pytest.MonkeyPatch.context() as patch:
        if processes.rank() == 1:
            interrupt_at(patch, 5)
        return trained(config, run)


def test_an_interrupt_of_one_stops_both_and_one_alone_goes_on(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    in_two(trained, CONFIG, whole)
    first, second = in_two(interrupted_in_the_second, CONFIG, parts)
    assert first == second
    assert first[:2] == (1, 2)
    trained(CONFIG, parts, resume=True)
    for row, expected in zip(results(parts), results(whole), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-2)


def dying_in_the_second(config, run):
    loss = training.batch_loss

    def dying(*arguments):
        if processes.rank() == 1:
            os._exit(1)
        return loss(*arguments)

    training.batch_loss = dying
    return trained(config, run)


def test_the_death_of_one_is_said_by_the_other(tmp_path):
    first, second = in_two(dying_in_the_second, CONFIG, tmp_path / "run")
    assert second is None
    assert "another process of this training has ended" in (str(first), out_of_resources(first))


def test_what_fails_in_both_is_said_once(tmp_path):
    odd = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, batch_size=3))
    first, second = in_two(trained, odd, tmp_path / "run")
    assert str(first) == "batch size: 2 processes cannot share 3 pictures equally; try a multiple"
    assert isinstance(second, SystemExit)
    first, second = in_two(trained, CONFIG, tmp_path / "missing", True)
    assert "no such checkpoint" in str(first)
    assert isinstance(second, SystemExit)


def test_launched_processes(capfd, monkeypatch):
    assert launching.launch(2, ["--help"]) == 0
    assert capfd.readouterr().out.count("usage: tinyssd") == 2
    assert launching.launch(2, ["train", "--epochs", "many"]) == 2
    monkeypatch.setattr(launching, "_SECONDS_TO_END", 0.0)
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    began = time.monotonic()
    started[1].send_signal(signal.SIGKILL)
    assert launching._until_the_end(started) == 128 + signal.SIGKILL
    assert time.monotonic() < began + 30
    assert "process 2 of 2 was killed (signal 9)" in capfd.readouterr().err
    started[0].kill()
    started[0].wait()


def test_option_of_processes(capsys, monkeypatch):
    assert main(["train", "--processes", "0"]) == 2
    assert "--processes: expected at least 1, got 0" in capsys.readouterr().err
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--processes", "3"]) == 2
    assert "--processes 3: torchrun has started 2; leave it out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="2 processes need a GPU each; leave the number out"):
        processes.own_device(torch.device("cuda:0"))
    assert processes.own_device(pick_device("cpu")).type == "cpu"
