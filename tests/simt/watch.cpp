// What g++ calls in code compiled with -fsanitize=thread and -fsanitize-coverage=trace-pc: before every access, and in
// every basic block. ThreadSanitizer's own library, which knows neither warps nor barriers, is not linked.
#include "counts.h"
#include "races.h"

#include <cstddef>
#include <cstdint>

extern "C" char __start_simt_registers[], __stop_simt_registers[];

namespace simt {
namespace {

// Of a block's threads together: far beyond what the largest inputs need.
constexpr uint32_t kMostBasicBlocks = uint32_t{1} << 29;

inline bool within(const void* address, const void* begin, size_t bytes) {
  return reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(begin) < bytes;
}

inline void note(const void* address, size_t bytes, Access kind, const void* code) {
  Fiber& me = *current;
  if (me.block == nullptr) return;
  const bool counted = quiet == 0 && me.block->counts != nullptr, watched = quiet < kHidden && watching_races();
  if (!counted && !watched) return;
  // What is on the stack would be in registers, or local to the thread.
  if (within(address, me.stack, me.stack_bytes)) return;
  if (within(address, __start_simt_registers, __stop_simt_registers - __start_simt_registers)) return;
  if (counted) count_access(me, address, static_cast<unsigned>(bytes), kind, code);
  if (watched) watch_access(me, const_cast<void*>(address), static_cast<unsigned>(bytes), kind, code);
}

}  // namespace

void note_atomic(void* address, int bytes, const void* code) {
  note(address, static_cast<size_t>(bytes), Access::kAtomic, code);
}

}  // namespace simt

#define SIMT_HOOK(name, bytes, kind)                                             \
  void __tsan_##name(const void* address) {                                      \
    simt::note(address, bytes, simt::Access::kind, __builtin_return_address(0)); \
  }
#define SIMT_HOOKS(bytes)                            \
  SIMT_HOOK(read##bytes, bytes, kRead)               \
  SIMT_HOOK(write##bytes, bytes, kWrite)             \
  SIMT_HOOK(volatile_read##bytes, bytes, kFreshRead) \
  SIMT_HOOK(volatile_write##bytes, bytes, kFreshWrite)

extern "C" {
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)

void __tsan_read_range(const void* address, size_t bytes) {
  simt::note(address, bytes, simt::Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(const void* address, size_t bytes) {
  simt::note(address, bytes, simt::Access::kWrite, __builtin_return_address(0));
}

void __sanitizer_cov_trace_pc() {
  const simt::Fiber& me = *simt::current;
  if (simt::quiet != 0 || me.block == nullptr) return;
  if (++me.block->size == simt::kMostBasicBlocks)
    simt::fail("the launch does not end: a loop without barriers runs on");
  if (simt::watching_races() && simt::random() % 64 == 0) simt::maybe_yield();  // so that a loop without accesses ends
  if (me.block->counts == nullptr) return;
  simt::count_access(*simt::current, nullptr, 0, simt::Access::kBasicBlock, __builtin_return_address(0));
}

// Two boxes meet: called by box.h.
void simt_pair() {
  const simt::Fiber& me = *simt::current;
  if (simt::quiet != 0 || me.block == nullptr || me.block->counts == nullptr) return;
  simt::count_access(*simt::current, nullptr, 0, simt::Access::kPair, __builtin_return_address(0));
}

// Host code only.
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
int32_t __tsan_atomic32_fetch_add(volatile int32_t* address, int32_t value, int) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
}
