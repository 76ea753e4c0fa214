// Threads over images, rows or groups, obeying torch.set_num_threads. Nested calls run in the calling thread.
#pragma once

#include "limits.h"

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace tinyssd {

// Whether this thread already works for a parallel() call.
inline bool& is_inside_parallel() {
  static thread_local bool inside = false;
  return inside;
}

// Whether this process was forked from one that had the library: the pool's threads stayed behind, and waiting for them
// would never end.
bool is_forked();

// The threads that a call of parallel() can use here.
inline int64_t num_threads() {
  return is_inside_parallel() || is_forked() ? 1 : static_cast<int64_t>(torch::stable::get_num_threads());
}

// Calls f(begin, end) over parts of 0..size; `cost` is the rough work of one item, in nanoseconds.
template <class F>
void parallel(int64_t size, int64_t cost, const F& f) {
  const int64_t grain = limits().worth_a_thread / (cost > 0 ? cost : 1) + 1;
  if (size <= grain || num_threads() == 1) {
    if (size > 0) f(int64_t{0}, size);
    return;
  }
  torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
    is_inside_parallel() = true;
    f(begin, end);
    is_inside_parallel() = false;
  });
}

}  // namespace tinyssd
