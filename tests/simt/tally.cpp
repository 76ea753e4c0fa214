#include "tally.h"

#include <algorithm>
#include <bit>

namespace simt {

Costs costs;
HotAddresses hot;

namespace {

// One instruction of a warp.
struct Group {
  Access kind;
  int lanes = 0;
  uint32_t basic_block = 0;  // the group that began it, plus 1
  double latency = 0;        // of the longest load, for a basic block
  std::array<uint64_t, kWarp> addresses;
  std::array<uint16_t, kWarp> bytes;
};

// The groups of a place in the code, by occurrence.
struct Code {
  uint32_t address = 0;
  bool used = false;
  uint64_t lane = 0;
  uint32_t occurrence = 0;
  std::vector<uint32_t> groups;
};

std::vector<Group> groups;
size_t num_groups = 0;
std::vector<Code> codes(1 << 13);
std::vector<uint32_t> used_codes;
uint64_t lane_serial = 0;

Code& code_of(uint32_t address) {
  size_t i = address * 0x9e3779b1u >> (32 - 13);
  while (codes[i].used && codes[i].address != address) i = (i + 1) & (codes.size() - 1);
  Code& code = codes[i];
  if (!code.used) {
    code.used = true;
    code.address = address;
    used_codes.push_back(static_cast<uint32_t>(i));
    if (used_codes.size() * 2 > codes.size()) fail("too much code between two meetings of a warp to count it");
  }
  return code;
}

void group_events(std::vector<Event>& log) {
  ++lane_serial;
  uint32_t basic_block = 0;
  for (const Event& event : log) {
    Code& code = code_of(event.code);
    if (code.lane != lane_serial) {
      code.lane = lane_serial;
      code.occurrence = 0;
    }
    if (code.occurrence == code.groups.size()) {
      code.groups.push_back(static_cast<uint32_t>(num_groups));
      if (num_groups == groups.size()) groups.emplace_back();
      Group& fresh = groups[num_groups++];
      fresh.kind = event.kind;
      fresh.lanes = 0;
      fresh.latency = 0;
      fresh.basic_block = basic_block;
    }
    const uint32_t index = code.groups[code.occurrence++];
    Group& group = groups[index];
    group.addresses[group.lanes] = event.address;
    group.bytes[group.lanes] = event.bytes;
    ++group.lanes;
    if (event.kind == Access::kBasicBlock) basic_block = index + 1;
  }
  log.clear();
}

int distinct(std::vector<uint64_t>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return static_cast<int>(values.size());
}

// How often shared memory is asked: words of one bank come one after another, the same word for all lanes at once, but
// for atomics.
double shared_wavefronts(const Group& group) {
  std::array<int, kBanks> load{};
  static std::vector<uint64_t> words;
  words.clear();
  for (int i = 0; i < group.lanes; ++i) {
    const uint64_t end = group.addresses[i] + group.bytes[i];
    for (uint64_t word = group.addresses[i] / kWordBytes; word * kWordBytes < end; ++word) words.push_back(word);
  }
  if (group.kind != Access::kAtomic) distinct(words);
  for (const uint64_t word : words) ++load[word % kBanks];
  return *std::max_element(load.begin(), load.end());
}

// Returns the latency.
double count_global(BlockCounts& block, const Group& group) {
  static std::vector<uint64_t> sectors, lines;
  sectors.clear();
  double bytes = 0;
  for (int i = 0; i < group.lanes; ++i) {
    const uint64_t end = group.addresses[i] + group.bytes[i];
    bytes += group.bytes[i];
    for (uint64_t s = group.addresses[i] / kSectorBytes; s * kSectorBytes < end; ++s) sectors.push_back(s);
  }
  const int count = distinct(sectors);
  lines.clear();
  for (const uint64_t sector : sectors) {
    const uint64_t line = sector * kSectorBytes / kLineBytes;
    if (lines.empty() || lines.back() != line) lines.push_back(line);
  }
  Totals& totals = block.totals;
  totals.global_wavefronts += std::max(static_cast<double>(lines.size()), bytes / kLineBytes);
  switch (group.kind) {
    case Access::kWrite:
    case Access::kFreshWrite: totals.write_sectors += count; return 0;
    case Access::kAtomic:
      totals.atomic_sectors += count;
      for (int i = 0; i < group.lanes; ++i) {
        hot.add(group.addresses[i], block.weight);
      }
      return costs.atomic_latency;
    case Access::kFreshRead: totals.read_sectors += count; return costs.l2_latency;
    default: break;
  }
  double latency = costs.l1_latency;
  for (const uint64_t sector : sectors) {
    const uint64_t place = block.met.number(sector);
    uint64_t& cached = block.cached[(place * 0x9e3779b97f4a7c15 >> 32) % kCachedSectors];
    if (cached == place) {
      ++totals.l1_sectors;
      continue;
    }
    cached = place;
    ++totals.read_sectors;
    latency = costs.l2_latency;
  }
  return latency;
}

void count_group(const Block& block, WarpCounts& warp, Group& group) {
  BlockCounts& counts = *block.counts;
  Totals& totals = counts.totals;
  switch (group.kind) {
    case Access::kBasicBlock:
      totals.instructions += costs.block_instructions;
      warp.chain += costs.block_latency;
      return;
    case Access::kPair:
      totals.instructions += costs.pair_instructions;
      warp.chain += costs.pair_latency;
      totals.pairs += group.lanes;
      ++totals.warp_pairs;
      return;
    default: break;
  }
  totals.instructions += costs.access_instructions;
  if (group.kind == Access::kAtomic) totals.atomics += group.lanes;
  double latency = 0;
  if (block.shares(reinterpret_cast<const void*>(group.addresses[0]))) {
    const double wavefronts = shared_wavefronts(group);
    totals.shared_wavefronts += wavefronts;
    const bool writes = group.kind == Access::kWrite || group.kind == Access::kFreshWrite;
    latency = writes ? 0 : costs.shared_latency + wavefronts - 1;
  } else {
    latency = count_global(counts, group);
  }
  if (group.basic_block == 0) {
    warp.chain += latency;
    return;
  }
  double& longest = groups[group.basic_block - 1].latency;
  if (latency > longest) {
    warp.chain += latency - longest;
    longest = latency;
  }
}

// Counts what lanes of the mask have logged.
void flush(const Block& block, int index, unsigned mask) {
  WarpCounts& warp = block.counts->warps[index];
  num_groups = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((mask >> lane & 1) != 0) group_events(warp.logs[lane]);
  }
  for (size_t i = 0; i < num_groups; ++i) count_group(block, warp, groups[i]);
  for (const uint32_t i : used_codes) {
    codes[i].used = false;
    codes[i].lane = 0;
    codes[i].groups.clear();
  }
  used_codes.clear();
}

}  // namespace

void flush_all(const Block& block) {
  for (size_t i = 0; i < block.counts->warps.size(); ++i) flush(block, static_cast<int>(i), ~0u);
}

void count_access(Fiber& fiber, const void* address, unsigned bytes, Access kind, const void* code) {
  auto& log = fiber.block->counts->warps[fiber.rank / kWarp].logs[fiber.rank % kWarp];
  const auto place = reinterpret_cast<uint64_t>(address);
  // The parts of one wide access, which the compiler took apart.
  if (kind < Access::kAtomic && !log.empty()) {
    Event& last = log.back();
    const unsigned both = last.bytes + bytes;
    if (last.kind == kind && bytes >= kWordBytes && last.address + last.bytes == place && both <= 16 &&
        last.address % std::bit_ceil(both) == 0) {
      last.bytes = static_cast<uint16_t>(both);
      return;
    }
  }
  log.push_back({place, static_cast<uint32_t>(reinterpret_cast<uintptr_t>(code)), static_cast<uint16_t>(bytes), kind});
}

void count_warp_operation(Block& block, int warp, unsigned mask) {
  flush(block, warp, mask);
  if (quiet != 0) return;
  block.counts->warps[warp].chain += costs.warp_latency;
  block.counts->totals.instructions += costs.warp_instructions;
  ++block.counts->totals.warp_operations;
}

void count_barrier(Block& block) {
  flush_all(block);
  double longest = 0;
  for (const WarpCounts& warp : block.counts->warps) longest = std::max(longest, warp.chain);
  for (WarpCounts& warp : block.counts->warps) warp.chain = longest + (quiet != 0 ? 0 : costs.barrier_latency);
  if (quiet == 0) ++block.counts->totals.barriers;
}

void charge(const WarpCost& cost) {
  const Fiber& me = *current;
  if (me.block->counts == nullptr || me.rank % kWarp != 0) return;
  me.block->counts->warps[me.rank / kWarp].chain += cost.cycles;
  me.block->counts->totals.instructions += cost.instructions;
  me.block->counts->totals.shared_wavefronts += cost.shared_wavefronts;
}

}  // namespace simt
