#include "tally.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace simt {
namespace {

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
  hot = {};
}

void end_launch_counts() {
  if (phase != Phase::kCount) return;
  record.hottest = hot.most;
  records.push_back(record);
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
