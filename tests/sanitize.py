"""The CPU kernels under g++'s sanitizers: ``python tests/sanitize.py address|thread [--minutes N] [--seed N]``.

``address``: AddressSanitizer and UndefinedBehaviorSanitizer, over the fuzzer's cases (tests/fuzz.py).
``thread``: ThreadSanitizer, over many Python threads that call every op at once on tensors that they share. Torch
itself is not instrumented, so each op runs in the thread that calls it, and what torch alone does is passed over
(tests/sanitize.supp).
Objects stay in a folder of temporary files, so that a second run compiles only what changed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from simt import run  # noqa: E402

KINDS = {
    # No float-divide-by-zero: dividing by 0 is defined, and meant.
    "address": ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
OPTIONS = ["-std=c++20", "-O1", "-g1", "-fno-omit-frame-pointer", "-fPIC", "-fvisibility=hidden"]
OPTIONS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
DEFINES = [
    "-DTINYSSD_ONE_PATH",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    '-DTINYSSD_TORCH_TARGET="2.10"',
    "-DTORCH_EXTENSION_NAME=_C",
]
THREADS = 8


def build(kind: str) -> Path:
    """The module ``_C``, instrumented."""
    import pybind11
    from torch.utils import cpp_extension

    from tinyssd_ops import __version__

    folders = [*cpp_extension.include_paths(), pybind11.get_include(), sysconfig.get_path("include")]
    options = [*OPTIONS, *KINDS[kind], *DEFINES, f'-DTINYSSD_VERSION="{__version__}"', f"-I{run.CSRC}"]
    options += [f"-isystem{folder}" for folder in folders]
    sources = [*sorted(run.CSRC.glob("*.cpp")), *sorted((run.CSRC / "cpu").glob("*.cpp"))]
    with run.alone(), ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: run.compile_object(source, options, kind), sources))
    flags = ["-shared", *KINDS[kind], *(f"-L{folder}" for folder in cpp_extension.library_paths()), "-ltorch_cpu"]
    return run.link(f"_C_{kind}.so", objects, flags)


def load(library: Path) -> None:
    """Makes the instrumented kernels those of ``torch.ops.tinyssd_ops``; the public functions stay the reference's."""
    from tinyssd_ops import _extension, _registration

    _extension._import_file("tinyssd_ops._C", library)
    _registration.register()


def fuzz(minutes: float, seed: int) -> int:
    """The fuzzer on the loaded kernels; the number of failures."""
    import fuzz as fuzzer

    for path in sorted(fuzzer.CORPUS.glob("*.json")):
        fuzzer.replay(path)
    done, failures = fuzzer.fuzz(60 * minutes, seed, Path("fuzz-failures"))
    print(f"{done} cases, {failures} failures")
    return failures


def hammer(minutes: float, seed: int) -> int:
    """Every op from many threads at once, on shared tensors; the number of answers that differ from one thread's."""
    import torch
    from cases import sample_calls
    from torch.utils._pytree import tree_leaves

    torch.set_num_threads(1)
    ops = torch.ops.tinyssd_ops
    calls = [(op, args, kwargs) for op, all_calls in sample_calls().items() for args, kwargs in all_calls]
    expected = [tree_leaves(getattr(ops, op)(*args, **kwargs)) for op, args, kwargs in calls]
    ends, wrong, done = time.monotonic() + 60 * minutes, [0] * THREADS, [0] * THREADS

    def one(number: int) -> None:
        pick = random.Random(seed + number)
        while time.monotonic() < ends:
            k = pick.randrange(len(calls))
            op, args, kwargs = calls[k]
            results = tree_leaves(getattr(ops, op)(*args, **kwargs))
            wrong[number] += not all(map(torch.equal, results, expected[k]))
            done[number] += 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{sum(done)} calls from {THREADS} threads, {sum(wrong)} wrong answers")
    return sum(wrong)


def environment(kind: str) -> dict[str, str]:
    """What the process needs that loads the instrumented module."""
    variables = {"TINYSSD_OPS_BACKEND": "reference", "TINYSSD_SANITIZED": kind}
    if kind == "address":
        return run.environment(**variables, UBSAN_OPTIONS="print_stacktrace=1")
    preload = f"{run.sanitizer_library('libtsan.so')} {run.sanitizer_library('libstdc++.so.6')}"
    options = f"halt_on_error=0 exitcode=66 history_size=4 suppressions={HERE / 'sanitize.supp'}"
    return {**os.environ, **variables, "LD_PRELOAD": preload, "TSAN_OPTIONS": options}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if os.environ.get("TINYSSD_SANITIZED") != options.kind:
        os.environ["TINYSSD_OPS_BACKEND"] = "reference"  # the package's own kernels need not be built
        build(options.kind)
        os.execve(sys.executable, [sys.executable, *sys.argv], environment(options.kind))
    load(run.build_folder() / f"_C_{options.kind}.so")
    return 1 if (fuzz if options.kind == "address" else hammer)(options.minutes, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
