"""Finds and loads the native libraries, and says what it found.

``_C`` (CPU kernels, every schema) and ``_C_cuda`` (CUDA kernels) are looked for in the installed distribution of this
version, so that a source tree on ``sys.path`` does not hide what ``pip install .`` built; without one, as in an
editable install, beside this file.
``TINYSSD_OPS_BACKEND`` chooses: ``auto`` (native unless the package was installed without it), ``native`` (an error if
it is missing) or ``reference`` (the pure-Torch functions, whatever is installed).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from tinyssd_ops._version import __version__


@dataclass(frozen=True)
class Extension:
    """What was loaded: the modules, the device types whose ops they serve, and a sentence for each device type."""

    cpu: ModuleType | None
    cuda: ModuleType | None
    reasons: dict[str, str]

    @property
    def devices(self) -> frozenset[str]:
        """The device types served by native kernels; "meta" stands for the fake kernels of the same ops."""
        cpu = {"cpu", "meta"} if self.cpu is not None else set()
        return frozenset(cpu | ({"cuda"} if self.cuda is not None else set()))


def load() -> Extension:
    """Loads what ``TINYSSD_OPS_BACKEND`` asks for.

    Raises:
        ImportError: If a native library is asked for and missing, or is there and cannot be loaded, or if the package
            was never installed.
    """
    wanted = os.environ.get("TINYSSD_OPS_BACKEND", "auto")
    if wanted not in ("auto", "native", "reference"):
        raise ImportError(f"TINYSSD_OPS_BACKEND: expected auto, native or reference, got {wanted!r}")
    if wanted == "reference":
        why = "TINYSSD_OPS_BACKEND=reference"
        return Extension(None, None, {"cpu": why, "cuda": why})
    cpu, why_cpu = _load_module("_C")
    if cpu is None:
        if wanted == "native":
            raise ImportError(f"TINYSSD_OPS_BACKEND=native, but {why_cpu}")
        if _installed() is None:
            raise ImportError(
                f"tinyssd_ops {__version__} is not installed: run `pip install .` in its source tree "
                "(TINYSSD_OPS_BACKEND=reference imports it from there without kernels)"
            )
        return Extension(None, None, {"cpu": why_cpu, "cuda": why_cpu})
    if torch.version.cuda is None:
        return Extension(cpu, None, {"cpu": why_cpu, "cuda": "this torch has no CUDA"})
    _show_libtorch_cuda()
    cuda, why_cuda = _load_module("_C_cuda")
    if cuda is not None and (problem := _driver_problem(cuda)):
        return Extension(cpu, None, {"cpu": why_cpu, "cuda": problem})
    return Extension(cpu, cuda, {"cpu": why_cpu, "cuda": why_cuda})


def _load_module(name: str) -> tuple[ModuleType | None, str]:
    """The native module and why it is served, or None and why not."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = _library_folder() / f"{name}{suffix}"
        if path.is_file():
            return _import_file(f"tinyssd_ops.{name}", path), f"native library {path}"
    return None, f"tinyssd_ops was installed without {name}"


def _show_libtorch_cuda() -> None:
    """Makes the C functions of libtorch_cuda visible to ``_C_cuda``.

    The library is not linked to it, so that it can be built where torch has no CUDA; torch has loaded it already.
    """
    with contextlib.suppress(OSError):  # Then loading _C_cuda says what it misses.
        ctypes.CDLL("libtorch_cuda.so", mode=ctypes.RTLD_GLOBAL)


def _driver_problem(cuda: ModuleType) -> str:
    """Why this machine's driver cannot run the kernels, or ""."""
    driver, runtime = cuda.driver_version(), cuda.runtime_version()
    if 0 < driver // 1000 < runtime // 1000:
        return (
            f"the NVIDIA driver supports CUDA {_cuda_version(driver)} and the kernels were built with "
            f"{_cuda_version(runtime)}: update the driver, or install tinyssd_ops again with an older nvcc"
        )
    return ""


def gpus(cuda: ModuleType) -> list[str]:
    """A sentence for each GPU: whether the library holds code for it; one for why there is none. Starts CUDA."""
    driver = cuda.driver_version()
    if driver == 0:
        return ["no NVIDIA driver"]
    if not torch.cuda.is_available():
        return [f"a driver for CUDA {_cuda_version(driver)}, and no GPU that torch can use"]
    architectures = cuda.build_info()["cuda_architectures"].split(";")
    found = []
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        found.append(
            f"{torch.cuda.get_device_name(index)}, compute capability {capability[0]}.{capability[1]}, a driver for "
            f"CUDA {_cuda_version(driver)}: {code_for(capability, architectures)}"
        )
    return found


def code_for(capability: tuple[int, int], architectures: list[str]) -> str:
    """What a library built for these architectures holds for a GPU: code of its generation, PTX of an older one."""
    ptx = False
    for one in architectures:
        number = one.removesuffix("+PTX").rstrip("af")
        major, minor = map(int, number.split("."))
        exact = one.removesuffix("+PTX") != number  # 9.0a runs on 9.0 alone
        if (major, minor) == capability or (major == capability[0] and minor < capability[1] and not exact):
            return "the library holds code for it"
        ptx = ptx or (one.endswith("+PTX") and (major, minor) <= capability and not exact)
    if ptx:
        return "the library holds PTX, which the driver compiles at the first use"
    wanted = f"{capability[0]}.{capability[1]}"
    return f'the library holds no code for it: install again with TORCH_CUDA_ARCH_LIST="{wanted}"'


@functools.cache
def warn_of_the_reference(reason: str) -> None:
    """Says once that tensors on a GPU are served without kernels, unless that was asked for."""
    if os.environ.get("TINYSSD_OPS_BACKEND") != "reference":
        warnings.warn(
            f"tinyssd_ops: CUDA tensors are served by the pure-Torch reference, which is slower ({reason}); "
            "tinyssd_ops.info() says more, TINYSSD_OPS_BACKEND=reference silences this",
            stacklevel=4,
        )


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _import_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python extension module")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise ImportError(
            f"the native library {path} cannot be loaded by torch {torch.__version__}: {error}"
        ) from error
    built = module.build_info()["version"]
    if built != __version__:
        raise ImportError(f"{path} was built for tinyssd_ops {built}, this is {__version__}: run `pip install .` again")
    sys.modules[name] = module
    return module


def _library_folder() -> Path:
    distribution = _installed()
    installed = None if distribution is None else Path(str(distribution.locate_file("tinyssd_ops")))
    return installed if installed is not None and installed.is_dir() else Path(__file__).absolute().parent


def _installed() -> importlib.metadata.Distribution | None:
    """The installed distribution of this version, not counting what a build left in the source tree."""
    for distribution in importlib.metadata.distributions(name="tinyssd_ops"):
        egg_info = Path(str(distribution.locate_file("tinyssd_ops.egg-info"))).is_dir()
        if distribution.version == __version__ and not egg_info:
            return distribution
    return None
