"""Runs ops on the machine of tests/simt and counts what each launch does."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.work_model import COSTS, Record

_RUN = Path(__file__).resolve().parents[1] / "tests" / "simt" / "run.py"


@dataclass(frozen=True)
class Counted:
    """One call: its records, launch by launch; what it returned; and the bytes that it allocated beside that."""

    records: tuple[Record, ...]
    results: tuple[Tensor, ...]
    scratch: float


class Machine:
    """The kernels compiled twice: as they are, and with every access watched. Sampled blocks run the second."""

    def __init__(self) -> None:
        spec = importlib.util.spec_from_file_location("simt_run", _RUN)
        assert spec is not None and spec.loader is not None
        run = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(run)
        if reason := run.missing():
            raise SystemExit(f"the kernels cannot be counted here: {reason}")
        plain, watched = run.build_library("plain"), run.build_library("watched")
        torch.ops.load_library(str(plain))
        torch.ops.load_library(str(watched))
        self._library = ctypes.CDLL(str(run.build_machine()))
        self._library.simt_counts.restype = ctypes.c_char_p
        twins = dict(_kernels(watched))
        for name, address in _kernels(plain):
            readable = _readable(name)
            self._library.simt_add_twin(ctypes.c_void_p(address), ctypes.c_void_p(twins[name]), readable.encode())

    def count(self, op: str, args: tuple[Any, ...], blocks: int, events: int) -> Counted:
        """Calls ``tinyssd_simt::op``; counts about ``blocks`` blocks of a launch, fewer beyond ``events`` accesses."""
        costs = (ctypes.c_double * len(COSTS))(*COSTS.values())
        self._library.simt_set_seed(ctypes.c_uint64(0))
        self._library.simt_count(costs, ctypes.c_uint64(blocks), ctypes.c_uint64(events))
        with torch.no_grad(), torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            found = getattr(torch.ops.tinyssd_simt, op)(*args)
        records = json.loads(self._library.simt_counts())
        self._library.simt_count(None, ctypes.c_uint64(0), ctypes.c_uint64(0))
        results = found if isinstance(found, tuple) else (found,)
        allocated = sum(e.cpu_memory_usage for e in profile.events() if e.name == "[memory]" and e.cpu_memory_usage > 0)
        allocated = max(allocated, sum(max(0, e.self_cpu_memory_usage) for e in profile.events()))
        kept = sum(r.untyped_storage().nbytes() for r in results)
        return Counted(tuple(records), results, float(allocated - kept))


def _kernels(library: Path) -> Iterator[tuple[str, int]]:
    """The names of all functions of a loaded library, and their addresses."""
    base = next(int(line.split("-")[0], 16) for line in Path("/proc/self/maps").open() if str(library) in line)
    listing = subprocess.run(["nm", "--defined-only", str(library)], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        address, kind, name = line.split(" ", 2)
        if kind in "tTwW" and "_kernel" in name:
            yield name, base + int(address, 16)


@functools.cache
def _demangled(name: str) -> str:
    return subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()


def _readable(name: str) -> str:
    found = re.search(r"\d+([a-z_]+_kernel)", name)
    return found.group(1) if found else name
