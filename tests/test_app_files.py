"""Files that are whole or not there, and JSON that every reader takes."""

from __future__ import annotations

import json
import math

import pytest
from app_training import CONFIG
from tinyssd.errors import ConfigError, TinySSDError
from tinyssd.files import write_json, write_json_lines
from tinyssd.model.loss import LossConfig
from tinyssd.run.config import read_config_file


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan(value, tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"epoch": 1, "ap": [0.5, None]})
    before = path.read_text()
    assert json.loads(before) == {"epoch": 1, "ap": [0.5, None]}
    with pytest.raises(TinySSDError, match=rf"JSON has no NaN and no infinity: \['ap'\]\[1\] is {value}$"):
        write_json(path, {"epoch": 1, "ap": (0.5, value)})
    with pytest.raises(TinySSDError, match=rf"\['loss'\] is {value}$"):
        write_json_lines(path, [{"loss": 1.0}, {"loss": value}])
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_settings_are_finite(number, tmp_path):
    path = tmp_path / "config.json"
    values = CONFIG.to_dict()
    for section in ("train", "loss", "augment"):
        name = next(name for name, value in values[section].items() if isinstance(value, float))
        path.write_text(f'{{"{section}": {{"{name}": {number}}}}}')
        with pytest.raises(ConfigError, match=f"{section}.{name} has a value of the wrong kind"):
            read_config_file(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_of_the_loss(value):
    with pytest.raises(ConfigError, match="loss: box_weight: expected a number from 0"):
        LossConfig(box_weight=value)
