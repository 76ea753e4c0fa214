// The machine of machine.h. Every thread of a block is a fiber with a stack of its own, kept for the next block; the
// host's stack is one more. run() goes from one to another: simt_switch exchanges the registers, and AddressSanitizer
// is told, which must know whose stack it sees. A fiber that has to wait notes what for and calls reschedule(), which
// picks one of `ready` by the seed; whoever completes a barrier or a warp operation wakes the others and works out the
// result. fail() ends a launch from any fiber: run_block throws on the host's stack and resets the fibers left behind.
#include "include/cuda_runtime.h"

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Keeps the registers that a call must preserve on this stack, leaves its pointer in *from, and goes on where `to` left
// off. By hand, since swapcontext asks the kernel for the signal mask each time.
extern "C" void simt_switch(void** from, void* to);
#if defined(__x86_64__)
constexpr int kSavedWords = 6;
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, . - simt_switch
)");
#else
#error "tests/simt switches stacks on x86-64 alone: write simt_switch for this machine"
#endif

namespace simt {
namespace {

constexpr size_t kStackBytes = 256 << 10;
// Polls of memory in a row without any thread getting further: the block spins.
constexpr uint64_t kMostPolls = uint64_t{1} << 26;
// What a kernel may always ask for, and what it may ask for after cudaFuncSetAttribute.
constexpr int kSharedMemoryByDefault = 48 << 10, kH100SharedMemory = 232448;

enum class State { kIdle, kReady, kAtBarrier, kAtWarp, kReturned };

struct Fiber {
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  char* stack = nullptr;
  size_t stack_bytes = 0;

  State state = State::kIdle;
  int rank = 0;
  uint3 thread{};
  // What it waits for.
  const char* what = nullptr;
  Place at{};
  unsigned mask = 0;
  void* argument = nullptr;
  Finish finish = nullptr;
};

// One launch at a time: autograd may launch from another thread.
std::mutex launch_mutex;

Fiber host;
Fiber* current = &host;
Fiber* previous = nullptr;
std::vector<std::unique_ptr<Fiber>> fibers;  // kept from block to block, with their stacks
std::vector<Fiber*> ready;
int num_threads = 0, num_left = 0, num_at_barrier = 0;

const void* kernel = nullptr;
void (*body)(void*) = nullptr;
void* body_context = nullptr;
char* shared_memory = nullptr;
std::string error;
cudaError_t last_error = cudaSuccess;
std::map<const void*, int> allowed;  // shared memory, by kernel
uint64_t polls = 0;
uint64_t seed = 0, random_state = 0x9e3779b97f4a7c15;
int limit = [] {
  const char* text = std::getenv("TINYSSD_OPS_SIMT_SHARED_MEMORY");
  return text != nullptr ? std::atoi(text) : kH100SharedMemory;
}();

std::string text_of(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string hex(unsigned mask) {
  char text[16];
  snprintf(text, sizeof(text), "0x%08x", mask);
  return text;
}

std::string where() {
  char name[1024] = "?";
  // A byte into it, as the symbolizer takes what it gets for a return address.
  __sanitizer_symbolize_pc(static_cast<char*>(const_cast<void*>(kernel)) + 1, "%f", name, sizeof(name));
  std::string text = std::string("kernel ") + name + ", seed " + std::to_string(seed) + ", block " + text_of(blockIdx);
  return current == &host ? text : text + ", thread " + text_of(current->thread);
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

// Who waits where, for the message of a deadlock: "threads 0-30 __syncthreads (nms.cu:17)".
std::string everyone() {
  std::map<std::string, std::vector<int>> groups;
  for (int i = 0; i < num_threads; ++i) {
    const Fiber& fiber = *fibers[i];
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

void run(Fiber& to) {
  previous = std::exchange(current, &to);
  if (previous == &to) return;
  threadIdx = to.thread;
  Fiber& from = *previous;
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
  simt_switch(&from.stack_pointer, to.stack_pointer);
  // Somebody ran this one again. Which stack is the host's, only AddressSanitizer knows.
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(current->fake_stack, &bottom, &bytes);
  if (previous == &host) host.stack = static_cast<char*>(const_cast<void*>(bottom)), host.stack_bytes = bytes;
}

// Ends the launch with a std::runtime_error, thrown on the host's stack.
[[noreturn]] void fail(const std::string& message) {
  error = "simt: " + where() + ": " + message;
  run(host);
  std::abort();  // run_block has forgotten this fiber
}

// Gives the processor to any that is ready; the caller has said what it waits for.
void reschedule() {
  if (ready.empty()) {
    if (num_left > 0) fail("deadlock: no thread can go on" + everyone());
    run(host);
    return;
  }
  const size_t i = random() % ready.size();
  Fiber& next = *ready[i];
  ready[i] = ready.back();
  ready.pop_back();
  run(next);
}

void wake(Fiber& fiber) {
  fiber.state = State::kReady;
  ready.push_back(&fiber);
  polls = 0;
}

// All that have not returned are at a barrier. CUDA wants the same barrier of all.
void finish_barrier() {
  static std::vector<void*> arguments;
  arguments.assign(num_threads, nullptr);
  const Fiber* first = nullptr;
  for (int i = 0; i < num_threads; ++i) {
    const Fiber& fiber = *fibers[i];
    if (fiber.state != State::kAtBarrier) continue;
    if (first == nullptr) first = &fiber;
    if (fiber.at.line != first->at.line || strcmp(fiber.at.file, first->at.file) != 0) {
      fail("the threads of the block are at different barriers" + everyone());
    }
    arguments[i] = fiber.argument;
  }
  for (int i = 0; i < num_threads; ++i) {
    if (fibers[i]->state == State::kAtBarrier) wake(*fibers[i]);
  }
  num_at_barrier = 0;
  if (first->finish != nullptr) first->finish(arguments.data(), num_threads);
}

// Each fiber runs this for ever: a thread of one block after another.
void fiber_main() {
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (previous == &host) host.stack = static_cast<char*>(const_cast<void*>(bottom)), host.stack_bytes = bytes;
  for (;;) {
    body(body_context);
    Fiber& me = *current;
    me.state = State::kReturned;
    polls = 0;
    --num_left;
    const int warp = me.rank - me.rank % kWarp;
    for (int i = warp; i < std::min(warp + kWarp, num_threads); ++i) {
      const Fiber& other = *fibers[i];
      if (other.state == State::kAtWarp && (other.mask >> (me.rank % kWarp) & 1) != 0) {
        fail(name_of(me) + " returned, but " + name_of(other) + " waits for it at " + waits_at(other));
      }
    }
    // Threads that have returned hold up no barrier.
    if (num_left > 0 && num_at_barrier == num_left) finish_barrier();
    reschedule();
  }
}

void reset(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory =
        mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("simt: no memory for a fiber's stack");
    mprotect(memory, page, PROT_NONE);  // so that a stack too small does not run into another
    fiber.stack = static_cast<char*>(memory) + page;
    fiber.stack_bytes = kStackBytes;
  }
  // A fiber that an error left behind has marks of its frames there.
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes);
  *--top = nullptr;  // as if something had called fiber_main, which the alignment of its frame depends on
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < kSavedWords; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
  fiber.fake_stack = nullptr;
  fiber.state = State::kIdle;
}

void run_block(size_t shared_bytes) {
  // Not from a pool: its exact size is what AddressSanitizer guards. Its contents are what the last block left.
  void* memory = nullptr;
  if (shared_bytes > 0 && posix_memalign(&memory, 128, shared_bytes) != 0) throw std::bad_alloc();
  const std::unique_ptr<void, void (*)(void*)> owner(memory, &std::free);
  shared_memory = static_cast<char*>(memory);
  for (size_t i = 0; i < shared_bytes; i += sizeof(uint64_t)) {
    const uint64_t value = random();
    memcpy(shared_memory + i, &value, std::min(sizeof(value), shared_bytes - i));
  }
  num_left = num_threads;
  num_at_barrier = 0;
  polls = 0;
  ready.clear();
  for (int i = 0; i < num_threads; ++i) {
    Fiber& fiber = *fibers[i];
    fiber.rank = i;
    fiber.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    wake(fiber);
  }
  current = &host;
  reschedule();
  shared_memory = nullptr;
  if (error.empty()) return;
  for (const auto& fiber : fibers) reset(*fiber);
  throw std::runtime_error(std::exchange(error, ""));
}

// AddressSanitizer ends the process; this says what ran.
void on_death() {
  if (current != &host) fprintf(stderr, "simt: in %s\n", where().c_str());
}

}  // namespace

uint64_t random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state * 0x2545f4914f6cdd1d >> 16;
}

int thread_rank() { return current->rank; }

void maybe_yield() {
  if (++polls > kMostPolls) fail("the block spins: its threads poll memory and none gets further" + everyone());
  if (random() % 4 != 0) return;
  ready.push_back(current);
  reschedule();
}

void meet_block(const char* what, Place at, void* argument, Finish finish) {
  Fiber& me = *current;
  me.what = what, me.at = at, me.argument = argument, me.finish = finish;
  me.state = State::kAtBarrier;
  if (++num_at_barrier == num_left) finish_barrier();
  reschedule();
}

void meet_warp(const char* what, Place at, unsigned mask, void* argument, Finish finish) {
  Fiber& me = *current;
  const int lane = me.rank % kWarp, warp = me.rank - lane;
  me.what = what, me.at = at, me.mask = mask, me.argument = argument, me.finish = finish;
  me.state = State::kAtWarp;
  if ((mask >> lane & 1) == 0) fail(waits_at(me) + ": the mask does not name the lane that calls, " + name_of(me));
  bool complete = true;
  void* arguments[kWarp] = {};
  for (int i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) == 0) continue;
    if (warp + i >= num_threads) fail(waits_at(me) + ": the mask names lane " + std::to_string(i) + " of none");
    const Fiber& other = *fibers[warp + i];
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
    for (int i = 0; i < kWarp; ++i) {
      if ((mask >> i & 1) != 0) wake(*fibers[warp + i]);
    }
    if (finish != nullptr) finish(arguments, kWarp);
  }
  reschedule();
}

void launch(
    dim3 grid, dim3 block, size_t shared_bytes, const void* the_kernel, void (*the_body)(void*), void* context) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  __sanitizer_set_death_callback(&on_death);
  kernel = the_kernel;
  body = the_body;
  body_context = context;
  gridDim = grid;
  blockDim = block;
  num_threads = static_cast<int>(block.x * block.y * block.z);
  while (static_cast<int>(fibers.size()) < num_threads) {
    fibers.push_back(std::make_unique<Fiber>());
    reset(*fibers.back());
  }
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) {
    const size_t j = random() % (i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  for (const uint64_t i : order) {
    blockIdx.x = static_cast<unsigned>(i % grid.x);
    blockIdx.y = static_cast<unsigned>(i / grid.x % grid.y);
    blockIdx.z = static_cast<unsigned>(i / (uint64_t{grid.x} * grid.y));
    run_block(shared_bytes);
  }
}

cudaError_t record(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t allow_shared_memory(const void* the_kernel, int bytes) {
  if (bytes < 0 || bytes > limit) return record(cudaErrorInvalidValue);
  allowed[the_kernel] = bytes;
  return cudaSuccess;
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* the_kernel) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const bool grid_fits = grid.x - 1 < 0x7fffffff && grid.y - 1 < 65535 && grid.z - 1 < 65535;  // 0 wraps around
  const bool block_fits =
      block.x - 1 < 1024 && block.y - 1 < 1024 && block.z - 1 < 64 && uint64_t{block.x} * block.y * block.z <= 1024;
  if (!grid_fits || !block_fits) return record(cudaErrorInvalidConfiguration);
  const int most = std::max(kSharedMemoryByDefault, std::min(limit, allowed[the_kernel]));
  return record(config.dynamicSmemBytes <= static_cast<size_t>(most) ? cudaSuccess : cudaErrorInvalidValue);
}

}  // namespace simt

cudaError_t cudaGetLastError() { return std::exchange(simt::last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
  }
  return "unrecognized error code";
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = simt::limit;
  return cudaSuccess;
}

void* simt_shared_memory() {
  if (simt::shared_memory == nullptr) simt::fail("the kernel uses shared memory, but its launch asked for none");
  return simt::shared_memory;
}

// Freeing the memory ends it.
void simt_guard(void* begin, size_t bytes) { __asan_poison_memory_region(begin, bytes); }

void simt_set_seed(uint64_t seed) {
  simt::seed = seed;
  // Neighbouring seeds must not start alike, and the generator never leaves 0.
  simt::random_state = (seed + 1) * 0x9e3779b97f4a7c15 | 1;
  for (int i = 0; i < 16; ++i) simt::random();
}

void simt_set_shared_memory_limit(int bytes) { simt::limit = bytes; }

extern "C" {
// What libtorch has with CUDA only: one device, whose stream is the null stream.
int32_t aoti_torch_create_cuda_guard(int32_t, void** guard) {
  *guard = nullptr;
  return 0;
}
int32_t aoti_torch_delete_cuda_guard(void*) { return 0; }
int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
}
