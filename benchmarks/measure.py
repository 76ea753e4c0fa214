"""Times several functions side by side: warm, alternating, on rotating inputs, as medians with quartiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Args = tuple[Any, ...]

# A sample shorter than this would mostly measure the clock: short calls are timed several at a time.
_SHORTEST_SAMPLE = 1e-3
_MOST_CALLS_A_SAMPLE = 200
_FEWEST_SAMPLES = 3
_MOST_SAMPLES = 200


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median of ``samples`` samples and the quartiles around it."""

    median: float
    q1: float
    q3: float
    samples: int


@dataclass(frozen=True)
class Timed:
    """A function and its inputs: one tuple of arguments for each variant, used in turn."""

    run: Callable[..., Any]
    variants: Sequence[Args]


def summarize(seconds: Sequence[float]) -> Timing:
    """The median and the quartiles (inclusive, interpolated) of at least one sample."""
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], 1)
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, q1, q3, len(seconds))


def side_by_side(timed: Sequence[Timed], device: torch.device, seconds: float) -> list[Timing]:
    """Times the functions in turns, so that whatever else the machine does meets all of them alike.

    Args:
        timed: What to time; every function has run at least once before.
        device: "cpu": the wall clock, or the time of the processor where torch has one thread. "cuda": device events.
        seconds: The time each function gets; at least three samples are taken however long they last.

    Returns:
        A timing for each function.
    """
    sample = _cuda_sample if device.type == "cuda" else _cpu_sample
    counts = [_calls_a_sample(sample(one, 0, 1)) for one in timed]
    samples: list[list[float]] = [[] for _ in timed]
    spent, used = [0.0] * len(timed), [0] * len(timed)
    pending = set(range(len(timed)))
    while pending:
        for i in sorted(pending):
            started = time.perf_counter()
            samples[i].append(sample(timed[i], used[i], counts[i]))
            spent[i] += time.perf_counter() - started
            used[i] += counts[i]
            if len(samples[i]) >= _MOST_SAMPLES or (len(samples[i]) >= _FEWEST_SAMPLES and spent[i] >= seconds):
                pending.remove(i)
    return [summarize(values) for values in samples]


def variants_needed(bytes_a_variant: int, device: torch.device) -> int:
    """How many inputs to rotate: a few, and on CUDA as many as keep each other out of the L2 cache."""
    fewest = 4
    if device.type != "cuda":
        return fewest
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(fewest, min(64, 1 + 2 * cache // max(bytes_a_variant, 1)))


def synchronize(device: torch.device) -> None:
    """Waits for the device; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _calls_a_sample(seconds: float) -> int:
    return max(1, min(_MOST_CALLS_A_SAMPLE, round(_SHORTEST_SAMPLE / max(seconds, 1e-9))))


def _cpu_sample(timed: Timed, first: int, calls: int) -> float:
    run, variants = timed.run, timed.variants
    # The processor's time is what one thread takes on a machine that is busy with other work, too.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    for i in range(first, first + calls):
        run(*variants[i % len(variants)])
    return (clock() - started) / calls


def _cuda_sample(timed: Timed, first: int, calls: int) -> float:
    run, variants = timed.run, timed.variants
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for i in range(first, first + calls):
        run(*variants[i % len(variants)])
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e-3 / calls
