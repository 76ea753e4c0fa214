"""Runs ops on the machine of tests/simt and counts what each launch does."""

from __future__ import annotations

import ctypes
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
from torch.profiler import ProfilerActivity

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
        assert spec is not None
        assert spec.loader is not None
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
        function = getattr(torch.ops.tinyssd_simt, op)
        try:
            self._library.simt_weigh()
            self._library.simt_set_seed(ctypes.c_uint64(0))
            function(*args)
            self._library.simt_count(costs, ctypes.c_uint64(blocks), ctypes.c_uint64(events))
            self._library.simt_set_seed(ctypes.c_uint64(0))
            with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profile:
                found = function(*args)
        finally:
            self._library.simt_stop()
        records = json.loads(self._library.simt_counts())
        results = found if isinstance(found, tuple) else (found,)
        allocated = sum(e.cpu_memory_usage for e in profile.events() if e.name == "[memory]" and e.cpu_memory_usage > 0)
        allocated = max(allocated, sum(max(0, e.self_cpu_memory_usage) for e in profile.events()))
        kept = sum(r.untyped_storage().nbytes() for r in results)
        return Counted(tuple(records), results, float(allocated - kept))


def _kernels(library: Path) -> Iterator[tuple[str, int]]:
    """The names of all functions of a loaded library, and their addresses."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    base = next(int(line.split("-")[0], 16) for line in maps if line.endswith(str(library)))
    listing = subprocess.run(["nm", "--defined-only", str(library)], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        address, kind, name = line.split(" ", 2)
        if kind in "tTwW" and "_kernel" in name and "." not in name:  # no parts of functions
            yield name, base + int(address, 16)


def _readable(name: str) -> str:
    found = re.search(r"\d+([a-z_]+_kernel)", name)
    return found.group(1) if found else name
