// The machine of machine.h. A fiber that has to wait notes what for and calls reschedule(), which picks one of `ready` by
// the seed; whoever completes a barrier or a warp operation wakes the others and works out the result. fail() ends a
// launch from any fiber: run_blocks throws on the host's stack and resets the fibers left behind.
#include "block.h"
#include "counts.h"
#include "races.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {

int quiet = 0;
Launch launched;

namespace {

// Of the warp operations the one that orders memory.
constexpr const char* kSyncWarp = "__syncwarp";
// Polls of memory in a row without any thread getting further: the block spins.
constexpr uint64_t kMostPolls = uint64_t{1} << 26;

// How often a thread lets others go on, in the mean: the op tests stay below 200.
constexpr uint64_t kMostSteps = uint64_t{1} << 16;

constexpr uint64_t kMostInFlight = 4;  // blocks

// One launch at a time: autograd may launch from another thread.
std::mutex launch_mutex;

std::vector<std::unique_ptr<Block>> blocks;  // in flight; kept from launch to launch, with their fibers
std::vector<Fiber*> ready;
int num_running = 0;  // threads of the blocks in flight that have not returned

std::string error;
uint64_t polls = 0;
uint64_t steps_left = 0;  // of all threads of the blocks in flight
uint64_t seed = 0, random_state = 0x9e3779b97f4a7c15;

std::string text_of(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string hex(unsigned mask) {
  char text[16];
  snprintf(text, sizeof(text), "0x%08x", mask);
  return text;
}

std::string where() {
  // Without what a template is made of and the parameters, since torch cuts long messages.
  const std::string name = name_of_function(launched.kernel);
  std::string text = "kernel " + name.substr(0, name.find_first_of("<(")) + ", seed " + std::to_string(seed);
  if (current->block == nullptr) return text;
  return text + ", block " + text_of(current->block->index) + ", thread " + text_of(current->thread);
}

// "__syncthreads (nms.cu:17)"
std::string waits_at(const Fiber& fiber) {
  const char* file = strrchr(fiber.at.file, '/');
  std::string text = std::string(fiber.what) + " (" + (file != nullptr ? file + 1 : fiber.at.file) + ":" +
                     std::to_string(fiber.at.line);
  return text + (fiber.state == State::kAtWarp ? ", mask " + hex(fiber.mask) + ")" : ")");
}

std::string name_of(const Fiber& fiber) {
  return "thread " + std::to_string(fiber.rank) + " (lane " + std::to_string(fiber.rank % kWarp) + ")";
}

// Which threads of a block wait where, for the message of a deadlock: "threads 0-30 __syncthreads (nms.cu:17)".
std::string everyone(const Block& block) {
  std::map<std::string, std::vector<int>> groups;
  for (int i = 0; i < block.num_threads; ++i) {
    const Fiber& fiber = *block.fibers[i];
    const char* free = fiber.state == State::kReturned ? "returned" : "running";
    const bool waits = fiber.state == State::kAtBarrier || fiber.state == State::kAtWarp;
    groups[waits ? waits_at(fiber) : free].push_back(i);
  }
  std::string text;
  for (const auto& [what, ranks] : groups) {
    std::string list;
    for (size_t i = 0; i < ranks.size(); ++i) {
      const size_t first = i;
      while (i + 1 < ranks.size() && ranks[i + 1] == ranks[i] + 1) ++i;
      list += (list.empty() ? "" : ", ") + std::to_string(ranks[first]);
      if (i > first) list += "-" + std::to_string(ranks[i]);
    }
    text += "\n  " + what + ": threads " + list;
  }
  return text;
}

std::string everyone() {
  if (current->block != nullptr) return everyone(*current->block);
  std::string text;
  for (const auto& block : blocks) {
    if (block->num_left > 0) text += everyone(*block);
  }
  return text;
}

void wake(Fiber& fiber) {
  fiber.state = State::kReady;
  ready.push_back(&fiber);
  polls = 0;
}

// The stand-in's work, of one for all.
void finish(Finish function, void* const* arguments, int count) {
  const Hidden hidden;
  function(arguments, count);
}

// All of the block that have not returned are at a barrier. CUDA wants the same barrier of all.
void finish_barrier(Block& block) {
  std::vector<void*> arguments(block.num_threads, nullptr);
  const Fiber* first = nullptr;
  for (int i = 0; i < block.num_threads; ++i) {
    const Fiber& fiber = *block.fibers[i];
    if (fiber.state != State::kAtBarrier) continue;
    if (first == nullptr) first = &fiber;
    if (fiber.at.line != first->at.line || strcmp(fiber.at.file, first->at.file) != 0) {
      fail("the threads of the block are at different barriers" + everyone(block));
    }
    arguments[i] = fiber.argument;
  }
  if (block.counts != nullptr) count_barrier(block);
  if (watching_races()) clock_barrier(block);
  for (int i = 0; i < block.num_threads; ++i) {
    if (block.fibers[i]->state == State::kAtBarrier) wake(*block.fibers[i]);
  }
  block.num_at_barrier = 0;
  if (first->finish != nullptr) finish(first->finish, arguments.data(), block.num_threads);
}

void thread_returned(Fiber& me) {
  Block& block = *me.block;
  me.state = State::kReturned;
  publish(me);
  polls = 0;
  --block.num_left;
  --num_running;
  const int warp = me.rank - me.rank % kWarp;
  for (int i = warp; i < std::min(warp + kWarp, block.num_threads); ++i) {
    const Fiber& other = *block.fibers[i];
    if (other.state == State::kAtWarp && (other.mask >> (me.rank % kWarp) & 1) != 0) {
      fail(name_of(me) + " returned, but " + name_of(other) + " waits for it at " + waits_at(other));
    }
  }
  // Threads that have returned hold up no barrier.
  if (block.num_left > 0 && block.num_at_barrier == block.num_left) finish_barrier(block);
}

void start_block(Block& block, uint64_t index, std::unique_ptr<void, void (*)(void*)>& memory) {
  const dim3 grid = launched.grid, shape = launched.block;
  block.serial = index;
  block.index = {
      static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
      static_cast<unsigned>(index / (uint64_t{grid.x} * grid.y))};
  // Not from a pool: its exact size is what AddressSanitizer guards. Its contents are what the last block left.
  void* shared = nullptr;
  const size_t bytes = launched.shared_bytes;
  if (bytes > 0 && posix_memalign(&shared, 128, bytes) != 0) throw std::bad_alloc();
  memory.reset(shared);
  block.shared_memory = static_cast<char*>(shared);
  block.shared_bytes = bytes;
  for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
    const uint64_t value = random();
    memcpy(block.shared_memory + i, &value, std::min(sizeof(value), bytes - i));
  }
  block.num_threads = block.num_left = static_cast<int>(shape.x * shape.y * shape.z);
  block.num_at_barrier = 0;
  while (static_cast<int>(block.fibers.size()) < block.num_threads) {
    block.fibers.push_back(std::make_unique<Fiber>());
    reset(*block.fibers.back());
  }
  num_running += block.num_threads;
  for (int i = 0; i < block.num_threads; ++i) {
    const unsigned rank = static_cast<unsigned>(i);
    Fiber& fiber = *block.fibers[i];
    fiber.block = &block;
    fiber.rank = i;
    fiber.thread = {rank % shape.x, rank / shape.x % shape.y, rank / (shape.x * shape.y)};
    wake(fiber);
  }
}

// Runs these blocks at once, to their end.
void run_blocks(const uint64_t* indices, int count) {
  std::vector<std::unique_ptr<void, void (*)(void*)>> memory;
  while (static_cast<int>(blocks.size()) < count) blocks.push_back(std::make_unique<Block>());
  polls = 0;
  num_running = 0;
  ready.clear();
  for (int i = 0; i < count; ++i) {
    memory.emplace_back(nullptr, &std::free);
    start_block(*blocks[i], indices[i], memory.back());
    begin_counts(*blocks[i]);
    begin_races(*blocks[i]);
  }
  current = &host;
  steps_left = kMostSteps * static_cast<uint64_t>(num_running);
  reschedule();
  for (int i = 0; i < count; ++i) {
    end_counts(*blocks[i]);
    blocks[i]->shared_memory = nullptr;
    blocks[i]->shared_bytes = 0;
  }
  if (error.empty()) return;
  for (const auto& block : blocks) {
    for (const auto& fiber : block->fibers) reset(*fiber);
  }
  throw std::runtime_error(std::exchange(error, ""));
}

// A sanitizer ends the process; this says what ran.
void on_death() {
  if (current != &host) fprintf(stderr, "simt: in %s\n", where().c_str());
}

}  // namespace

void fail(const std::string& message) {
  error = "simt: " + where() + ": " + message;
  run(host);
  std::abort();  // run_blocks has forgotten this fiber
}

void reschedule() {
  if (current != &host && steps_left-- == 0) {
    fail(
        "the launch does not end: its threads let others go on " + std::to_string(kMostSteps) + " times each" +
        everyone());
  }
  if (ready.empty()) {
    if (num_running > 0) fail("deadlock: no thread can go on" + everyone());
    run(host);
    return;
  }
  const size_t i = random() % ready.size();
  Fiber& next = *ready[i];
  ready[i] = ready.back();
  ready.pop_back();
  run(next);
}

void yield() {
  ready.push_back(current);
  reschedule();
}

void fiber_main() {
  fiber_entered();
  for (;;) {
    launched.body(launched.context, current->block->counts != nullptr ? counted_kernel() : launched.kernel);
    thread_returned(*current);
    reschedule();
  }
}

uint64_t random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state * 0x2545f4914f6cdd1d >> 16;
}

int thread_rank() { return current->rank; }

std::vector<int>& block_numbers() { return current->block->numbers; }

void maybe_yield() {
  if (++polls > kMostPolls) fail("the block spins: its threads poll memory and none gets further" + everyone());
  // While counting, only so that who waits for memory sees it change.
  if (counting() ? polls % 64 == 0 : random() % 4 == 0) yield();
}

void meet_block(const char* what, Place at, void* argument, Finish finish) {
  Fiber& me = *current;
  Block& block = *me.block;
  me.what = what, me.at = at, me.argument = argument, me.finish = finish;
  me.state = State::kAtBarrier;
  publish(me);
  if (++block.num_at_barrier == block.num_left) finish_barrier(block);
  reschedule();
}

void meet_warp(const char* what, Place at, unsigned mask, void* argument, Finish finish) {
  Fiber& me = *current;
  Block& block = *me.block;
  const int lane = me.rank % kWarp, warp = me.rank - lane;
  me.what = what, me.at = at, me.mask = mask, me.argument = argument, me.finish = finish;
  me.state = State::kAtWarp;
  const bool orders = strcmp(what, kSyncWarp) == 0;
  if (orders) publish(me);
  if ((mask >> lane & 1) == 0) fail(waits_at(me) + ": the mask does not name the lane that calls, " + name_of(me));
  bool complete = true;
  void* arguments[kWarp] = {};
  for (int i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) == 0) continue;
    if (warp + i >= block.num_threads) fail(waits_at(me) + ": the mask names lane " + std::to_string(i) + " of none");
    const Fiber& other = *block.fibers[warp + i];
    if (other.state == State::kReturned) {
      fail(waits_at(me) + ": the mask names " + name_of(other) + ", which has returned");
    }
    const bool waits_for_me = other.state == State::kAtWarp && (other.mask >> lane & 1) != 0;
    const bool same = other.mask == mask && (other.what == what || strcmp(other.what, what) == 0);
    if (waits_for_me && !same) {
      fail(name_of(me) + " is at " + waits_at(me) + ", but " + name_of(other) + " waits for it at " + waits_at(other));
    }
    complete = complete && waits_for_me;
    arguments[i] = other.argument;
  }
  if (complete) {
    if (block.counts != nullptr) count_warp_operation(block, warp / kWarp, mask);
    if (orders && watching_races()) clock_syncwarp(block, warp / kWarp, mask);
    for (int i = 0; i < kWarp; ++i) {
      if ((mask >> i & 1) != 0) wake(*block.fibers[warp + i]);
    }
    if (finish != nullptr) simt::finish(finish, arguments, kWarp);
  }
  reschedule();
}

void fence(bool device) {
  if (!watching_races()) return;
  publish(*current);
  clock_fence(*current, device);
}

void launch(
    dim3 grid, dim3 block, size_t shared_bytes, const void* kernel, void (*body)(void*, const void*), void* context) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  set_death_callback(&on_death);
  launched = {kernel, body, context, grid, block, shared_bytes};
  gridDim = grid;
  blockDim = block;
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) {
    const size_t j = random() % (i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  begin_launch_counts(order.size());
  begin_launch_races();
  for (size_t first = 0, count = 1; first < order.size(); first += count) {
    // Looking for races, a few at a time.
    count = watching_races() ? std::min<size_t>(1 + random() % kMostInFlight, order.size() - first) : 1;
    run_blocks(&order[first], static_cast<int>(count));
  }
  end_launch_counts();
}

}  // namespace simt

void* simt_shared_memory() {
  if (simt::current->block->shared_memory == nullptr) {
    simt::fail("the kernel uses shared memory, but its launch asked for none");
  }
  return simt::current->block->shared_memory;
}

void simt_set_seed(uint64_t seed) {
  simt::seed = seed;
  // Neighbouring seeds must not start alike, and the generator never leaves 0.
  simt::random_state = (seed + 1) * 0x9e3779b97f4a7c15 | 1;
  for (int i = 0; i < 16; ++i) simt::random();
}
