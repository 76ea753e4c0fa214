"""The gate's build, with a stand-in for this project."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import with_benchmarks  # noqa: F401  # Makes benchmarks importable.

from benchmarks import gpu_gate
from benchmarks.gate import build


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder for what is built in place of this project, which needs no more than setuptools."""
    monkeypatch.setattr(build, "ROOT", tmp_path / "project")
    monkeypatch.setattr(build, "absent", lambda *_: [])
    return tmp_path / "project"


def _package(folder: Path, body: str) -> None:
    """One of the name, that setuptools installs in a second."""
    (folder / "tinyssd_ops").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "tinyssd_ops"\nversion = "0"\n[tool.setuptools]\npackages = ["tinyssd_ops"]\n'
    )
    (folder / "tinyssd_ops" / "__init__.py").write_text(body)


_INFO = """
def info():
    served = {"backend": "native", "why": WHY}
    return {"backends": {"cpu": served}, "build": {"_C": {"simd": "avx2"}}}
"""


def test_what_is_built_is_what_is_used(gate, project):
    _package(project, _INFO.replace("WHY", "__file__"))
    result = build.build(gate)
    assert (result.verdict, result.figures) == ("passed", {"simd": "avx2"}), result.tail
    shutil.rmtree(project)
    _package(project, _INFO.replace("WHY", "'somewhere else'"))
    result = build.build(gate)
    assert result.verdict == "failed"
    assert "the library in use is not the one built: somewhere else" in result.summary


def test_a_build_that_fails_ends_the_gate(gate, project):
    _package(project, "")
    (project / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nothing'\n")
    record = gpu_gate.Record(gate, "command", {"device": "none"})
    gpu_gate.run_parts(gate, record, ["build", "parity", "bench"], time.monotonic() + 300)
    left = json.loads((gate.out / "gate.json").read_text())["parts"]
    assert [(part["name"], part["verdict"]) for part in left] == [
        ("build", "failed"),
        ("parity", "failed"),
        ("bench", "failed"),
    ]
    assert "nothing" in left[0]["tail"]
    assert left[2]["summary"] == "not run: the build failed"


def _wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_a_wheel_is_used_if_it_is_newer_than_what_is_installed(gate, tmp_path):
    gate.wheels = tmp_path / "wheels"
    gate.wheels.mkdir()
    _wheel(gate.wheels, "packaging", "0.1")
    assert build.install_wheels(gate) == "; none of the 1 wheels was needed"
    _wheel(gate.wheels, "pytest", "999.1")
    _wheel(gate.wheels, "surely_not_installed", "1")
    assert build.install_wheels(gate) == "; from wheels: pytest, surely-not-installed"
    assert build.version_of(gate, "pytest") == "999.1"
    assert build.absent(gate, ("surely_not_installed", "surely_missing")) == ["surely_missing"]
