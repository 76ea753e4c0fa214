#include "clocks.h"

#include "block.h"

#include <algorithm>
#include <unordered_map>

namespace simt {
namespace {

// What a volatile or atomic write leaves for those who see it.
struct Message {
  Shared for_device, for_block;
  uint64_t block = 0;
};
std::unordered_map<uint64_t, Message> messages;

void add(Known& to, const Known& from) {
  if (from.barriers > to.barriers) {
    to = from;
  } else if (from.barriers == to.barriers) {
    for (const auto& [thread, segment] : from.segments) to.segments[thread] = std::max(to.segments[thread], segment);
  }
}

Shared joined(const Shared& a, const Shared& b) {
  if (b == nullptr || a == b) return a;
  if (a == nullptr) return b;
  auto both = std::make_shared<Knowledge>(*a);
  for (const auto& [block, known] : *b) add((*both)[block], known);
  return both;
}

// All that the thread knows, itself included.
Shared all_of(const Fiber& fiber) {
  const Clock& clock = fiber.clock;
  auto all = clock.acquired != nullptr ? std::make_shared<Knowledge>(*clock.acquired) : std::make_shared<Knowledge>();
  Known own;
  own.barriers = fiber.block->barriers;
  const uint32_t rank = static_cast<uint32_t>(fiber.rank);
  for (int i = 0; i < kWarp; ++i) {
    if (clock.lanes[i] > 0) own.segments[rank - rank % kWarp + i] = clock.lanes[i];
  }
  own.segments[rank] = clock.segment + 1;
  add((*all)[fiber.block->serial], own);
  return all;
}

}  // namespace

Moment now(const Fiber& fiber) {
  return {fiber.block->serial, fiber.block->barriers, fiber.clock.segment, static_cast<uint32_t>(fiber.rank)};
}

bool knows(const Fiber& fiber, const Moment& moment) {
  const auto rank = static_cast<uint32_t>(fiber.rank);
  if (moment.block == fiber.block->serial) {
    if (moment.barriers < fiber.block->barriers || moment.thread == rank) return true;
    if (moment.thread / kWarp == rank / kWarp && moment.segment < fiber.clock.lanes[moment.thread % kWarp]) return true;
  }
  if (fiber.clock.acquired == nullptr) return false;
  const auto found = fiber.clock.acquired->find(moment.block);
  if (found == fiber.clock.acquired->end()) return false;
  const Known& known = found->second;
  if (moment.barriers != known.barriers) return moment.barriers < known.barriers;
  const auto thread = known.segments.find(moment.thread);
  return thread != known.segments.end() && moment.segment < thread->second;
}

void clock_start(Fiber& fiber) { fiber.clock = {}; }

void clock_barrier(Block& block) {
  Shared all;
  for (int i = 0; i < block.num_threads; ++i) all = joined(all, block.fibers[i]->clock.acquired);
  for (int i = 0; i < block.num_threads; ++i) {
    Clock& clock = block.fibers[i]->clock;
    clock.segment = 0;
    clock.lanes = {};
    clock.acquired = all;
  }
  ++block.barriers;
}

void clock_syncwarp(Block& block, int warp, unsigned mask) {
  std::array<uint32_t, kWarp> lanes{};
  Shared all;
  for (int i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) == 0) continue;
    Clock& clock = block.fibers[warp * kWarp + i]->clock;
    clock.lanes[i] = ++clock.segment;
    for (int k = 0; k < kWarp; ++k) lanes[k] = std::max(lanes[k], clock.lanes[k]);
    all = joined(all, clock.acquired);
  }
  for (int i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) == 0) continue;
    block.fibers[warp * kWarp + i]->clock.lanes = lanes;
    block.fibers[warp * kWarp + i]->clock.acquired = all;
  }
}

void clock_fence(Fiber& fiber, bool device) {
  Clock& clock = fiber.clock;
  clock.acquired = joined(clock.acquired, clock.seen_in_block);
  if (device) clock.acquired = joined(clock.acquired, clock.seen);
  clock.for_block = all_of(fiber);
  if (device) clock.for_device = clock.for_block;
  ++clock.segment;
}

void clock_access(Fiber& fiber, uint64_t address, bool reads, bool writes) {
  Clock& clock = fiber.clock;
  if (!writes && messages.find(address) == messages.end()) return;
  Message& message = messages[address];
  const bool same = message.block == fiber.block->serial;
  if (reads) {
    clock.seen = joined(clock.seen, message.for_device);
    if (same) clock.seen_in_block = joined(clock.seen_in_block, message.for_block);
  }
  if (!writes) return;
  // What reads and writes at once passes on what it found.
  message.for_device = reads ? joined(message.for_device, clock.for_device) : clock.for_device;
  message.for_block = reads && same ? joined(message.for_block, clock.for_block) : clock.for_block;
  message.block = fiber.block->serial;
}

void begin_clocks() { messages.clear(); }

}  // namespace simt
