"""The package, built for the GPU that is there and installed into a folder of its own."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gate.programs import ROOT, Gate, Result, failed

_INFO = "import json, tinyssd_ops; print(json.dumps(tinyssd_ops.info()))"
_LEAST_SETUPTOOLS = (77,)  # older ones do not know the license field of pyproject.toml


def build(gate: Gate) -> Result:
    """Installs the package, and looks at what was built."""
    gate.work.mkdir(parents=True, exist_ok=True)
    notes = install_wheels(gate)
    if missing := absent(gate, ("pip", "setuptools", "ninja", "pybind11")):
        return Result("build", "failed", f"needs {', '.join(missing)}: give their wheels with --wheels DIR{notes}")
    found = version_of(gate, "setuptools")
    if release(found) < _LEAST_SETUPTOOLS:
        least = ".".join(map(str, _LEAST_SETUPTOOLS))
        return Result(
            "build", "failed", f"needs setuptools {least}, found {found}: give its wheel with --wheels DIR{notes}"
        )
    shutil.rmtree(gate.site, ignore_errors=True)
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--disable-pip-version-check", "-v")
    done = gate.run(
        "build",
        [sys.executable, "-m", "pip", "install", *options, "--target", gate.site, ROOT],
        TORCH_CUDA_ARCH_LIST=gate.architecture,
        TINYSSD_OPS_CUDA="1" if gate.device == "cuda" else "0",
    )
    if done.status != 0:
        return failed("build", done, f"pip install failed{notes}")
    # Away from the source tree: what is looked at is what was installed.
    asked = gate.run("build", [sys.executable, "-c", _INFO], cwd=gate.work)
    if asked.status != 0:
        return failed("build", asked, "the built package cannot be imported")
    info = json.loads(asked.lines[-1])
    served = info["backends"][gate.device]
    if served["backend"] != "native" or str(gate.work).replace(str(ROOT), ".") not in served["why"]:
        return failed("build", asked, f"the library in use is not the one built: {served['why']}")
    return Result(
        "build", "passed", f"{done.seconds:.0f} s{notes}", info["build"]["_C_cuda" if gate.device == "cuda" else "_C"]
    )


def install_wheels(gate: Gate) -> str:
    """Installs the wheels of the folder that are missing here, or newer than what is; a sentence about it, or ""."""
    if gate.wheels is None:
        return ""
    found = sorted(gate.wheels.glob("*.whl"))
    named = {wheel: _normal(wheel.name.split("-")[0]) for wheel in found}
    there = {_normal(d.metadata["Name"] or ""): d.version for d in importlib.metadata.distributions()}

    def is_wanted(wheel: Path) -> bool:
        version = there.get(named[wheel])
        return version is None or release(wheel.name.split("-")[1]) > release(version)

    wanted = [wheel for wheel in found if is_wanted(wheel)]
    if not wanted:
        return f"; none of the {len(found)} wheels was needed"
    options = ("--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", "--upgrade", "-q")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", gate.extras, *wanted]
    # What was carried here is wanted, whatever versions the surroundings ask for.
    done = gate.run("build", command, PIP_CONSTRAINT="")
    names = ", ".join(named[wheel] for wheel in wanted)
    return f"; from wheels: {names}" if done.status == 0 else f"; the wheels of {names} could not be installed"


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, up to what is no number: (80, 9) of "80.9.post1"."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


def version_of(gate: Gate, package: str) -> str:
    """The version that a part would import."""
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    command = [sys.executable, "-c", code, package]
    done = subprocess.run(command, env=gate.environment(), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def absent(gate: Gate, modules: Sequence[str]) -> list[str]:
    """The modules that a part could not import."""
    code = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])"
    command = [sys.executable, "-c", code, *modules]
    return subprocess.run(command, env=gate.environment(), capture_output=True, text=True, check=True).stdout.split()
