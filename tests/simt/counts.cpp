#include "counts.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace simt {
namespace {

constexpr int kSectorBytes = 32, kLineBytes = 128, kBanks = 32, kWordBytes = 4;
// A direct-mapped table of the sectors that a block has read: the L1 cache, of which other blocks take their part.
constexpr size_t kCachedSectors = (64 << 10) / kSectorBytes;

// In the order of benchmarks/work_model.py, which has the values and where they come from. Cycles, and instructions.
struct Costs {
  double shared_latency, l1_latency, l2_latency, atomic_latency, barrier_latency, warp_latency;
  double block_latency, pair_latency;
  double block_instructions, pair_instructions, access_instructions, warp_instructions;
};
Costs costs;

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

constexpr std::pair<const char*, double Totals::*> kSums[] = {
    {"instructions", &Totals::instructions},
    {"global_wavefronts", &Totals::global_wavefronts},
    {"shared_wavefronts", &Totals::shared_wavefronts},
    {"l1_sectors", &Totals::l1_sectors},
    {"read_sectors", &Totals::read_sectors},
    {"write_sectors", &Totals::write_sectors},
    {"atomic_sectors", &Totals::atomic_sectors},
    {"atomics", &Totals::atomics},
    {"warp_operations", &Totals::warp_operations},
    {"barriers", &Totals::barriers},
    {"pairs", &Totals::pairs},
    {"warp_pairs", &Totals::warp_pairs},
    {"depth", &Totals::depth},
};

// Of a launch, or of a call of CUB's for the whole device. Totals of all blocks: those counted, by their weights.
struct Record {
  std::string what;
  uint64_t blocks = 0, counted = 0;
  unsigned threads = 0;
  size_t shared_bytes = 0;
  Totals totals;
  double hottest = 0;  // atomics on one address of global memory
  DeviceCost device{};
};

struct Twin {
  const void* kernel;
  std::string name;
};

// First a call runs to weigh its blocks, then once more to count some of them.
enum class Phase { kOff, kWeigh, kCount } phase = Phase::kOff;
uint64_t most_blocks = 0, most_events = 0;
std::map<const void*, Twin> twins;
std::vector<Record> records;
std::vector<std::vector<uint32_t>> sizes;  // of each launch's blocks: the basic blocks that their threads run

// The launch that is counted.
Record record;
const void* twin = nullptr;
size_t launch_index = 0;
std::vector<double> weights;  // of the launch's blocks; 0: not counted
std::unordered_map<uint64_t, double> hot;

}  // namespace

struct BlockCounts {
  std::vector<WarpCounts> warps;
  std::vector<uint64_t> cached = std::vector<uint64_t>(kCachedSectors, ~uint64_t{0});
  double weight = 0;
  Totals totals;
};

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
        record.hottest = std::max(record.hottest, hot[group.addresses[i]] += block.weight);
      }
      return costs.atomic_latency;
    case Access::kFreshRead: totals.read_sectors += count; return costs.l2_latency;
    default: break;
  }
  double latency = costs.l1_latency;
  for (const uint64_t sector : sectors) {
    uint64_t& cached = block.cached[(sector * 0x9e3779b97f4a7c15 >> 32) % kCachedSectors];
    if (cached == sector) {
      ++totals.l1_sectors;
      continue;
    }
    cached = sector;
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

void flush_all(const Block& block) {
  for (size_t i = 0; i < block.counts->warps.size(); ++i) flush(block, static_cast<int>(i), ~0u);
}

std::string json(const Record& r) {
  const Totals& t = r.totals;
  std::string text = "{\"what\": \"" + r.what + "\"";
  const auto add = [&](const char* name, double value) {
    char number[64];
    snprintf(number, sizeof(number), "%.17g", value);
    text += std::string(", \"") + name + "\": " + number;
  };
  add("blocks", static_cast<double>(r.blocks));
  add("counted", static_cast<double>(r.counted));
  add("threads", r.threads);
  add("shared_bytes", static_cast<double>(r.shared_bytes));
  for (const auto& [name, member] : kSums) add(name, t.*member);
  add("deepest", t.deepest);
  add("most_instructions", t.most_instructions);
  add("hottest", r.hottest);
  add("device_launches", r.device.launches);
  add("device_bytes", r.device.bytes);
  add("device_cycles", r.device.cycles);
  return text + "}";
}

// Which blocks to count: the largest, and some of those whose sizes lie within a factor of two, for each such class.
void choose(const std::vector<uint32_t>& size) {
  constexpr uint64_t kLeast = 4;
  const uint64_t total = std::accumulate(size.begin(), size.end(), uint64_t{0});
  weights.assign(size.size(), 1);
  // About two events a basic block.
  const uint64_t affordable = std::max(kLeast, most_events * size.size() / std::max<uint64_t>(1, 2 * total));
  const uint64_t wanted = std::min(most_blocks, affordable);
  if (wanted >= size.size()) return;
  std::vector<uint32_t> order(size.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return size[a] > size[b]; });
  for (size_t begin = wanted / 4, end = begin; begin < order.size(); begin = end) {
    uint64_t sum = 0;
    while (end < order.size() && std::bit_width(size[order[end]]) == std::bit_width(size[order[begin]])) {
      sum += size[order[end++]];
      weights[order[end - 1]] = 0;
    }
    const uint64_t count = end - begin, chosen = std::min(count, kLeast + wanted * sum / std::max<uint64_t>(1, total));
    for (uint64_t k = 0; k < chosen; ++k) {
      weights[order[begin + (2 * k + 1) * count / (2 * chosen)]] = static_cast<double>(count) / chosen;
    }
  }
}

}  // namespace

bool counting() { return phase != Phase::kOff; }
const void* counted_kernel() { return twin; }

void begin_launch_counts(uint64_t num_blocks) {
  if (phase == Phase::kOff) return;
  if (phase == Phase::kWeigh) {
    sizes.emplace_back(num_blocks);
    return;
  }
  const auto found = twins.find(launched.kernel);
  if (found == twins.end()) throw std::runtime_error("simt: no twin of the kernel is known, which could be counted");
  twin = found->second.kernel;
  record = {};
  record.what = found->second.name;
  record.blocks = num_blocks;
  record.threads = launched.block.x * launched.block.y * launched.block.z;
  record.shared_bytes = launched.shared_bytes;
  choose(sizes.at(launch_index++));
  hot.clear();
}

void end_launch_counts() {
  if (phase == Phase::kCount) records.push_back(record);
}

void begin_counts(Block& block) {
  block.counts = nullptr;
  block.size = 0;
  if (phase != Phase::kCount || weights.at(block.serial) == 0) return;
  block.counts = new BlockCounts;
  block.counts->weight = weights[block.serial];
  block.counts->warps.resize((block.num_threads + kWarp - 1) / kWarp);
}

void end_counts(Block& block) {
  if (phase == Phase::kWeigh) sizes.back().at(block.serial) = block.size;
  if (block.counts == nullptr) return;
  flush_all(block);
  Totals& own = block.counts->totals;
  for (const WarpCounts& warp : block.counts->warps) own.depth = std::max(own.depth, warp.chain);
  Totals& all = record.totals;
  all.deepest = std::max(all.deepest, own.depth);
  all.most_instructions = std::max(all.most_instructions, own.instructions);
  for (const auto& [name, member] : kSums) all.*member += block.counts->weight * (own.*member);
  ++record.counted;
  delete block.counts;
  block.counts = nullptr;
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

void charge_device(const char* what, const DeviceCost& cost) {
  if (phase != Phase::kCount) return;
  Record r;
  r.what = what;
  r.device = cost;
  records.push_back(r);
}

}  // namespace simt

extern "C" {
void simt_add_twin(const void* kernel, const void* twin, const char* name) { simt::twins[kernel] = {twin, name}; }

// From now on weighs the blocks of launches; then, in the same calls with the same seed, counts about so many blocks of
// a launch, fewer beyond so many events; then stops.
void simt_weigh() {
  simt::phase = simt::Phase::kWeigh;
  simt::sizes.clear();
}
void simt_count(const double* costs, uint64_t blocks, uint64_t events) {
  static_assert(sizeof(simt::Costs) == 12 * sizeof(double));
  std::copy_n(costs, 12, reinterpret_cast<double*>(&simt::costs));
  simt::phase = simt::Phase::kCount;
  simt::records.clear();
  simt::launch_index = 0;
  simt::most_blocks = blocks;
  simt::most_events = events;
}
void simt_stop() { simt::phase = simt::Phase::kOff; }

// What has been counted since, a JSON list of launches.
const char* simt_counts() {
  static std::string text;
  text = "[";
  for (const auto& record : simt::records) text += (text.size() > 1 ? ",\n" : "") + simt::json(record);
  text += "]";
  return text.c_str();
}
}
