"""What torchrun starts anew goes on with its run, and ends as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal

import pytest
import tinyssd.report.write  # noqa: F401  # Once here, not in each process that forks.
import torch
import torch._dynamo
from app_training import CONFIG, results
from test_app_processes import in_two, trained
from tinyssd.cli import main
from tinyssd.run.checkpoint import load_checkpoint
from tinyssd.training import train as training
from torch.utils._pytree import tree_leaves

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or "fork" not in multiprocessing.get_all_start_methods(),
    reason="needs torch.distributed and processes that fork",
)


# The page, and torch._dynamo, which training together needs, take seconds to import: once here, not in each process.
def of_torchrun(words):
    """Runs ``tinyssd`` as torchrun does with two processes and a restart, but in processes that fork."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="a job",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=1,
        start_method="fork",
    )
    elastic_launch(config, dying)(words)


def dying(words):
    """Runs ``tinyssd``; at first the second process is killed in the second step of the second epoch."""
    torch.set_num_threads(1)
    training.log_epoch = lambda *_: None  # TensorBoard's import takes as long.
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        steps, loss = itertools.count(1), training.batch_loss

        def killed(*arguments):
            if next(steps) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return loss(*arguments)

        training.batch_loss = killed
    assert main(words) == 0


def test_a_killed_process_is_started_anew(tmp_path, capfd):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    in_two(trained, CONFIG, whole)
    words = ["train", "--config", str(whole / "config.json"), "--run", str(parts)]
    agent = multiprocessing.get_context("fork").Process(target=of_torchrun, args=(words,))
    agent.start()
    agent.join(120)
    agent.terminate()
    output = capfd.readouterr()
    assert agent.exitcode == 0, output.err
    assert output.out.count("goes on from its last checkpoint") == 1
    assert results(parts) == results(whole)
    one, other = (load_checkpoint(run / "checkpoint.pt") for run in (parts, whole))
    for part in ("model", "trained", "optimizer"):
        pairs = list(zip(tree_leaves(one[part]), tree_leaves(other[part]), strict=True))
        assert len(pairs) > 10
        assert all(torch.equal(*map(torch.as_tensor, pair)) for pair in pairs if pair[0] is not None)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The exit status of a training into tmp_path/run, as the only process of a torchrun job."""

    def train(job, restarts=0, run=True):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", str(restarts))
        return main(["train", "--config", str(file), *(["--run", str(tmp_path / "run")] if run else [])])

    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(CONFIG.to_dict()))
    monkeypatch.chdir(tmp_path)
    return train


def test_the_run_of_another_job_is_left_alone(command, tmp_path, capsys):
    assert command("one", restarts=1) == 0
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    for job in ("other", "none"):
        assert command(job) == 2
        assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert command("one", restarts=1) == 0
    assert "goes on from its last checkpoint" in capsys.readouterr().out


def test_a_restart_before_the_first_checkpoint_begins_anew(command, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes((tmp_path / "tiny.json").read_bytes())
    assert command("one", restarts=1) == 0
    assert "goes on" not in capsys.readouterr().out


def test_what_a_restart_could_not_find_again_is_an_error(command, tmp_path, capsys):
    assert command("one", restarts=3, run=False) == 2
    assert "torchrun --max-restarts 3: name the run folder with --run DIR" in capsys.readouterr().err
    assert command("none", restarts=1) == 2
    assert "torchrun --max-restarts 1: name the job by its --rdzv-id" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "run").exists()
