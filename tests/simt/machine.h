// The machine that stands in for a GPU: it runs a kernel's blocks in an order drawn from the seed, one or a few at a
// time, and a block's threads as fibers. A fiber runs until it must wait (barrier, warp operation) or may be overtaken
// (atomic); then the seed picks who goes on. So a race shows as a result that changes with the seed, and a wait that
// nobody can end is an error that says who waits where.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}  // NOLINT
};

// Written by the machine whenever another fiber goes on. In a section of their own: an access there is none to memory.
#define SIMT_REGISTERS __attribute__((section("simt_registers")))
extern SIMT_REGISTERS uint3 threadIdx, blockIdx;
extern SIMT_REGISTERS dim3 blockDim, gridDim;

namespace simt {

constexpr int kWarp = 32;

// A line of a kernel's source: as a default argument, that of the call.
struct Place {
  const char* file;
  int line;
  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// Run once, when all have arrived and before any goes on: what each thread (or lane) passed as its argument, nullptr
// for those that do not take part. The arguments live on the stacks of fibers that wait: all may be read and written.
using Finish = void (*)(void* const* arguments, int count);

// Wait for every thread of the block that has not returned.
void meet_block(const char* what, Place at, void* argument = nullptr, Finish finish = nullptr);
// Wait for the lanes of the mask.
void meet_warp(const char* what, Place at, unsigned mask, void* argument = nullptr, Finish finish = nullptr);
// Maybe let others run: an access that may meet another thread's.
void maybe_yield();

uint64_t random();
int thread_rank();

// While it is not 0, the accesses of this thread are those of a stand-in: they are not counted, as its cost is charged.
// From kHidden on they are not even watched for races.
extern SIMT_REGISTERS int quiet;
constexpr int kHidden = 1 << 16;
template <int kBy>
struct QuietBy {
  // The compiler must not move accesses in or out: the calls that tell of them come later.
  QuietBy() {
    quiet += kBy;
    asm volatile("" ::: "memory");
  }
  ~QuietBy() {
    asm volatile("" ::: "memory");
    quiet -= kBy;
  }
  QuietBy(const QuietBy&) = delete;
  QuietBy& operator=(const QuietBy&) = delete;
};
using Quiet = QuietBy<1>;
using Hidden = QuietBy<kHidden>;

// What this thread has stored, others see; and what others have let it know, it knows.
void fence(bool device);
// Numbers that a block's stand-ins keep outside of its memory.
std::vector<int>& block_numbers();

// An atomic operation of this thread, of its lane alone.
void note_atomic(void* address, int bytes, const void* code);
// What a stand-in's work would cost a warp, or in a call of many launches the device; see counts.h.
struct WarpCost {
  double instructions, shared_wavefronts, cycles;
};
void charge(const WarpCost& cost);
struct DeviceCost {
  int launches;
  double bytes, cycles;  // moved; and beyond the time for that
};
void charge_device(const char* what, const DeviceCost& cost);

// What nobody may rely on, such as a register that no instruction wrote.
template <class T>
T garbage() {
  T value;
  auto* bytes = reinterpret_cast<unsigned char*>(&value);
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<unsigned char>(random());
  return value;
}

// Runs body(context, kernel) as each thread of each block. Where the block is counted, the kernel is its twin of the
// library whose accesses are seen.
void launch(
    dim3 grid, dim3 block, size_t shared_bytes, const void* kernel, void (*body)(void*, const void*), void* context);

}  // namespace simt

// The block's shared memory: its own heap block, so that AddressSanitizer sees an access beyond it.
void* simt_shared_memory();
// From now on an access there is an error: for the gaps between arrays that share one allocation.
void simt_guard(void* begin, size_t bytes);

// The order of blocks and threads from now on; conftest.py calls it by ctypes.
extern "C" void simt_set_seed(uint64_t seed);
// From now on launches look for races, and memory is weak: see races.h. Of kernels compiled as "watched" (run.py).
extern "C" void simt_watch_races(int on);
// The most shared memory that a kernel may ask for.
void simt_set_shared_memory_limit(int bytes);
