// Who knows what of whom: vector clocks, in the shape that CUDA's threads have. A thread's time is the number of barriers
// that its block has passed and, between two of them, a segment, which ends where the thread lets others know (a
// __syncwarp, a fence). Of its own block a thread knows all before the last barrier, and segments of the lanes of its
// warp; of other warps and other blocks what it has acquired: a fence, then a volatile or atomic access on one side, such
// an access that sees it and a fence on the other.
#pragma once

#include "machine.h"

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace simt {

struct Block;
struct Fiber;

// When and by whom an access was made.
struct Moment {
  uint64_t block = 0;  // serial number in the grid
  uint32_t barriers = 0, segment = 0, thread = 0;
};

// All of a block before its barrier number `barriers`; after it, of single threads, what comes before a segment.
struct Known {
  uint32_t barriers = 0;
  std::map<uint32_t, uint32_t> segments;
};
using Knowledge = std::map<uint64_t, Known>;  // by block
using Shared = std::shared_ptr<const Knowledge>;

struct Clock {
  uint32_t segment = 0;
  std::array<uint32_t, kWarp> lanes{};  // of the own warp: what comes before these segments is known
  Shared acquired;
  // What others may acquire: known at the last fence, of the block's scope or of the device's.
  Shared for_block, for_device;
  // What a fence will acquire, within the block and on the device.
  Shared seen_in_block, seen;
};

Moment now(const Fiber& fiber);
// Whether the thread knows that this is over.
bool knows(const Fiber& fiber, const Moment& moment);

void clock_start(Fiber& fiber);
void clock_barrier(Block& block);
void clock_syncwarp(Block& block, int warp, unsigned mask);
void clock_fence(Fiber& fiber, bool device);
// A volatile or atomic access; begin_clocks forgets what the addresses hold.
void clock_access(Fiber& fiber, uint64_t address, bool reads, bool writes);
void begin_clocks();

}  // namespace simt
