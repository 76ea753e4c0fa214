"""Fixtures of the op tests: the backends an op is called through, and the SIMD paths of the native one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch.utils._pytree import tree_map_only

# --import-mode=importlib leaves this folder off sys.path; the tests import cases and oracle from it.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from garbage import garbage

import tinyssd_ops
from tinyssd_ops import _registration, reference

settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("ci")

# Started in the background or by nohup, a program ignores these; the tests see what one in a terminal sees.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _signal in {"SIGHUP", "SIGTERM"} & vars(signal).keys():
    signal.signal(getattr(signal, _signal), signal.SIG_DFL)

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
_INFO = tinyssd_ops.info()
_NATIVE_MODULE = sys.modules.get("tinyssd_ops._C")
# Set by tests/simt/run.py: the CUDA kernels compiled for the CPU. They are then the one backend, called as bare ops.
SIMT = os.environ.get("TINYSSD_OPS_SIMT")
SIMT_NAMESPACE = os.environ.get("TINYSSD_OPS_SIMT_NAMESPACE", "tinyssd_simt")


@dataclass(frozen=True)
class Backend:
    """The ops of one backend on one device, called with tensors of the CPU and answering with such."""

    name: str
    device: str

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if self.name == "reference":
            function = getattr(reference, op)
        else:
            function = getattr(getattr(torch.ops, SIMT_NAMESPACE if self.name == "simt" else "tinyssd_ops"), op)

        def call(*args: Any, **kwargs: Any) -> Any:
            # Meta tensors stay: they are how bad input gets a second device.
            args, kwargs = tree_map_only(
                torch.Tensor, lambda t: t if t.is_meta else t.to(self.device, copy=False), (args, kwargs)
            )
            with garbage() if self.name == "native" else contextlib.nullcontext():
                result = function(*args, **kwargs)
            return tree_map_only(torch.Tensor, lambda t: t if t.is_meta else t.cpu(), result)

        return call


def native_reason(device: str) -> str | None:
    """Why the native backend cannot be tested on the device, or None."""
    served = _INFO["backends"][device]
    return None if served["backend"] == "native" else f"no native kernels for {device}: {served['why']}"


def _param(name: str, device: str) -> Any:
    reason = native_reason(device) if name == "native" else None
    marks = [pytest.mark.skip(reason=reason)] if reason else []
    return pytest.param(Backend(name, device), id=f"{name}-{device}", marks=marks)


BACKENDS = [("simt", "cpu")] if SIMT else [(name, device) for device in DEVICES for name in ("native", "reference")]


@pytest.fixture(params=[_param(*backend) for backend in BACKENDS])
def ops(request: pytest.FixtureRequest) -> Backend:
    """Every backend on every device."""
    return request.param


@pytest.fixture(params=[_param(*backend) for backend in BACKENDS if backend != ("reference", "cpu")])
def other(request: pytest.FixtureRequest) -> Backend:
    """Every backend that parity compares with the reference on the CPU."""
    return request.param


@pytest.fixture(params=[_param(*backend) for backend in BACKENDS if backend[0] != "reference"])
def native(request: pytest.FixtureRequest) -> Backend:
    """The native backend alone: what only a registered op can do."""
    return request.param


@pytest.fixture(params=[1, 3], ids=["one thread", "threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Torch's threads: the calling one alone, and several."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=_INFO["build"]["_C"]["simd_paths"] if _NATIVE_MODULE and not SIMT else ["none"])
def simd_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Forces each SIMD path that this CPU has, in turn."""
    if SIMT:
        yield request.param
        return
    if _NATIVE_MODULE is None:
        pytest.skip(native_reason("cpu") or "no native library")
    before = _NATIVE_MODULE.build_info()["simd"]
    _NATIVE_MODULE.set_simd_path(request.param)
    yield request.param
    _NATIVE_MODULE.set_simd_path(before)


if SIMT:
    torch.ops.load_library(SIMT)
    _MACHINE = ctypes.CDLL(SIMT)
    # The gradient of box_iou, and the checks that bad input on the meta device meets.
    _registration.register(SIMT_NAMESPACE)
    if SIMT_NAMESPACE == "tinyssd_watched":
        _MACHINE.simt_watch_races(1)

    # The rest of the tests is not about ops.
    collect_ignore_glob = [
        "test_app_*",
        "test_benchmarks.py",
        "test_assigners_memory.py",
        "test_boxes.py",
        "test_counts.py",
        "test_extension.py",
        "test_gate.py",
        "test_instructions.py",
        "test_simt.py",
        "test_work.py",
    ]

    def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves out what needs more of PyTorch than kernels: opcheck, torch.compile, vmap and meta tensors.

        Those tests take the fixture ``native`` or call the public functions.
        """
        kept = [item for item in items if {"ops", "other"} & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept

    @pytest.fixture(
        autouse=True, params=range(int(os.environ.get("TINYSSD_OPS_SIMT_SEEDS", "1"))), ids=lambda k: f"seed{k}"
    )
    def simt_seed(request: pytest.FixtureRequest) -> None:
        """An order of blocks and threads that is the test's own, the same in every run."""
        _MACHINE.simt_set_seed(ctypes.c_uint64(zlib.crc32(request.node.nodeid.encode())))


@pytest.fixture
def gate(tmp_path):
    """A GPU gate (benchmarks/gate) on the CPU, with half a minute for each part."""
    from benchmarks import gpu_gate
    from benchmarks.gate.programs import Gate

    out, work = tmp_path / "out", tmp_path / "work"
    for folder in (out, work / "site"):
        folder.mkdir(parents=True)
    limits = dict.fromkeys(gpu_gate.PARTS, 30.0)
    return Gate("cpu", "9.0", out, work, None, 2, time.monotonic() + 60, limits)
