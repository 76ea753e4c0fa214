"""What a native build needs and where it is found: torch, a C++ compiler, nvcc, the GPU architectures.

Each thing that is missing, too old or wrong ends the build in one sentence, with the way out of it.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

# The oldest torch whose stable ABI the kernels use; one build runs on it and on all later ones.
TORCH_TARGET = (2, 10)
OLDEST_SETUPTOOLS = 77
# What a wheel for everybody holds: code for 8.0 runs on 8.x, the last one's PTX on what comes after it.
ALL_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;11.0;12.0+PTX"
# Where no GPU is in sight: the two most used, and PTX for newer ones, which the driver compiles at the first use.
FEW_ARCHITECTURES = "8.0;9.0+PTX"
PURE_TORCH = "TINYSSD_OPS_NATIVE=0 installs the pure-Torch package, which needs none"


def say(message: str) -> None:
    """A line of what the build decided and why; `pip install -v` shows it."""
    print(f"tinyssd_ops: {message}", flush=True)


def setting(name: str, default: str) -> str:
    """An environment variable that is 0, 1 or, where its default is, empty."""
    value = os.environ.get(name, default)
    if value not in ("0", "1", default):
        raise SystemExit(f"{name}: expected 0 or 1, got {value!r}")
    return value


def require_setuptools() -> None:
    """Says it where setuptools cannot read pyproject.toml, before it fails in its own words."""
    import setuptools

    version = setuptools.__version__
    if int(version.partition(".")[0]) < OLDEST_SETUPTOOLS:
        raise SystemExit(
            f"tinyssd_ops needs setuptools {OLDEST_SETUPTOOLS} or newer to build, this is {version}: "
            "pip install -U setuptools, or leave out --no-build-isolation"
        )


def is_new_enough(version: str) -> bool:
    """Whether a torch has the stable ABI that the kernels use."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= TORCH_TARGET


def require_packages() -> None:
    """Imports what a native build needs, or says what is missing."""
    for name in ("torch", "pybind11"):
        try:
            module: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise SystemExit(f"the kernels need {name} to build (pip install {name}); {PURE_TORCH}") from None
        if name == "torch" and not is_new_enough(module.__version__):
            oldest = ".".join(map(str, TORCH_TARGET))
            raise SystemExit(f"tinyssd_ops needs torch {oldest} or newer, this is {module.__version__}")


def require_compiler() -> None:
    """Says it where there is no C++ compiler."""
    compiler = os.environ.get("CXX", "c++")
    if os.name == "posix" and shutil.which(compiler.split()[0] if compiler.split() else "") is None:
        raise SystemExit(f"there is no C++ compiler ({compiler}; CXX names another); {PURE_TORCH}")


def cuda_home() -> str | None:
    """The CUDA toolkit, where there is one and it is wanted, looked for where torch looks."""
    wanted = setting("TINYSSD_OPS_CUDA", "")
    if wanted == "0":
        say("CPU kernels only (TINYSSD_OPS_CUDA=0)")
        return None
    nvcc = find_nvcc()
    if nvcc is None:
        if wanted == "1":
            raise SystemExit("TINYSSD_OPS_CUDA=1, but there is no nvcc: not in CUDA_HOME, PATH or /usr/local/cuda")
        say("CPU kernels only (no nvcc)")
        return None
    say(f"CPU and CUDA kernels (found {nvcc})")
    return toolkit_of(nvcc)


def find_nvcc() -> str | None:
    """The compiler of CUDA_HOME or CUDA_PATH, of the PATH, or of the usual folder.

    Raises:
        SystemExit: If CUDA_HOME or CUDA_PATH names a folder without one.
    """
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(name):
            nvcc = shutil.which("nvcc", path=str(Path(home) / "bin"))
            if nvcc is None:
                raise SystemExit(f"{name}={home}: there is no bin/nvcc in it; TINYSSD_OPS_CUDA=0 builds without CUDA")
            return nvcc
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def run_nvcc(nvcc: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs it for what it prints; its own message ends the build where it fails."""
    try:
        done = subprocess.run([nvcc, *options], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"{nvcc} cannot be run: {error}; TINYSSD_OPS_CUDA=0 builds without CUDA") from None
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip() or "nothing"
        raise SystemExit(f"{nvcc} {' '.join(options)} failed; it said: {said}\nTINYSSD_OPS_CUDA=0 builds without CUDA")
    return done


def toolkit_of(nvcc: str) -> str:
    """The toolkit's folder as nvcc itself names it: what is on the PATH may be a script or a link.

    Raises:
        SystemExit: If it cannot be run, or is older than the C++20 of the kernels (before CUDA 12).
    """
    plan = run_nvcc(nvcc, "-std=c++20", "--dryrun", "-E", "-x", "cu", os.devnull).stderr
    tops = [line.partition("TOP=")[2] for line in plan.splitlines() if "TOP=" in line]
    return str(Path(tops[0] if tops else Path(nvcc).parent / "..").resolve())


def gpus_in_sight() -> list[str]:
    """The compute capabilities of this machine's GPUs, as the driver's tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return sorted({one for one in found if re.fullmatch(r"\d+\.\d", one)}, key=_number)


def cuda_architectures(home: str) -> list[str]:
    """The GPU architectures to build for: those asked for, else those in sight, else a few.

    Raises:
        SystemExit: If TORCH_CUDA_ARCH_LIST names what is no architecture, or one that nvcc or the kernels lack.
    """
    listed = run_nvcc(str(Path(home) / "bin" / "nvcc"), "--list-gpu-arch").stdout
    known = [f"{number[:-1]}.{number[-1]}" for number in re.findall(r"compute_(\d+)\b", listed)]
    wanted = re.split(r"[;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(";, "))
    if wanted != [""]:
        for one in wanted:
            _check_architecture(one, known)
        return wanted
    gpus = [one for one in gpus_in_sight() if _number(one) >= (8, 0)]
    if gpus and all(one in known for one in gpus):
        say(f"for the GPUs in sight; TORCH_CUDA_ARCH_LIST={ALL_ARCHITECTURES!r} builds for all")
        return gpus
    newest = max(known, key=_number)
    if gpus:
        say(f"this nvcc does not know compute capability {gpus[-1]}: its newest PTX goes in, for the driver to compile")
        return [*(one for one in gpus if one in known), f"{newest}+PTX"]
    say(f"no GPU in sight: for the most used; TORCH_CUDA_ARCH_LIST={ALL_ARCHITECTURES!r} builds for all")
    return [one for one in FEW_ARCHITECTURES.split(";") if one.removesuffix("+PTX") in known]


def _check_architecture(one: str, known: list[str]) -> None:
    if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", one):
        hints = {"native": "leave it unset for the GPUs in sight", "all": f'all of them are "{ALL_ARCHITECTURES}"'}
        digits = re.fullmatch(r"(?:sm_|compute_)?(\d+)(\d[af]?)", one)
        hint = hints.get(one.lower(), f"write {digits[1]}.{digits[2]}" if digits else "")
        raise SystemExit(
            f'TORCH_CUDA_ARCH_LIST: expected numbers such as "9.0" or "8.0;9.0+PTX", got "{one}"'
            + (f": {hint}" if hint else "")
        )
    number = re.match(r"\d+\.\d", one)
    assert number is not None
    if _number(number[0]) < (8, 0):
        raise SystemExit(f"TORCH_CUDA_ARCH_LIST: the CUDA kernels need 8.0 (Ampere) or newer, got {one}")
    if number[0] not in known:
        raise SystemExit(f"TORCH_CUDA_ARCH_LIST: this nvcc knows {', '.join(known)}, got {one}")


def _number(architecture: str) -> tuple[int, int]:
    major, _, minor = architecture.removesuffix("+PTX").partition(".")
    return int(major), int(minor)


def code_for(architectures: list[str]) -> list[str]:
    """nvcc's options for them; so neither torch's own list of architectures nor its default is asked."""
    options = []
    for one in architectures:
        number = one.removesuffix("+PTX").replace(".", "")
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if one.endswith("+PTX"):
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return options
