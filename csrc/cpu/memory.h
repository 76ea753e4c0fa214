// Memory of large fresh outputs, which cost more in page faults than in arithmetic.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tinyssd {

// Nanoseconds that a value may take whose memory is written for the first time, on a busy machine.
constexpr int64_t kFreshCost = 10;

// Asks for huge pages, 512 times fewer, for the whole huge pages within the memory; a hint without any effect on values.
inline void advise_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const auto start = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (start + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (start + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

}  // namespace tinyssd
