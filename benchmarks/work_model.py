"""A modelled H100 time from counts: the constants, where they come from, and the formula.

A launch takes the launch cost and then the longest of

- its chains: each block needs the cycles of its longest chain of dependent steps; multiprocessors hold only so many
  blocks at a time, and the deepest block may come last;
- issue: its warps' instructions over the schedulers of the multiprocessors that it fills, and those of its largest
  block over the schedulers of one;
- loads and stores: a wavefront (128 bytes of global memory, one word of each bank of shared memory) a cycle and
  multiprocessor;
- bytes between multiprocessors and L2, over the bandwidth of L2 (or of the few multiprocessors that it fills);
- bytes of DRAM, where the call's tensors do not fit L2;
- atomics on its hottest address, which L2 takes one after another.

Where a launch has many blocks, its largest ones are counted and a sample of the others, some of each size; the size is
the number of basic blocks that its threads run, known for every block. A call of CUB's for the whole device is charged
as tests/simt/include/cub says. An op's time is the sum over its launches. What the host does (the op's dispatch, a
synchronisation) is not in it.

Correct to some 40 %, and meant for comparing one way with another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MULTIPROCESSORS = 132
# H100 SXM, boost: NVIDIA H100 Tensor Core GPU Architecture (white paper).
CLOCK = 1.755e9
DRAM_BYTES_PER_SECOND = 0.9 * 3.35e12  # nine tenths is what a copy reaches
L2_BYTES = 50e6
L2_BYTES_PER_CYCLE_AND_MULTIPROCESSOR = 64
L2_BYTES_PER_SECOND = 5.5e12
SCHEDULERS = 4
WARPS_PER_MULTIPROCESSOR = 32  # of the 64 that one can hold: a thread has up to 64 registers
BLOCKS_PER_MULTIPROCESSOR = 32
SHARED_BYTES_PER_MULTIPROCESSOR = 228 * 1024
# Back to back on a stream: the end of one kernel to the end of an empty one after it.
LAUNCH_SECONDS = 2.0e-6
# A scheduler issues in three cycles of four at best where warps depend on loads.
ISSUE_RATE = 0.75
ATOMIC_CYCLES = 2  # on one address

# Cycles of dependent steps, and instructions. Latencies: Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU
# Architecture via Microbenchmarking", 2024. The order is that of `Costs` in tests/simt/counts.cpp.
COSTS = {
    "shared_latency": 29.0,
    "l1_latency": 41.0,
    "l2_latency": 263.0,
    "atomic_latency": 300.0,
    "barrier_latency": 30.0,
    "warp_latency": 25.0,
    # A basic block: the branch and two or three dependent instructions of 4 cycles.
    "block_latency": 12.0,
    # An IoU test: subtract, minimum, maximum, multiply, add and compare depend on each other.
    "pair_latency": 32.0,
    "block_instructions": 2.0,
    "pair_instructions": 14.0,
    "access_instructions": 2.0,
    "warp_instructions": 2.0,
}


@dataclass(frozen=True)
class Work:
    """What one call of an op costs.

    Attributes:
        launches: Kernels, fills and copies.
        bytes: Moved between the multiprocessors and L2.
        transactions: Sectors of 32 bytes of global memory and wavefronts of shared memory.
        instructions: Of warps, estimated.
        atomics: Of lanes.
        warp_operations: Shuffles, votes, reductions.
        pairs: IoU tests.
        depth: Cycles of the longest chain, through barriers and launches.
        seconds: Modelled.
    """

    launches: float = 0
    bytes: float = 0
    transactions: float = 0
    instructions: float = 0
    atomics: float = 0
    warp_operations: float = 0
    pairs: float = 0
    depth: float = 0
    seconds: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


Record = Mapping[str, float | str]


def work_of(record: Record, footprint: float) -> Work:
    """The cost of one record of the machine; ``footprint``: bytes of all tensors of the call."""
    count = {name: float(value) for name, value in record.items() if name != "what"}
    if count["device_launches"]:
        seconds = count["device_bytes"] / _bandwidth(footprint) + count["device_cycles"] / CLOCK
        return Work(
            launches=count["device_launches"],
            bytes=count["device_bytes"],
            transactions=count["device_bytes"] / 32,
            depth=count["device_cycles"],
            seconds=seconds + count["device_launches"] * LAUNCH_SECONDS,
        )
    sectors = count["read_sectors"] + count["write_sectors"] + count["atomic_sectors"]
    return Work(
        launches=1,
        bytes=32 * sectors,
        transactions=sectors + count["shared_wavefronts"],
        instructions=count["instructions"],
        atomics=count["atomics"],
        warp_operations=count["warp_operations"],
        pairs=count["pairs"],
        depth=count["deepest"],
        seconds=LAUNCH_SECONDS + max(_parts(count, 32 * sectors, footprint).values()),
    )


def bound(record: Record, footprint: float) -> str:
    """Which part of the formula decides a launch's time."""
    count = {name: float(value) for name, value in record.items() if name != "what"}
    if count["device_launches"]:
        return "CUB" if str(record["what"]).startswith("cub") else "bytes"
    sectors = count["read_sectors"] + count["write_sectors"] + count["atomic_sectors"]
    parts = _parts(count, 32 * sectors, footprint)
    longest = max(parts, key=lambda name: parts[name])
    return longest if parts[longest] > LAUNCH_SECONDS else "launch"


def _bandwidth(footprint: float) -> float:
    return L2_BYTES_PER_SECOND if footprint < L2_BYTES else DRAM_BYTES_PER_SECOND


def _parts(count: Mapping[str, float], moved: float, footprint: float) -> dict[str, float]:
    """Seconds, by part of the formula."""
    blocks = count["blocks"]
    filled = min(MULTIPROCESSORS, blocks)
    warps = -(-count["threads"] // 32)
    resident = min(
        BLOCKS_PER_MULTIPROCESSOR,
        max(1, WARPS_PER_MULTIPROCESSOR // warps),
        max(1, SHARED_BYTES_PER_MULTIPROCESSOR // (count["shared_bytes"] + 1024)),
    )
    mean = count["depth"] / blocks
    waves = max(1.0, blocks / (MULTIPROCESSORS * resident))
    issue = max(count["instructions"] / (filled * SCHEDULERS), count["most_instructions"] / min(SCHEDULERS, warps))
    wavefronts = (count["global_wavefronts"] + count["shared_wavefronts"]) / filled
    port = moved / (filled * L2_BYTES_PER_CYCLE_AND_MULTIPROCESSOR)
    dram = min(moved, footprint) / DRAM_BYTES_PER_SECOND if footprint > L2_BYTES else 0.0
    return {
        "depth": ((waves - 1) * mean + count["deepest"]) / CLOCK,
        "issue": issue / ISSUE_RATE / CLOCK,
        "wavefronts": wavefronts / CLOCK,
        "bytes": max(moved / L2_BYTES_PER_SECOND, port / CLOCK),
        "DRAM": dram,
        "atomics": count["hottest"] * ATOMIC_CYCLES / CLOCK,
    }


def floor_seconds(bytes_moved: float, sorted_items: float = 0, longest_list: float = 0) -> float:
    """The least that the work can take: one launch, its inputs and outputs over DRAM, and a sort where there is one.

    Args:
        bytes_moved: Of the inputs and the outputs.
        sorted_items: Scores to sort, of all images.
        longest_list: Of one image: a list of up to 8,192 is sorted by a block.
    """
    seconds = LAUNCH_SECONDS + bytes_moved / DRAM_BYTES_PER_SECOND
    if sorted_items:
        if longest_list <= 8192:
            items = max(1.0, longest_list / 512)
            seconds += 8 * (60 * items + 460) / CLOCK  # cub::BlockRadixSort, as it is charged
        else:
            seconds += 6 * LAUNCH_SECONDS + sorted_items * 68 / L2_BYTES_PER_SECOND + 20000 / CLOCK
    return seconds
