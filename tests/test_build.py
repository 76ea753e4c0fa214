"""What the build looks for and says: csrc/toolchain.py, csrc/build_backend.py, setup.py. Nothing is compiled here."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import torch

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "setup.py").is_file():
    pytest.skip("the build is not part of this copy", allow_module_level=True)
sys.path.insert(0, str(ROOT / "csrc"))
import build_backend  # noqa: E402
import toolchain  # noqa: E402

KNOWN = "compute_75 compute_80 compute_90 compute_100 compute_110 compute_120"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "TINYSSD_OPS_CUDA", "TINYSSD_OPS_NATIVE", "CXX"):
        monkeypatch.delenv(name, raising=False)


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """A CUDA toolkit whose nvcc knows a few architectures, on a machine without GPUs."""
    _program(tmp_path / "cuda" / "bin" / "nvcc", f"echo {KNOWN}; echo TOP={tmp_path / 'cuda'} >&2")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(toolchain, "gpus_in_sight", list)
    return tmp_path / "cuda"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("native", 'got "native": leave it unset for the GPUs in sight'),
        ("sm_90", 'got "sm_90": write 9.0'),
        ("90", 'got "90": write 9.0'),
        ("8.0;120", 'got "120": write 12.0'),
        ("Volta", 'expected numbers such as "9.0" or "8.0;9.0+PTX", got "Volta"'),
        ("all", 'got "all": all of them are "8.0;8.6;8.9;9.0;10.0;11.0;12.0+PTX"'),
        ("7.5", "the CUDA kernels need 8.0 (Ampere) or newer, got 7.5"),
        ("9.9", "this nvcc knows 7.5, 8.0, 9.0, 10.0, 11.0, 12.0, got 9.9"),
    ],
)
def test_wrong_architectures(toolkit, monkeypatch, wanted, message):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    with pytest.raises(SystemExit) as caught:
        toolchain.cuda_architectures(str(toolkit))
    assert str(caught.value).startswith("TORCH_CUDA_ARCH_LIST: ")
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("wanted", "gpus", "chosen"),
    [
        ("8.0, 9.0+PTX", [], ["8.0", "9.0+PTX"]),
        ("8.0 9.0a;", ["12.0"], ["8.0", "9.0a"]),
        ("", [], ["8.0", "9.0+PTX"]),
        ("", ["9.0"], ["9.0"]),
        ("", ["7.5", "8.0", "11.0"], ["8.0", "11.0"]),
        ("", ["13.0"], ["12.0+PTX"]),
        ("", ["7.0"], ["8.0", "9.0+PTX"]),
    ],
)
def test_architectures(toolkit, monkeypatch, wanted, gpus, chosen):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    monkeypatch.setattr(toolchain, "gpus_in_sight", lambda: gpus)
    assert toolchain.cuda_architectures(str(toolkit)) == chosen


def test_options_for_architectures():
    assert toolchain.code_for(["8.0", "11.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_110,code=sm_110",
        "-gencode=arch=compute_110,code=compute_110",
    ]


def test_gpus_in_sight(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    _program(tmp_path / "nvidia-smi", "printf '12.0\\n8.6\\n8.6\\n[N/A]\\n'")
    assert toolchain.gpus_in_sight() == ["8.6", "12.0"]
    _program(tmp_path / "nvidia-smi", "echo '9.0'; exit 9")
    assert toolchain.gpus_in_sight() == []


def test_nvcc_is_looked_for_where_torch_looks(toolkit, tmp_path, monkeypatch):
    usual = _program(tmp_path / "usual" / "nvcc", "")
    which = toolchain.shutil.which

    def elsewhere(name, path=None):
        return which(name, path=str(usual.parent) if path == "/usr/local/cuda/bin" else path)

    monkeypatch.setattr(toolchain.shutil, "which", elsewhere)
    assert toolchain.find_nvcc() == str(usual)
    on_the_path = _program(tmp_path / "bin" / "nvcc", "")
    assert toolchain.find_nvcc() == str(on_the_path)
    monkeypatch.setenv("CUDA_PATH", str(toolkit))
    assert toolchain.find_nvcc() == str(toolkit / "bin" / "nvcc")
    assert toolchain.cuda_home() == str(toolkit)
    monkeypatch.setenv("TINYSSD_OPS_CUDA", "0")
    assert toolchain.cuda_home() is None


def test_wrong_cuda_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^CUDA_HOME=.*: there is no bin/nvcc in it; TINYSSD_OPS_CUDA=0 builds"):
        toolchain.cuda_home()


def test_no_nvcc(monkeypatch, capsys):
    monkeypatch.setattr(toolchain.shutil, "which", lambda *args, **kwargs: None)
    assert toolchain.cuda_home() is None
    assert "CPU kernels only (no nvcc)" in capsys.readouterr().out
    monkeypatch.setenv("TINYSSD_OPS_CUDA", "1")
    with pytest.raises(SystemExit, match="TINYSSD_OPS_CUDA=1, but there is no nvcc: not in CUDA_HOME, PATH or"):
        toolchain.cuda_home()


def test_nvcc_without_cpp20(tmp_path, monkeypatch):
    complaint = "nvcc fatal   : Value 'c++20' is not defined for option 'std'"
    _program(tmp_path / "bin" / "nvcc", f'case "$*" in *c++20*) echo "{complaint}" >&2; exit 1; esac')
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"said: nvcc fatal .*'c\+\+20' is not defined.*\nTINYSSD_OPS_CUDA=0"):
        toolchain.cuda_home()


@pytest.mark.parametrize("script", ["echo 'no licence for you' >&2; exit 3", None])
def test_failing_nvcc_shows_its_own_message(tmp_path, monkeypatch, script):
    nvcc = _program(tmp_path / "bin" / "nvcc", script or "")
    if script is None:
        nvcc.write_bytes(b"\x7fELF of another machine")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    expected = "failed; it said: no licence for you" if script else "cannot be run: .*Exec format error"
    with pytest.raises(SystemExit, match=expected):
        toolchain.cuda_home()


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++ -m64")
    with pytest.raises(SystemExit, match=r"no C\+\+ compiler \(/nowhere/g\+\+ -m64; .*TINYSSD_OPS_NATIVE=0 installs"):
        toolchain.require_compiler()


def test_missing_and_old_packages(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(SystemExit, match=r"needs torch 2\.10 or newer, this is 2\.9\.1"):
        toolchain.require_packages()
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    monkeypatch.setattr(toolchain.importlib, "import_module", lambda name: (_ for _ in ()).throw(missing))
    with pytest.raises(
        SystemExit, match=r"the kernels need torch to build \(pip install torch\); TINYSSD_OPS_NATIVE=0"
    ):
        toolchain.require_packages()
    monkeypatch.setattr(setuptools, "__version__", "65.5.0")
    with pytest.raises(SystemExit, match=r"needs setuptools 77 or newer to build, this is 65\.5\.0"):
        toolchain.require_setuptools()


@pytest.mark.parametrize("name", ["TINYSSD_OPS_CUDA", "TINYSSD_OPS_NATIVE"])
def test_wrong_settings(monkeypatch, name):
    monkeypatch.setenv(name, "yes")
    with pytest.raises(SystemExit, match=f"{name}: expected 0 or 1, got 'yes'"):
        toolchain.setting(name, "")


def test_requirements(monkeypatch):
    assert build_backend.get_requires_for_build_sdist() == []
    assert build_backend.get_requires_for_build_wheel() == ["ninja", "pybind11>=2.12"]  # the torch here serves
    monkeypatch.setattr(build_backend, "installed_torch", lambda: None)
    wanted = build_backend.get_requires_for_build_editable()
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    assert wanted[-1] == f"torch>=2.10,<={pinned.removeprefix('torch==')}"
    monkeypatch.setenv("TINYSSD_OPS_NATIVE", "0")
    assert build_backend.get_requires_for_build_wheel() == []


@pytest.mark.parametrize(("version", "serves"), [("2.10.0", True), ("3.0.0a1", True), ("2.9.1", False)])
def test_torch_of_the_environment_behind_an_isolated_one(tmp_path, monkeypatch, version, serves):
    """As under pip, where the environment's own packages are hidden from the build."""
    package = tmp_path / f"torch-{version}.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    monkeypatch.setattr(build_backend.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(build_backend.site, "getsitepackages", lambda: [str(tmp_path)])
    assert build_backend.installed_torch() == (version if serves else None)
    assert sys.path == ["/nowhere", str(tmp_path)]


def test_describing_the_package_needs_no_torch(tmp_path):
    code = (
        "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['setup.py', '-q', 'egg_info', '-e', sys.argv[1]];"
        "runpy.run_path('setup.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch>=2.10" in (tmp_path / "tinyssd_ops.egg-info" / "requires.txt").read_text()


def _setup_arguments(monkeypatch):
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    monkeypatch.setenv("TINYSSD_OPS_CUDA", "0")
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def test_no_stale_library_is_packed(tmp_path, monkeypatch):
    """A tree built with CUDA before, built without now."""
    from setuptools.dist import Distribution
    from torch.utils.cpp_extension import BuildExtension

    monkeypatch.setattr(BuildExtension, "run", lambda self: None)
    arguments = _setup_arguments(monkeypatch)
    assert [one.name for one in arguments["ext_modules"]] == ["tinyssd_ops._C"]
    command = arguments["cmdclass"]["build_ext"](Distribution({**arguments, "packages": ["tinyssd_ops"]}))
    command.build_lib, command.inplace = str(tmp_path), False
    command.extensions = arguments["ext_modules"]
    folder = tmp_path / "tinyssd_ops"
    folder.mkdir()
    suffix = command.get_ext_filename("_C").removeprefix("_C")
    for name in (f"_C{suffix}", f"_C_cuda{suffix}", "_C.of-another-python.so"):
        (folder / name).touch()
    command.run()
    assert sorted(one.name for one in folder.iterdir()) == sorted([f"_C{suffix}", "_C.of-another-python.so"])


def test_one_build_at_a_time_starts_with_an_empty_collection(tmp_path, monkeypatch):
    monkeypatch.setattr(build_backend, "ROOT", tmp_path)
    stale = tmp_path / "build" / "lib.linux" / "tinyssd_ops" / "_C_cuda.so"
    stale.parent.mkdir(parents=True)
    stale.touch()
    with build_backend._tree():
        assert not stale.exists()
        if os.name == "posix":
            import fcntl

            with (tmp_path / "build" / ".lock").open("a") as second, pytest.raises(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_read_only_tree(tmp_path, monkeypatch):
    (tmp_path / "build").touch()  # not a folder: root may write into a read-only one
    monkeypatch.setattr(build_backend, "ROOT", tmp_path)
    with (
        pytest.raises(SystemExit, match=r"a build writes into its source tree: .*; copy the tree"),
        build_backend._tree(),
    ):
        pass
