"""Checkpoints and settings of anybody's making: read, or refused in a sentence that names the file."""

from __future__ import annotations

import copy
import json
import math
import random
import zipfile
from collections import Counter

import pytest
import torch
from fuzz_labels import VALUES, broken
from tinyssd.data.config import DataConfig
from tinyssd.errors import CheckpointError, ConfigError
from tinyssd.model.network import TinySSD, TinySSDConfig
from tinyssd.run.checkpoint import load_model, save_checkpoint
from tinyssd.run.config import RunConfig, read_config_file

TINY = TinySSDConfig(2, (32, 32), ((8,), (8,), ()), ((0.2, 0.3), (0.4, 0.5), (0.8, 0.9)), ((1.0, 2.0, 0.5),) * 3)
CONFIG = RunConfig(("square",), TINY, DataConfig())
HISTORY = [{"epoch": 1, "best_threshold": 0.4}]


def contents():
    model = TinySSD.from_config(TINY)
    progress = {"epoch": 1, "step": 0, "loss_sum": 0.0, "history": copy.deepcopy(HISTORY)}
    return {"config": CONFIG.to_dict(), "model": model.state_dict(), "progress": progress}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, contents())
    return path


def ending(path):
    """How reading a checkpoint ends: any error of another kind is a failed test."""
    try:
        load_model(path)
    except CheckpointError as error:
        return "a sentence" if str(error).startswith(str(path)) else f"{path} is not named: {error}"
    return "read"


def test_broken_bytes(checkpoint):
    whole = checkpoint.read_bytes()
    endings = Counter()
    for seed in range(150):
        checkpoint.write_bytes(broken(whole, "a.pt", random.Random(seed)))
        endings[ending(checkpoint)] += 1
    assert set(endings) == {"read", "a sentence"}


def test_broken_pickles_in_whole_archives(checkpoint, tmp_path):
    with zipfile.ZipFile(checkpoint) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    target = tmp_path / "broken.pt"
    endings = Counter()
    for seed in range(250):
        with zipfile.ZipFile(target, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, broken(data, name, random.Random(seed)) if name == pickled else data)
        endings[ending(target)] += 1
    assert endings["a sentence"] > 100


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ODD = [*VALUES, torch.ones(3), torch.tensor(math.nan), _nested(100), -1, 10**9, ((10**6, 10**6), (10**6,), ())]


@pytest.mark.parametrize(
    "path", ["", "config", "config.model", "config.data", "model", "progress", "progress.history.0"]
)
def test_other_values(checkpoint, path):
    """A value of a checkpoint, replaced by an odd one; what is loaded has sane settings."""
    # What prediction does not use may be anything; names are escaped where they are shown.
    pick = random.Random(path)
    for odd in ODD:
        changed = contents()
        values = _at(changed, path)
        values[pick.choice(list(values))] = odd
        save_checkpoint(checkpoint, changed)
        if ending(checkpoint) == "read":
            assert 0 <= load_model(checkpoint).score_threshold <= 1


def _at(value, path):
    for part in path.split(".") if path else []:
        value = value[int(part) if part.isdigit() else part]
    return value


def test_sizes_are_compared_before_memory_is_taken(checkpoint):
    """Settings that ask for a terabyte, with the weights of a small network."""
    changed = contents()
    changed["config"]["model"]["widths"] = ((500_000,), (500_000,), ())
    save_checkpoint(checkpoint, changed)
    assert ending(checkpoint) == "a sentence"


def test_broken_settings(tmp_path):
    path = tmp_path / "config.json"
    whole = json.dumps(CONFIG.to_dict()).encode()
    endings = Counter()
    for seed in range(400):
        path.write_bytes(broken(whole, path.name, random.Random(seed)))
        try:
            read_config_file(path)
        except ConfigError as error:
            endings["a sentence" if str(error).startswith(str(path)) else str(error)] += 1
        else:
            endings["read"] += 1
    assert set(endings) == {"read", "a sentence"}
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_config_file(path)
