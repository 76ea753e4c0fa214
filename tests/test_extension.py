"""How the library is found, chosen and built: info(), TINYSSD_OPS_BACKEND, TINYSSD_OPS_SIMD, the binary's symbols."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import tinyssd_ops
from tinyssd_ops import _extension

PACKAGE = Path(tinyssd_ops.__file__).resolve().parent
# "native" where this process serves the CPU natively: a source tree may hold a library that the environment refuses.
SERVED = tinyssd_ops.info()["backends"]["cpu"]["backend"]
NATIVE = pytest.mark.skipif(SERVED != "native", reason="no native kernels here")
LIBRARIES = pytest.mark.parametrize("name", ["_C", "_C_cuda"])


def _python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new process that imports the same package as this one."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TINYSSD_OPS_")} | variables
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=PACKAGE.anchor
    )


PRINT_BACKEND = "import tinyssd_ops; print(tinyssd_ops.info()['backends']['cpu']['backend'])"


def test_info():
    info = tinyssd_ops.info()
    assert info["version"] == tinyssd_ops.__version__
    assert info["torch"] == torch.__version__
    assert set(info["backends"]) >= {"cpu", "cuda"}
    for served in info["backends"].values():
        assert served["backend"] in ("native", "reference")
        assert served["why"]
    assert {"nms", "detect", "decode_boxes"} <= set(info["ops"])
    assert info["ops"]["nms"]["cpu"] == info["backends"]["cpu"]["backend"]
    assert info["ops"]["decode_boxes"]["cpu"] == "torch"


@NATIVE
def test_build_info():
    build = tinyssd_ops.info()["build"]["_C"]
    assert build["version"] == tinyssd_ops.__version__
    assert build["compiler"].startswith(("gcc", "clang"))
    assert build["torch_abi_target"] == "2.10"
    assert build["simd_paths"][0] == "baseline"
    assert build["simd"] in build["simd_paths"]


class _Cuda:
    """As the module _C_cuda says it."""

    def __init__(self, driver, architectures="8.0;9.0+PTX"):
        self.driver_version = lambda: driver
        self.build_info = lambda: {"cuda_architectures": architectures}


def test_what_is_said_of_gpus(monkeypatch):
    assert _extension.gpus(_Cuda(0)) == ["no NVIDIA driver"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _extension.gpus(_Cuda(13000)) == ["a driver for CUDA 13.0, and no GPU that torch can use"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda k: f"GPU {k}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda k: ((8, 9), (7, 5))[k])
    assert _extension.gpus(_Cuda(12080)) == [
        "GPU 0, compute capability 8.9, a driver for CUDA 12.8: the library holds code for it",
        "GPU 1, compute capability 7.5, a driver for CUDA 12.8: the library holds no code for it: install again with "
        'TORCH_CUDA_ARCH_LIST="7.5"',
    ]


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((9, 0), "8.0;9.0+PTX", "holds code"),
        ((8, 6), "8.0;9.0+PTX", "holds code"),
        ((8, 0), "8.6", "holds no code"),
        ((12, 0), "8.0;9.0+PTX", "holds PTX"),
        ((12, 0), "8.0;9.0", "holds no code"),
        ((9, 0), "9.0a", "holds code"),
        ((12, 1), "12.0a+PTX", "holds no code"),
    ],
)
def test_code_for_a_gpu(capability, architectures, expected):
    assert expected in _extension.code_for(capability, architectures.split(";"))


@NATIVE
def test_a_torch_with_cuda_loads_the_cuda_kernels():
    """Whether there is a GPU or not: an op that has a kernel for the CPU has one for CUDA, and `info()` says both."""
    library = _library("_C_cuda")
    if torch.version.cuda is None:
        pytest.skip("this torch has no CUDA")
    info = tinyssd_ops.info()
    served = info["backends"]["cuda"]
    if "update the driver" in served["why"]:
        pytest.skip("the driver is older than the kernels")
    assert served["backend"] == info["ops"]["nms"]["cuda"] == "native"
    assert served["why"] == f"native library {library}"
    assert info["build"]["_C_cuda"]["cuda_architectures"]
    ops = {
        device: {
            name
            for name in torch._C._dispatch_get_registrations_for_dispatch_key(device.upper())
            if name.startswith("tinyssd_ops::")
        }
        for device in ("cpu", "cuda")
    }
    assert "tinyssd_ops::nms_padded" in ops["cpu"]
    assert ops["cuda"] == ops["cpu"]
    if not torch.cuda.is_available():
        assert len(served["gpus"]) == 1
        assert served["gpus"][0] == "no NVIDIA driver" or served["gpus"][0].endswith("no GPU that torch can use")


@pytest.mark.parametrize(
    ("driver", "problem"),
    [
        (0, ""),  # none: nothing to run the kernels with, and nothing that they could run
        (12080, "the NVIDIA driver supports CUDA 12.8 and the kernels were built with 13.0: update the driver, or"),
        (13000, ""),
        (14020, ""),
    ],
)
def test_a_driver_that_is_too_old(driver, problem):
    library = _Cuda(driver)
    library.runtime_version = lambda: 13000
    said = _extension._driver_problem(library)
    assert said.startswith(problem)
    assert bool(said) == bool(problem)


def test_the_reference_on_a_gpu_is_said_once(monkeypatch):
    class OnGpu(torch.Tensor):
        is_cpu, is_cuda = False, True
        device = torch.device("cuda")

    boxes = torch.rand(3, 4).as_subclass(OnGpu)
    monkeypatch.setattr(tinyssd_ops.ops, "_NATIVE_DEVICES", frozenset({"cpu"}))
    monkeypatch.delenv("TINYSSD_OPS_BACKEND", raising=False)
    _extension.warn_of_the_reference.cache_clear()
    with pytest.warns(UserWarning, match="CUDA tensors are served by the pure-Torch reference") as caught:
        served = [tinyssd_ops.ops._backend(boxes=boxes) for _ in range(2)]
    assert served == [tinyssd_ops.reference] * 2
    assert len(caught) == 1
    monkeypatch.setenv("TINYSSD_OPS_BACKEND", "reference")
    _extension.warn_of_the_reference.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tinyssd_ops.ops._backend(boxes=boxes)
    _extension.warn_of_the_reference.cache_clear()


def test_public_names():
    assert all(hasattr(tinyssd_ops, name) for name in tinyssd_ops.__all__)


def test_reference_backend():
    code = PRINT_BACKEND + "; import torch; print(tinyssd_ops.nms(torch.ones(2, 4), torch.ones(2), 0.5).tolist())"
    result = _python(code, TINYSSD_OPS_BACKEND="reference")
    assert result.stdout.split("\n")[:2] == ["reference", "[0, 1]"], result.stderr


@NATIVE
@pytest.mark.parametrize("wanted", ["native", "auto"])
def test_native_backend(wanted):
    result = _python(PRINT_BACKEND, TINYSSD_OPS_BACKEND=wanted)
    assert result.stdout.strip() == "native", result.stderr


def test_native_backend_missing(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "tinyssd_ops", ignore=shutil.ignore_patterns("_C*", "__pycache__"))
    # An installed distribution would be found; -I and -S leave it out, and torch is put back by its path.
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(torch.__file__).resolve().parents[1])!r}];"
        "import importlib.metadata as m; m.distributions = lambda **k: iter(()); import tinyssd_ops"
    )
    result = _python(code, TINYSSD_OPS_BACKEND="native", PYTHONPATH="")
    assert result.returncode != 0
    assert "TINYSSD_OPS_BACKEND=native, but tinyssd_ops was installed without _C" in result.stderr
    result = _python(code)
    assert "is not installed: run `pip install .`" in result.stderr


def test_unknown_backend():
    result = _python("import tinyssd_ops", TINYSSD_OPS_BACKEND="cpp")
    assert "TINYSSD_OPS_BACKEND: expected auto, native or reference, got 'cpp'" in result.stderr


@NATIVE
@pytest.mark.parametrize("path", tinyssd_ops.info()["build"].get("_C", {}).get("simd_paths", []))
def test_simd_from_the_environment(path):
    code = "import tinyssd_ops; print(tinyssd_ops.info()['build']['_C']['simd'])"
    assert _python(code, TINYSSD_OPS_SIMD=path).stdout.strip() == path


@NATIVE
def test_unknown_simd_path():
    result = _python("import tinyssd_ops", TINYSSD_OPS_SIMD="mmx")
    assert result.returncode != 0
    assert "TINYSSD_OPS_SIMD: this CPU can run baseline" in result.stderr


def test_import_needs_torch_alone():
    absent = ("numpy", "PIL", "matplotlib", "tqdm", "faster_coco_eval", "torchvision", "tinyssd")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import tinyssd_ops; print('imported')"
    result = _python(code)
    assert result.stdout.strip() == "imported", result.stderr


def _library(name: str) -> Path:
    """The library file; _C_cuda may be built and not loaded, by a torch without CUDA: it lies beside the other."""
    folder = Path(str(sys.modules["tinyssd_ops._C"].__file__)).parent
    found = sorted(folder.glob(f"{name}.*"))
    if not found:
        pytest.skip(f"{name} was not built")
    return found[0]


def _symbols(name: str, *options: str) -> list[str]:
    library = _library(name)
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm to list symbols with")
    listing = subprocess.run([nm, "-D", *options, library], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1].split("@")[0] for line in listing.splitlines()]


@NATIVE
@LIBRARIES
def test_uses_only_the_stable_abi(name):
    """No C++ symbol of libtorch, whose C++ ABI changes with every release: only its C shims."""
    undefined = _symbols(name, "--undefined-only")
    mangled = [s for s in undefined if s.startswith("_Z") and any(p in s for p in ("3c10", "2at", "5torch", "5caffe"))]
    assert not mangled
    assert any(s.startswith(("aoti_torch_", "torch_")) for s in undefined)


@NATIVE
@LIBRARIES
def test_uses_nothing_newer_than_torch_2_10(name):
    listed = (Path(__file__).parent / "torch_2_10_symbols.txt").read_text().splitlines()
    used = [s for s in _symbols(name, "--undefined-only") if s.startswith(("aoti_torch_", "torch_"))]
    assert not set(used) - set(listed)


@NATIVE
def test_carries_the_cuda_runtime():
    """The static runtime is linked: no libcudart is looked for, and none of another version is met."""
    undefined = _symbols("_C_cuda", "--undefined-only")
    assert not [s for s in undefined if s.startswith(("cuda", "__cuda"))]


@NATIVE
@LIBRARIES
def test_exports_only_the_module(name):
    defined = _symbols(name, "--defined-only")
    assert not [s for s in defined if "tinyssd" in s]
    assert f"PyInit_{name}" in defined


@NATIVE
@LIBRARIES
def test_names_no_folder_of_the_build(name):
    """Messages of torch's headers name their file, not where it lay."""
    data = Path(_library(name)).read_bytes()
    assert b"torch/include/torch/csrc/stable" in data
    assert not [folder for folder in (b"site-packages", b"build-env", bytes(PACKAGE.parent / "csrc")) if folder in data]
