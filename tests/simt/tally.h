// What a counted block has done: what its lanes have logged, and the sums. Between counts.cpp, which chooses the blocks and
// adds them up, and tally.cpp, which makes instructions of what lanes logged.
#pragma once

#include "counts.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace simt {

constexpr int kSectorBytes = 32, kLineBytes = 128, kBanks = 32, kWordBytes = 4;
// A direct-mapped table of the sectors that a block has read: the L1 cache, of which other blocks take their part.
constexpr size_t kCachedSectors = (64 << 10) / kSectorBytes;

// In the order of benchmarks/work_model.py, which has the values and where they come from. Cycles, and instructions.
struct Costs {
  double shared_latency, l1_latency, l2_latency, atomic_latency, barrier_latency, warp_latency;
  double block_latency, pair_latency;
  double block_instructions, pair_instructions, access_instructions, warp_instructions;
};
extern Costs costs;

struct Event {
  uint64_t address;
  uint32_t code;
  uint16_t bytes;
  Access kind;
};

struct WarpCounts {
  double chain = 0;
  std::array<std::vector<Event>, kWarp> logs;
};

struct Totals {
  double instructions = 0, global_wavefronts = 0, shared_wavefronts = 0;
  double l1_sectors = 0, read_sectors = 0, write_sectors = 0, atomic_sectors = 0;
  double atomics = 0, warp_operations = 0, barriers = 0, pairs = 0, warp_pairs = 0;
  double depth = 0, deepest = 0, most_instructions = 0;
};

// The sectors of memory that a block reads, in the order in which it meets them: where they lie in the address space, which
// no two processes have alike, decides nothing. (Tensors begin at multiples of 64 bytes: what shares a sector does so always.)
struct Sectors {
  std::unordered_map<uint64_t, uint64_t> numbers;

  uint64_t number(uint64_t sector) { return numbers.try_emplace(sector, numbers.size()).first->second; }
};

struct BlockCounts {
  std::vector<WarpCounts> warps;
  Sectors met;
  std::vector<uint64_t> cached = std::vector<uint64_t>(kCachedSectors, ~uint64_t{0});
  double weight = 0;
  Totals totals;
};

// Atomics on each address of global memory in the launch that is counted.
struct HotAddresses {
  std::unordered_map<uint64_t, double> counts;
  double most = 0;

  void add(uint64_t address, double weight) {
    double& count = counts[address] += weight;
    if (count > most) most = count;
  }
};
extern HotAddresses hot;

// Counts what lanes have logged.
void flush_all(const Block& block);

}  // namespace simt
