"""Binds libraries to the C library's older symbols: ``older_glibc.py FOLDER LIBRARY...``, on x86-64 Linux.

A library takes the newest version of each function that the machine that links it has: since 2.34 those of threads and
of loading libraries have one, since 2.29 `log`. The older versions are still there and do the same. Of what LIBRARY...
take, writes FOLDER/older_glibc.flags: options for linking them again, which send the calls through older_glibc.o there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

# manylinux_2_28, the tag of torch's own wheels.
NEWEST = (2, 28)
Versions = dict[str, set[tuple[int, ...]]]


def symbols(library: str | Path, undefined: bool) -> Versions:
    """The versions of the C library's symbols that a library takes, or has."""
    listing = subprocess.run(["objdump", "-T", library], capture_output=True, text=True, check=True).stdout
    found: Versions = defaultdict(set)
    for line in listing.splitlines():
        match = re.search(r"\(?GLIBC_([\d.]+)\)?\s+(\w+)$", line)
        if match and ("*UND*" in line) == undefined:
            found[match[2]].add(tuple(map(int, match[1].split("."))))
    return found


def libraries_of_c() -> Versions:
    """What the C library of this machine has."""
    known: Versions = defaultdict(set)
    for name in ("libc.so.6", "libm.so.6"):
        path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for symbol, versions in symbols(path.strip(), undefined=False).items():
            known[symbol] |= versions
    return known


def main() -> None:
    """Writes the object and the options."""
    folder = Path(sys.argv[1])
    taken: Versions = defaultdict(set)
    for library in sys.argv[2:]:
        for name, versions in symbols(library, undefined=True).items():
            taken[name] |= versions
    known = libraries_of_c()
    # What libstdc++ asks before it counts without atomic operations: never.
    lines = ['__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;']
    flags = ["-static-libstdc++", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", str(folder / "older_glibc.o")]
    for name in sorted(name for name, versions in taken.items() if max(versions) > NEWEST):
        if old := [version for version in known[name] if version <= NEWEST]:
            version = ".".join(map(str, max(old)))
            # A jump, whatever the arguments are.
            lines.append(f'__asm__(".symver older_{name},{name}@GLIBC_{version}\\n"')
            lines.append(f'        ".globl __wrap_{name}\\n.hidden __wrap_{name}\\n.type __wrap_{name},@function\\n"')
            lines.append(f'        "__wrap_{name}: jmp *older_{name}@GOTPCREL(%rip)\\n");')
            flags.append(f"-Wl,--wrap={name}")
            print(f"{name}: {version}")
    source = folder / "older_glibc.c"
    source.write_text("\n".join(lines) + "\n")
    subprocess.run(["gcc", "-fPIC", "-O1", "-c", str(source), "-o", str(folder / "older_glibc.o")], check=True)
    (folder / "older_glibc.flags").write_text(" ".join(flags))


if __name__ == "__main__":
    main()
