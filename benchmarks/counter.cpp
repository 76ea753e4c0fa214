// Counts a call: allocations go through here to the C library, and callgrind is told where the call begins and ends.
// Loaded with LD_PRELOAD by benchmarks/counts.py; one thread.
#include <malloc.h>
#include <valgrind/callgrind.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

extern "C" {

void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* block, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* block);
}

namespace {

int64_t live = 0;  // bytes, since count_begin
int64_t peak = 0;

void* taken(void* block) {
  live += static_cast<int64_t>(malloc_usable_size(block));
  if (live > peak) peak = live;
  return block;
}

void given_back(void* block) { live -= static_cast<int64_t>(malloc_usable_size(block)); }

}  // namespace

extern "C" {

void* malloc(size_t size) { return taken(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return taken(__libc_calloc(count, size)); }
void* memalign(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void** block, size_t alignment, size_t size) {
  void* const found = memalign(alignment, size);
  if (found == nullptr) return ENOMEM;
  *block = found;
  return 0;
}

void* realloc(void* block, size_t size) {
  const int64_t before = static_cast<int64_t>(malloc_usable_size(block));
  void* const found = __libc_realloc(block, size);
  if (found == nullptr && size != 0) return nullptr;  // The old block is still there.
  live -= before;
  return taken(found);
}

void free(void* block) {
  given_back(block);
  __libc_free(block);
}

// Nothing may be allocated between the two that is not the call's.
void count_begin() {
  live = peak = 0;
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
}

// Writes the instructions since count_begin into callgrind's next file; returns the most bytes that were live at once.
int64_t count_end(const char* name) {
  const int64_t most = peak;
  CALLGRIND_DUMP_STATS_AT(name);
  CALLGRIND_STOP_INSTRUMENTATION;
  return most;
}
}
