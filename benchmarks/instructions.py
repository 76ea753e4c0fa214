"""``python -m benchmarks.instructions``: the instructions of box_iou for a pair of boxes, in sm_90 machine code.

Compiles csrc/cuda/box_iou.cu as setup.py does and reads nvdisasm's listing, the program that cuobjdump calls for it
(``pip install nvidia-cuda-nvdisasm``, or a CUDA toolkit). A pair has one reciprocal, with which its division begins, so
the loop that stores results has as many pairs as reciprocals; loads, the store and the loop itself are shared out.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_SOURCE = "csrc/cuda/box_iou.cu"
_RECIPROCAL, _STORE, _CALL = "MUFU.RCP", "STG", "CALL"


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel that stores results.

    Attributes:
        kernel: Its mangled name.
        instructions: From the first to the branch back.
        pairs: Results of a turn.
        calls: Subroutines that it can call: those of divisions that are out of the ordinary.
    """

    kernel: str
    instructions: int
    pairs: int
    calls: int

    @property
    def each(self) -> float:
        """Instructions a pair."""
        return self.instructions / self.pairs


def loops(listing: str) -> Iterator[Loop]:
    """Those of nvdisasm's listing that store results."""
    for section in re.split(r"^\.text\.", listing, flags=re.MULTILINE)[1:]:
        kernel, code = section.split(":", 1)
        labels: dict[str, int] = {}
        instructions: list[str] = []
        for line in code.splitlines():
            if label := re.match(r"(\.L_x_\d+):", line):
                labels[label[1]] = len(instructions)
            elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?) *;", line):
                instructions.append(found[1])
        for end, instruction in enumerate(instructions):
            target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", instruction)
            begin = labels.get(target[1], end + 1) if target else end + 1
            body = instructions[begin : end + 1]
            if any(_STORE in one for one in body) and any(_RECIPROCAL in one for one in body):
                yield Loop(kernel, len(body), _count(body, _RECIPROCAL), _count(body, _CALL))


def _count(body: Sequence[str], name: str) -> int:
    return sum(name in one for one in body)


def disassembler() -> str | None:
    """nvdisasm: on the PATH, of a toolkit, or of its wheel."""
    wheels = importlib.util.find_spec("nvidia")
    folders = [] if wheels is None else list(wheels.submodule_search_locations or [])
    places = [None, "/usr/local/cuda/bin", *(str(found) for one in folders for found in Path(one).glob("*/bin"))]
    return next((found for place in places if (found := shutil.which("nvdisasm", path=place))), None)


def missing() -> str | None:
    """Why this machine cannot count, or None."""
    if _checker()["toolchain"].find_nvcc() is None:
        return "no nvcc"
    return None if disassembler() else "no nvdisasm"


def disassembled(source: str = _SOURCE) -> str:
    """The machine code of a source file for sm_90."""
    checker, tool = _checker(), disassembler()
    assert tool is not None
    nvcc, options = checker["toolchain"].find_nvcc(), checker["compiler_options"](checker["extension"]())
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "code.cubin"
        plain = [option for option in options if "gencode" not in option]
        command = [nvcc, "-cubin", source, "-o", str(cubin), "-gencode=arch=compute_90,code=sm_90", *plain]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        return subprocess.run([tool, "-c", str(cubin)], check=True, capture_output=True, text=True).stdout


def _checker() -> dict[str, Any]:
    """What checks kernels in CI knows how to compile them."""
    return runpy.run_path(str(ROOT / ".ci" / "check_kernels"))


def main() -> int:
    """Prints the loops; returns 2 where the tools are missing."""
    if reason := missing():
        print(f"instructions not counted: {reason}", file=sys.stderr)
        return 2
    found = list(loops(disassembled()))
    names = _checker()["demangled"](list({loop.kernel for loop in found}))
    print(f"{'loop of':<40} {'instructions':>12} {'pairs':>6} {'calls':>6} {'a pair':>7}")
    for loop in found:
        print(f"{names[loop.kernel]:<40} {loop.instructions:>12} {loop.pairs:>6} {loop.calls:>6} {loop.each:>7.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
