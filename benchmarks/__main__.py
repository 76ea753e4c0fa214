"""``python -m benchmarks``: measures the ops and the training step beside their peers and their floors."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch


def main(argv: Sequence[str]) -> int:
    """Runs the suite; returns the exit status: 1 if a result differed from a peer's."""
    options = _parse(argv)
    use_threads(options.threads)
    if options.backend == "reference":
        os.environ["TINYSSD_OPS_BACKEND"] = "reference"  # Read when tinyssd_ops is imported, which is below.
    import tinyssd_ops
    from benchmarks import results, runner, suite

    device = torch.device(options.device)
    refuse_fallback(tinyssd_ops.info(), device, options.backend)
    run = results.describe(device, options.backend, tinyssd_ops.info(), _command(argv))
    print_environment(run)
    trained = suite.Trained(options.data, options.run)
    chosen = [c for c in suite.cases(trained, options.quick) if re.search(options.filter, c.name)]
    if not chosen:
        raise SystemExit(f"--filter {options.filter}: no row of that name; a name is like 'nms random N=20,000'")
    seconds = options.seconds if options.seconds is not None else 0.1 if options.quick else 2.0
    rows = []
    for case in chosen:
        rows.append(runner.run_case(case, device, seconds, options.backend))
        print(runner.line(rows[-1]), flush=True)
        run = replace(run, rows=tuple(rows))
        if options.json is not None:
            results.save(run, options.json)  # after each row, so that a run that is cut off leaves what it measured
    if options.compare is not None:
        print("\n".join(["", *results.compare(results.load(options.compare), run)]))
    failed = [row for row in rows if row.error]
    if failed:
        print(f"{len(failed)} of {len(rows)} rows: the results differ, or a side broke", file=sys.stderr)
    return 1 if failed else 0


def use_threads(threads: int | None) -> None:
    """Lets torch, and the peers that make threads of their own, use this many; None: torch's default."""
    if threads is not None:
        torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(torch.get_num_threads())  # powerboxes and lsnms; read at their first use


def refuse_fallback(info: dict, device: torch.device, backend: str) -> None:
    """Ends the program if the reference would be measured where the kernels were meant.

    Raises:
        SystemExit: With a sentence that says so.
    """
    serving = info["backends"][device.type]
    if backend == "native" and serving["backend"] != "native":
        raise SystemExit(
            f"tinyssd_ops has no native library for {device.type} ({serving['why']}); "
            "build it, or measure the pure-Torch functions with --backend reference"
        )


def print_environment(run: object) -> None:
    """What is measured where, and which peers are there."""
    from benchmarks import peers

    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    build = ", ".join(f"{name} {value}" for name, value in run.build.items())
    print(f"{run.device}; threads {run.threads}; {versions}; {run.backend} ({build})")
    for package in peers.PACKAGES:
        if not peers.available(package):
            print(f"{package}: {peers.find(package)[1]}")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(": ")[2])
    parser.add_argument("--quick", action="store_true", help="small sizes, little time: a check rather than a result")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only the rows whose name matches")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="CPU threads of every side (default: torch's)")
    parser.add_argument("--seconds", type=float, help="time for each side of a row (default: 2; 0.1 with --quick)")
    parser.add_argument("--backend", default="native", choices=("native", "reference"), help="what is measured as ours")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows to this file")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="print how each row changed since")
    parser.add_argument(
        "--data",
        default=None,
        help="pictures for real detector output, as for `tinyssd train` (default: %(default)s)",
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/benchmarks"), help="the detector's run folder; trained if it is empty"
    )
    return parser.parse_args(argv)


def _command(argv: Sequence[str]) -> str:
    """The command as the results show it: without the files of the machine it ran on."""
    kept, arguments = [], iter(argv)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in ("--json", "--compare", "--data", "--run"):
            if not value:
                next(arguments, None)
            continue
        kept.append(argument)
    return shlex.join(["python", "-m", "benchmarks", *kept])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
