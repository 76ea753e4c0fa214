"""Builds the native libraries; everything else about the package stands in pyproject.toml.

TINYSSD_OPS_NATIVE=0  a pure-Torch package, no compiler needed
TINYSSD_OPS_CUDA=0/1  without or with CUDA kernels; unset: with them where there is an nvcc
TORCH_CUDA_ARCH_LIST  the GPU architectures, for example "9.0" or "8.0;9.0+PTX"; unset: those of the GPUs in sight
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))
import toolchain  # noqa: E402

VERSION = runpy.run_path(str(ROOT / "tinyssd_ops" / "_version.py"))["__version__"]
# No contraction: each operation of the IoU is rounded on its own, as the reference does. The other two let loops over
# sqrt, division and comparisons become SIMD and change no value.
HOST_OPTIONS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
HOST_OPTIONS += ["-fvisibility=hidden", "-g0"]
# No fused multiply-add, as on the host; constexpr functions of the standard library are used on the device.
NVCC_OPTIONS = ["-std=c++20", "-O3", "-fmad=false", "-lineinfo", "--expt-relaxed-constexpr"]
NVCC_OPTIONS += ["-Xcompiler=-fvisibility=hidden"]
# Commands that only describe the package: they need no torch.
DESCRIBING = {"sdist", "egg_info", "dist_info"}


def sources(pattern: str) -> list[str]:
    """The files under csrc/ of this pattern, relative to the root."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def native_options() -> dict[str, Any]:
    """What setup() needs to build the extensions: nothing for the pure-Torch package."""
    if toolchain.setting("TINYSSD_OPS_NATIVE", "1") == "0":
        toolchain.say("pure Torch, no kernels (TINYSSD_OPS_NATIVE=0)")
        remove_libraries(set((ROOT / "tinyssd_ops").glob("_C*.so")))
        return {}
    toolchain.require_packages()
    toolchain.require_compiler()
    import pybind11
    from torch.utils import cpp_extension

    major, minor = toolchain.TORCH_TARGET
    defines = [
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
        f'-DTINYSSD_TORCH_TARGET="{major}.{minor}"',
        f'-DTINYSSD_VERSION="{VERSION}"',
    ]
    # Messages of torch's and pybind11's headers name their file: without the folders of the machine that built it.
    folders = {str(ROOT): ".", str(Path(cpp_extension.__file__).parents[1]): "torch"}
    folders[pybind11.get_include()] = "pybind11"
    maps = [f"-ffile-prefix-map={folder}={name}" for folder, name in folders.items()]
    host = [*HOST_OPTIONS, *maps]
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
    if home := toolchain.cuda_home():
        architectures = toolchain.cuda_architectures(home)
        listed = ";".join(architectures)
        toolchain.say(f"CUDA architectures {listed}")
        cpp_extension.CUDA_HOME = home  # None where torch was built without CUDA
        # The stable ABI and a static CUDA runtime: nvcc need not be of the version that this torch was built with.
        cpp_extension._check_cuda_version = lambda *_: None
        nvcc = [*NVCC_OPTIONS, *toolchain.code_for(architectures), *(f"-Xcompiler={one}" for one in maps), *defines]
        cuda = cpp_extension.CUDAExtension(
            "tinyssd_ops._C_cuda",
            sources("cuda/*.cu") + sources("cuda/*.cpp"),
            include_dirs=include,
            extra_compile_args={"cxx": [*host, *defines, f'-DTINYSSD_CUDA_ARCHITECTURES="{listed}"'], "nvcc": nvcc},
        )
        # libtorch_cuda, where the stream comes from, may be absent here: tinyssd_ops/_extension.py makes it visible.
        cuda.libraries = ["torch_cpu", "cudart_static", "dl", "rt"]
        extensions.append(cuda)

    class BuildKernels(cpp_extension.BuildExtension):
        """Leaves no library beside those that it built: a `_C_cuda` of an earlier build is none of this one's."""

        def run(self) -> None:
            super().run()
            built = {Path(self.get_ext_fullpath(one.name)).resolve() for one in self.extensions}
            suffix = self.get_ext_filename("_C").removeprefix("_C")
            remove_libraries({one.resolve() for one in next(iter(built)).parent.glob(f"_C*{suffix}")} - built)

    return {"ext_modules": extensions, "cmdclass": {"build_ext": BuildKernels}}


def remove_libraries(stale: set[Path]) -> None:
    """Removes libraries that an earlier build left."""
    for library in stale:
        toolchain.say(f"removing {library.name} of an earlier build")
        library.unlink()


toolchain.require_setuptools()
setup(**({} if DESCRIBING & set(sys.argv[1:]) else native_options()))
