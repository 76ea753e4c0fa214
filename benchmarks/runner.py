"""Runs a case: draws its inputs, checks that everyone returns the same, then times all sides together."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.case import Case, Peer
from benchmarks.inputs import InputError
from benchmarks.measure import Args, Timed, Timing, side_by_side, synchronize, variants_needed
from benchmarks.results import PeerResult, Row, milliseconds, times

# What the kind of inputs of a captured row ends in.
CAPTURED = ", captured"
_MOST_CALLS_A_GRAPH = 16


def run_case(case: Case, device: torch.device, seconds: float, backend: str) -> Row:
    """A row; where a side breaks, one with an error, so that the other rows are made.

    Args:
        case: What to measure.
        device: Where.
        seconds: The time each side gets.
        backend: "native"; or "reference", and then the reference is no peer.
    """
    try:
        return _timed_row(case, device, seconds, backend)
    except Exception as error:
        return _broken_row(case, error)


def _timed_row(case: Case, device: torch.device, seconds: float, backend: str) -> Row:
    try:
        first = _to(case.make(0), device)
        count = variants_needed(_bytes(first), device)
        variants = [first, *(_to(case.make(seed), device) for seed in range(1, count))]
    except InputError as error:
        return Row(case.op, case.inputs, case.size, case.label, note=f"not run: {error}")
    ours = case.run(*first)
    synchronize(device)
    sides = [Timed(case.run, variants)]
    found: list[PeerResult] = []
    errors = []
    for peer in case.peers:
        if peer.name == "reference" and backend == "reference":
            continue
        if reason := _reason_against(peer, case, device):
            found.append(PeerResult(peer.name, None, reason, peer.same_job))
            continue
        prepared = [peer.prepare(*args) for args in variants]
        agreed = peer.agree(ours, peer.run(*prepared[0]))
        if peer.same_job and not agreed.same:
            errors.append(f"{peer.name}: {agreed.note}")
        found.append(PeerResult(peer.name, Timing(0, 0, 0, 0), agreed.note, agreed.same))
        sides.append(Timed(peer.run, prepared))
    if errors:
        return Row(case.op, case.inputs, case.size, case.label, error="; ".join(errors))
    for floor in case.floors:
        floor.run(*first)
        sides.append(Timed(floor.run, variants))
    timings = side_by_side(sides, device, seconds)
    return _row(case, found, timings)


def run_captured(case: Case, device: torch.device, seconds: float) -> Row:
    """A row whose times are those of CUDA graphs that hold one call for each input: no launch from the host is in them.

    The outputs of all calls of a graph are alive at once, so they keep each other out of the L2 cache as the inputs do.
    """
    try:
        return _captured_row(case, device, seconds)
    except Exception as error:
        return replace(_broken_row(case, error), inputs=case.inputs + CAPTURED)


def _captured_row(case: Case, device: torch.device, seconds: float) -> Row:
    first = _to(case.make(0), device)
    case.run(*first)
    synchronize(device)
    count = min(_MOST_CALLS_A_GRAPH, variants_needed(_bytes(first), device))
    variants = [first, *(_to(case.make(seed), device) for seed in range(1, count))]
    sides = [Timed(_captured(run, variants, device), [()]) for run in (case.run, *(floor.run for floor in case.floors))]
    timings = [
        Timing(t.median / count, t.q1 / count, t.q3 / count, t.samples) for t in side_by_side(sides, device, seconds)
    ]
    return replace(_row(case, [], timings), inputs=case.inputs + CAPTURED)


def _broken_row(case: Case, error: Exception) -> Row:
    traceback.print_exception(error)
    message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Row(case.op, case.inputs, case.size, case.label, error=message)


def _captured(run: Callable[..., Any], variants: Sequence[Args], device: torch.device) -> Callable[[], None]:
    """Calls ``run`` on all variants, in one CUDA graph."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        # All of them: a floor may look at an input that it meets for the first time, and wait for the device.
        for args in variants:
            run(*args)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [run(*args) for args in variants]
    del outputs  # What was captured owns their memory.
    return graph.replay


def line(row: Row) -> str:
    """The row as a line of text."""
    name = f"{row.op:<19}{row.inputs:<11} {row.label:<22}"
    if row.ours is None:
        return name + (f"ERROR {row.error}" if row.error else row.note)
    parts = [f"{milliseconds(row.ours.median)} [{milliseconds(row.ours.q1)}, {milliseconds(row.ours.q3)}]"]
    for peer in row.peers:
        ratio = row.ratio(peer.name)
        if peer.timing is None or ratio is None:
            parts.append(f"{peer.name}: {peer.note}")
        else:
            note = f", {peer.note}" if peer.note else ""
            parts.append(f"{peer.name} {milliseconds(peer.timing.median)} ({times(ratio)}{note})")
    if row.floor is not None and row.over_floor is not None:
        parts.append(f"floor {milliseconds(row.floor.median)} (time/floor {row.over_floor:.2f}: {row.floor_name})")
    return name + " | ".join(parts)


def _row(case: Case, found: Sequence[PeerResult], timings: Sequence[Timing]) -> Row:
    rest = iter(timings[1:])
    timed = [
        peer if peer.timing is None else PeerResult(peer.name, next(rest), peer.note, peer.same_job) for peer in found
    ]
    floor, name = max(zip(rest, (floor.name for floor in case.floors), strict=True), key=lambda pair: pair[0].median)
    return Row(case.op, case.inputs, case.size, case.label, timings[0], tuple(timed), floor, name)


def _reason_against(peer: Peer, case: Case, device: torch.device) -> str:
    if peer.package is not None and not peers.available(peer.package):
        return "not importable"
    if peer.cpu_only and device.type != "cpu":
        return "not run: CPU only"
    if peer.largest is not None and case.size > peer.largest:
        return f"not run: cut off at {peer.largest:,}"
    return ""


def _to(value: Any, device: torch.device) -> Any:
    """The arguments on the device; a model moves in place, so that its optimizer keeps its parameters."""
    if isinstance(value, Tensor | nn.Module):
        return value.to(device)
    return tuple(_to(item, device) for item in value) if isinstance(value, tuple) else value


def _bytes(args: Args) -> int:
    return sum(arg.numel() * arg.element_size() for arg in args if isinstance(arg, Tensor))
