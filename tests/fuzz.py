"""Differential fuzzing of the ops: ``python -m tests.fuzz --minutes 10``, ``python -m tests.fuzz --replay FILE``.

Past failures (tests/corpus) come first. Then each case draws an op, its boxes and scores (ordinary, tied, broken, any
bits at all), a mix of dtypes, a memory layout a tensor, a SIMD path, threads and the sizes at which kernels change
their ways (tests/fuzz_cases.py); memory that the kernels allocate starts as garbage. The kernel's answer must be the
bits of the reference's and, where loops that share no code with it know the answer (tests/fuzz_oracles.py), theirs.
A case that fails is written as a file that replays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases
import fuzz_oracles
import torch
from fuzz_cases import Case, draw
from garbage import garbage
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from tinyssd_ops import reference

CORPUS = Path(__file__).resolve().parent / "corpus"
KERNELS: Any = sys.modules.get("tinyssd_ops._C")


@contextlib.contextmanager
def way(case: Case) -> Iterator[None]:
    """The case's SIMD path, threads and limits; afterwards all are as before."""
    threads = torch.get_num_threads()
    limits = KERNELS.limits() if KERNELS else None
    before = {name: getattr(limits, name) for name in case.limits} if limits else {}
    simd = KERNELS.build_info()["simd"] if KERNELS else None
    torch.set_num_threads(case.threads)
    if KERNELS:
        if case.simd in KERNELS.build_info()["simd_paths"]:  # a file of another machine may name one more
            KERNELS.set_simd_path(case.simd)
        for name, value in case.limits.items():
            setattr(limits, name, value)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if KERNELS:
            KERNELS.set_simd_path(simd)
        for name, value in before.items():
            setattr(limits, name, value)


def answer(ops: Any, op: str, args: tuple[Any, ...], device: str = "cpu") -> Any:
    """What the op says, or for a gradient what autograd says."""
    args = tree_map_only(Tensor, lambda t: t.to(device), args)
    if op.endswith("_gradient"):
        boxes = [t.detach().requires_grad_() for t in args[:2]]
        result = getattr(ops, op.removesuffix("_gradient"))(*boxes, *args[2:])
        # Not all alike, so that a sum over the wrong axis shows.
        weights = torch.arange(result.numel(), dtype=result.dtype, device=device).remainder(7).view_as(result)
        return tuple(g.cpu() for g in torch.autograd.grad(result, boxes, weights))
    return tree_map_only(Tensor, lambda t: t.cpu(), getattr(ops, op)(*args))


def same_bits(actual: Any, expected: Any, context: str) -> None:
    """Equal shapes, dtypes and values, the sign of zero included; one NaN is as good as another."""
    cases.assert_same(actual, expected, context)
    for one, two in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        if one.is_floating_point():
            ordinary = ~two.isnan()
            assert torch.equal(one.signbit()[ordinary], two.signbit()[ordinary]), f"{context}: the sign of a zero"


def check(case: Case, device: str = "cpu") -> bool:
    """Runs a case; whether an oracle knew its answer.

    Raises:
        AssertionError: If answers differ.
    """
    args = case.arguments()
    expected = answer(reference, case.op, args)
    if KERNELS:
        with way(case), garbage():
            actual = answer(torch.ops.tinyssd_ops, case.op, args, device)
        if nearly(case):
            scale = max(float(t.abs().nan_to_num().max()) if t.numel() else 0.0 for t in tree_leaves(expected))
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12 * max(scale, 1.0), equal_nan=True)
        else:
            same_bits(actual, expected, "the kernel and the reference")
    dtypes = {t.dtype for t in tree_leaves(expected)}
    if case.op.endswith("_gradient") and dtypes in ({torch.float32}, {torch.float64}):  # else one is narrowed
        assert all(bool(t.double().isfinite().all()) for t in expected), "a gradient that is not finite"
    known = fuzz_oracles.answer(case.op, args)
    if known is not None:
        known.compare(expected, "the reference and the oracle")
    return known is not None


def nearly(case: Case) -> bool:
    """Whether float64 results may differ in the last bit, as arc tangents and logarithms of float64 may."""
    family = case.op in ("iou_pairs", "iou_pairs_gradient") and case.args[2] == 3
    wide = any(isinstance(arg, Tensor) and arg.dtype == torch.float64 for arg in case.args)
    return wide and (family or case.op in ("multibox_target", "assignment_target"))


def replay(path: Path, device: str = "cpu") -> None:
    """Runs the case of a file."""
    check(Case.from_json(json.loads(path.read_text())), device)


def fuzz(seconds: float, seed: int, folder: Path, device: str = "cpu", count: int | None = None) -> tuple[int, int]:
    """Cases run and failures, each of which has written its file."""
    done, failures = Counter[str](), 0
    known = Counter[str]()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and (count is None or done.total() < count):
        pick = random.Random(seed + done.total())
        case = draw(pick, KERNELS.build_info()["simd_paths"] if KERNELS else ["none"])
        try:
            known[case.op] += check(case, device)
        except Exception as error:
            failures += 1
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{case.op}-{seed + done.total()}.json"
            path.write_text(json.dumps(case.to_json()))
            print(f"{type(error).__name__}: {str(error)[:600]}\nreplay: python -m tests.fuzz --replay {path}")
        done[case.op] += 1
    for op in sorted(done):
        print(f"{op:<24} {done[op]:>7} cases, {known[op]:>7} known to an oracle")
    return done.total(), failures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time, which is printed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run the case of this file alone")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="the folder for cases that fail")
    options = parser.parse_args()
    if options.replay:
        replay(options.replay, options.device)
        print("the answers agree")
        return
    past = sorted(CORPUS.glob("*.json"))
    for path in past:
        replay(path, options.device)
    print(f"{len(past)} past failures agree")
    seed = random.SystemRandom().randrange(2**40) if options.seed is None else options.seed
    print(f"--seed {seed}", flush=True)
    started = time.monotonic()
    done, failures = fuzz(60 * options.minutes, seed, options.out, options.device)
    print(f"{done} cases in {time.monotonic() - started:.0f} s, {failures} failures")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
