"""Runs the op tests on the CUDA kernels without a GPU: ``python tests/simt/run.py [pytest arguments]``.

Paths among the arguments are relative to the root of the tree.

Compiles the very files of csrc/cuda with g++ against the stand-ins beside this file (see machine.h), with
AddressSanitizer, and runs pytest with the backend "simt" alone. What needs more of PyTorch than a kernel (opcheck,
torch.compile, vmap, meta tensors) is left out, by conftest.py.

TINYSSD_OPS_SIMT_SEEDS=n          every test with n seeds, each another order of blocks and threads; default 1
TINYSSD_OPS_SIMT_RACES=1          instead of AddressSanitizer the race detector, weak memory, and threads that may be
                                  overtaken at any access (see races.h)
TINYSSD_OPS_SIMT_SMALL=1          suppression and assignment take their paths of large inputs from a few hundred boxes
                                  on (suppress.cu, assign.cuh)
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
SANITIZERS = "address,alignment,bounds,shift,float-cast-overflow,integer-divide-by-zero"
COMMON = ["-std=c++20", "-fPIC", "-g", "-fno-omit-frame-pointer", "-fno-strict-aliasing", "-ffp-contract=off"]
# The machine itself is not instrumented: it is trusted, and every switch goes through it.
MACHINE = ["-O2", "-Wall", "-Wextra", *COMMON]
KERNEL = [*COMMON, "-fvisibility=hidden", f"-I{HERE / 'include'}", "-xc++"]
# How kernels are compiled. All call the machine in every basic block, so that a loop without an end is seen.
# "watched": at every access too (watch.cpp). "plain": no more than that, for what would take too long.
VARIANTS = {
    "checked": [
        *(f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-O1", "-fsanitize-coverage=trace-pc"),
        "-DTINYSSD_SIMT",
    ],
    "watched": [
        *("-O2", "-fsanitize=thread", "--param=tsan-distinguish-volatile=1", "-fsanitize-coverage=trace-pc"),
        *("--param=tsan-instrument-func-entry-exit=0", "-fno-ipa-icf", "-fno-tree-vectorize", "-DTINYSSD_SIMT"),
        *("-DSIMT_WATCHED", '-DSIMT_NAMESPACE="tinyssd_watched"'),
    ],
    "plain": ["-O2", "-fsanitize-coverage=trace-pc", "-fno-ipa-icf"],
}


def build_folder() -> Path:
    """Where compiled files stay, so that a second run compiles only what changed."""
    tree = hashlib.sha256(str(HERE).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"tinyssd-simt-{os.getuid()}-{tree}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Nobody else compiles or links here: a library that another process replaces is not the one that is loaded."""
    with (build_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def missing() -> str | None:
    """Why this machine can compile no kernels for the CPU, or None."""
    if os.uname().machine != "x86_64":
        return "the SIMT machine switches stacks on x86-64 alone"
    for library in ("libasan.so", "libubsan.so"):
        try:
            sanitizer_library(library)
        except (FileNotFoundError, subprocess.CalledProcessError):
            return f"no g++ with {library}"
    return None


@functools.cache
def sanitizer_library(name: str) -> str:
    """The path of a library of g++'s."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    if not Path(found.strip()).is_absolute():
        raise FileNotFoundError(name)
    return found.strip()


def environment(**variables: str) -> dict[str, str]:
    """The environment in which a process may load a library made with AddressSanitizer."""
    # libstdc++ comes along, since a Python that has loaded none yet hides its __cxa_throw from AddressSanitizer.
    preload = f"{sanitizer_library('libasan.so')} {sanitizer_library('libstdc++.so.6')}"
    # All new memory is filled, so that a result which nobody wrote is seen to be wrong.
    options = "detect_leaks=0:alloc_dealloc_mismatch=0:max_malloc_fill_size=1000000000:malloc_fill_byte=190"
    return {**os.environ, "LD_PRELOAD": preload, "ASAN_OPTIONS": options, **variables}


def _is_current(target: Path, command: list[str]) -> bool:
    """Whether the target is newer than all that it was made from, by the same command."""
    listing = target.with_suffix(".d")
    recorded = target.with_suffix(".cmd")
    if not (target.is_file() and listing.is_file() and recorded.is_file()) or recorded.read_text() != repr(command):
        return False
    sources = listing.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    made = target.stat().st_mtime
    return all(Path(source).is_file() and Path(source).stat().st_mtime < made for source in sources)


def compile_object(source: Path, options: list[str], variant: str = "machine") -> Path:
    """Compiles a file unless that has been done."""
    target = build_folder() / f"{variant}_{source.parent.name}_{source.name}.o"
    # Written beside it first: a compiler may be stopped half-way.
    fresh = target.with_suffix(f".{os.getpid()}.o")
    command = ["g++", "-c", *options, str(source)]
    if not _is_current(target, command):
        print(f"simt: compiling {source.name}", flush=True)
        subprocess.run([*command, "-o", str(fresh), "-MD", "-MF", str(fresh.with_suffix(".d"))], check=True)
        fresh.with_suffix(".d").replace(target.with_suffix(".d"))
        fresh.replace(target)
        target.with_suffix(".cmd").write_text(repr(command))
    return target


def link(name: str, objects: list[Path], options: list[str]) -> Path:
    """Links objects to a library or program unless that has been done."""
    target = build_folder() / name
    recorded = target.with_name(f"{name}.cmd")
    command = ["g++", *map(str, objects), *options]
    known = target.is_file() and recorded.is_file() and recorded.read_text() == repr(command)
    if not known or any(o.stat().st_mtime >= target.stat().st_mtime for o in objects):
        # A process that has loaded the old one keeps it.
        fresh = target.with_name(f"{name}.{os.getpid()}")
        subprocess.run([*command, "-o", str(fresh)], check=True)
        fresh.replace(target)
        recorded.write_text(repr(command))
    return target


def machine_objects(pool: ThreadPoolExecutor) -> list[Future[Path]]:
    """The jobs that compile the machine."""
    return [pool.submit(compile_object, source, MACHINE) for source in sorted(HERE.glob("*.cpp"))]


def build_library(variant: str = "checked") -> Path:
    """The shared library of the ops: tinyssd_simt::*, or tinyssd_watched::* if every access is watched.

    The checked one holds its machine; the others share that of :func:`build_machine`.
    """
    with alone():
        return _library(variant)


def build_machine() -> Path:
    """The machine as a library of its own, for two libraries of kernels at once."""
    with alone():
        return _machine()


def build_program(source: Path, variant: str = "checked") -> Path:
    """A program of kernels that needs no torch."""
    with alone():
        return _program(source, variant)


def _library(variant: str) -> Path:
    from torch.utils import cpp_extension

    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    options = [*KERNEL, *VARIANTS[variant], "-DTORCH_TARGET_VERSION=0x020a000000000000", *includes]
    options += ["-include", str(HERE / "simt.h")]
    sources = [CSRC / "library.cpp", *sorted((CSRC / "cuda").glob("*.cu"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_object, source, options, variant) for source in sources]
        if variant == "checked":
            jobs += machine_objects(pool)
        objects = [job.result() for job in jobs]
    flags = ["-shared", *(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch_cpu"]
    if variant == "checked":
        return link("tinyssd_simt.so", objects, [f"-fsanitize={SANITIZERS}", *flags])
    machine = _machine()
    return link(f"tinyssd_simt_{variant}.so", objects, [*flags, str(machine), f"-Wl,-rpath,{machine.parent}"])


def _machine() -> Path:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [job.result() for job in machine_objects(pool)]
    # Symbolic: what it uses of the standard library's templates is its own, not the watched instances of the kernels.
    return link("libsimt_machine.so", objects, ["-shared", "-Wl,-Bsymbolic,-soname,libsimt_machine.so", "-ldl"])


def _program(source: Path, variant: str) -> Path:
    objects = [compile_object(source, [*KERNEL, *VARIANTS[variant], "-Wall", "-Wextra"], variant)]
    if variant == "checked":
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects += [job.result() for job in machine_objects(pool)]
        return link(source.stem, objects, [f"-fsanitize={SANITIZERS}"])
    machine = _machine()
    return link(source.stem, objects, [str(machine), f"-Wl,-rpath,{machine.parent}"])


def main() -> int:
    if reason := missing():
        print(f"simt: {reason}", file=sys.stderr)
        return 2
    try:
        races = os.environ.get("TINYSSD_OPS_SIMT_RACES") == "1"
        library = build_library("watched" if races else "checked")
    except subprocess.CalledProcessError as error:
        print(f"simt: g++ failed: {error}", file=sys.stderr)
        return 2
    # The reference is what results are compared with; the package's own kernels need not be built.
    # Only Python's own streams are captured: a sanitizer's report, after which there is no Python, must get through.
    command = [sys.executable, "-m", "pytest", "--capture=sys", *sys.argv[1:]]
    variables = {"TINYSSD_OPS_SIMT": str(library), "TINYSSD_OPS_BACKEND": "reference"}
    if races:
        variables = {**os.environ, **variables, "TINYSSD_OPS_SIMT_NAMESPACE": "tinyssd_watched"}
    else:
        variables = environment(**variables)
    os.chdir(ROOT)
    os.execve(command[0], command, variables)


if __name__ == "__main__":
    sys.exit(main())
