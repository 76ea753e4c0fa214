"""Builds the native libraries; everything else about the package stands in pyproject.toml.

TINYSSD_OPS_NATIVE=0  a pure-Torch package, no compiler needed
TINYSSD_OPS_CUDA=0/1  without or with CUDA kernels; unset: with them where there is an nvcc
TORCH_CUDA_ARCH_LIST  the GPU architectures, for example "9.0" or "8.0;9.0+PTX"; unset: all from Ampere on
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).resolve().parent
VERSION = runpy.run_path(str(ROOT / "tinyssd_ops" / "_version.py"))["__version__"]
# The oldest torch whose stable ABI the kernels use; one build runs on it and on all later ones.
TORCH_TARGET = (2, 10)
CUDA_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")  # those that nvcc knows; the last as PTX too
# No fused multiply-add, as on the host; constexpr functions of the standard library are used on the device.
NVCC_OPTIONS = ["-O3", "-fmad=false", "-lineinfo", "--expt-relaxed-constexpr", "-Xcompiler=-fvisibility=hidden"]


def say(message: str) -> None:
    """A line of what the build decided and why; `pip install -v` shows it."""
    print(f"tinyssd_ops: {message}", flush=True)


def sources(pattern: str) -> list[str]:
    """The files under csrc/ of this pattern, relative to the root."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def cuda_home() -> str | None:
    """The CUDA toolkit, where there is one and it is wanted."""
    wanted = os.environ.get("TINYSSD_OPS_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"TINYSSD_OPS_CUDA: expected 0 or 1, got {wanted!r}")
    if wanted == "0":
        say("CPU kernels only (TINYSSD_OPS_CUDA=0)")
        return None
    folders = [str(Path(os.environ["CUDA_HOME"]) / "bin")] if os.environ.get("CUDA_HOME") else []
    nvcc = shutil.which("nvcc", path=os.pathsep.join([*folders, os.environ["PATH"]]))
    if nvcc is not None:
        say(f"CPU and CUDA kernels (found {nvcc})")
        return toolkit_of(nvcc)
    if wanted == "1":
        raise SystemExit("TINYSSD_OPS_CUDA=1, but there is no nvcc")
    say("CPU kernels only (no nvcc)")
    return None


def toolkit_of(nvcc: str) -> str:
    """The toolkit's folder as nvcc itself names it: what is on the PATH may be a script or a link."""
    plan = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True, check=True)
    tops = [line.partition("TOP=")[2] for line in plan.stderr.splitlines() if "TOP=" in line]
    return str(Path(tops[0] if tops else Path(nvcc).parent / "..").resolve())


def cuda_architectures(home: str) -> str:
    """The GPU architectures to build for, as TORCH_CUDA_ARCH_LIST names them."""
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(",", ";").replace(" ", ";").strip(";")
    if wanted:
        old = [one for one in wanted.split(";") if one[:1].isdigit() and int(one.split(".")[0]) < 8]
        if old:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: the CUDA kernels need 8.0 (Ampere) or newer, got {', '.join(old)}")
        return wanted
    command = [str(Path(home) / "bin" / "nvcc"), "--list-gpu-arch"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    chosen = [one for one in CUDA_ARCHITECTURES if f"compute_{one.replace('.', '')}" in known]
    return ";".join(chosen) + "+PTX"


def native_options() -> dict[str, Any]:
    """What setup() needs to build the extensions: nothing for the pure-Torch package."""
    native = os.environ.get("TINYSSD_OPS_NATIVE", "1")
    if native not in ("0", "1"):
        raise SystemExit(f"TINYSSD_OPS_NATIVE: expected 0 or 1, got {native!r}")
    if native == "0":
        say("pure Torch, no kernels (TINYSSD_OPS_NATIVE=0)")
        for library in (ROOT / "tinyssd_ops").glob("_C*.so"):
            say(f"removing {library.name} of an earlier build in place")
            library.unlink()
        return {}

    import pybind11
    from torch.utils import cpp_extension

    major, minor = TORCH_TARGET
    defines = [
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
        f'-DTINYSSD_TORCH_TARGET="{major}.{minor}"',
        f'-DTINYSSD_VERSION="{VERSION}"',
    ]
    # No contraction: each operation of the IoU is rounded on its own, as the reference does. The other two let loops
    # over sqrt, division and comparisons become SIMD and change no value.
    host = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-g0"]
    # Messages of torch's and pybind11's headers name their file: without the folders of the machine that built it.
    folders = {str(ROOT): ".", str(Path(cpp_extension.__file__).parents[1]): "torch"}
    folders[pybind11.get_include()] = "pybind11"
    maps = [f"-ffile-prefix-map={folder}={name}" for folder, name in folders.items()]
    host += maps
    include = [str(ROOT / "csrc"), pybind11.get_include()]
    extension = cpp_extension.CppExtension(
        "tinyssd_ops._C",
        sources("*.cpp") + sources("cpu/*.cpp"),
        include_dirs=include,
        extra_compile_args={"cxx": [*host, *defines]},
    )
    # The stable ABI's C functions are all that is used of torch.
    extension.libraries = ["torch_cpu"]
    extensions = [extension]
    if home := cuda_home():
        architectures = os.environ["TORCH_CUDA_ARCH_LIST"] = cuda_architectures(home)
        say(f"CUDA architectures {architectures}")
        cpp_extension.CUDA_HOME = home  # None where torch was built without CUDA
        # The stable ABI and a static CUDA runtime: nvcc need not be of the version that this torch was built with.
        cpp_extension._check_cuda_version = lambda *_: None
        cuda = cpp_extension.CUDAExtension(
            "tinyssd_ops._C_cuda",
            sources("cuda/*.cu") + sources("cuda/*.cpp"),
            include_dirs=include,
            extra_compile_args={
                "cxx": [*host, *defines, f'-DTINYSSD_CUDA_ARCHITECTURES="{architectures}"'],
                "nvcc": [*NVCC_OPTIONS, *(f"-Xcompiler={one}" for one in maps), *defines],
            },
        )
        # libtorch_cuda, where the stream comes from, may be absent here: tinyssd_ops/_extension.py makes it visible.
        cuda.libraries = ["torch_cpu", "cudart_static", "dl", "rt"]
        extensions.append(cuda)
    return {"ext_modules": extensions, "cmdclass": {"build_ext": cpp_extension.BuildExtension}}


setup(**native_options())
