"""What machine the gate runs on: the GPU as PyTorch sees it, and the versions of everything that takes part."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from typing import Any

from benchmarks.gate.tools import find_tool

_PROBE = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available()}
if found["available"]:
    gpu = torch.cuda.get_device_properties(0)
    found |= {"name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "count": torch.cuda.device_count()}
    found |= {"multiprocessors": gpu.multi_processor_count, "memory": gpu.total_memory, "l2": gpu.L2_cache_size}
print(json.dumps(found))
"""


def probe_gpu() -> dict[str, Any]:
    """What PyTorch sees, asked in another process: this one must hold no memory of the GPU."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), "no message")
        return {"torch": "none", "cuda": None, "available": False, "error": last}
    return json.loads(done.stdout.splitlines()[-1])


def stand_in() -> dict[str, Any]:
    """For a rehearsal: what a probe would say, without a GPU."""
    import torch

    found = {"torch": torch.__version__, "cuda": None, "available": True, "name": "no GPU: a rehearsal on the CPU"}
    return found | dict.fromkeys(("capability", "count", "multiprocessors", "memory", "l2"), "none")


def machine(probe: dict[str, Any]) -> dict[str, str]:
    """The device, the driver and the versions of everything that takes part."""
    found = {"device": probe["name"], "torch": probe["torch"], "CUDA of torch": probe["cuda"]}
    found |= {name: str(probe[name]) for name in ("capability", "count", "multiprocessors", "memory", "l2")}
    found["driver"] = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    found["nvcc"] = _last_match(r"release \S+ V\S+", find_tool("nvcc") or "nvcc", "--version")
    for tool in ("compute-sanitizer", "ncu"):
        found[tool] = _last_match(r"Version \S+", find_tool(tool) or tool, "--version")
    found["python"] = sys.version.split()[0]
    for package in ("torchvision", "setuptools", "triton", "pytest"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["CPU cores"] = str(os.cpu_count())
    return found


def _first_line(*command: str) -> str:
    return next(iter(_output(*command).splitlines()), "not found")


def _last_match(pattern: str, *command: str) -> str:
    return next(iter(re.findall(pattern, _output(*command))[-1:]), "not found")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
