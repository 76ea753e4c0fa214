// Threads over images, rows or groups, obeying torch.set_num_threads. Nested calls run in the calling thread.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace tinyssd {

// Calls f(begin, end) over parts of 0..size; `cost` is the rough work of one item, in nanoseconds.
template <class F>
void parallel(int64_t size, int64_t cost, const F& f) {
  constexpr int64_t kWorthAThread = 20000;
  const int64_t grain = kWorthAThread / (cost > 0 ? cost : 1) + 1;
  if (size <= grain) {
    if (size > 0) f(int64_t{0}, size);
    return;
  }
  torch::stable::parallel_for(0, size, grain, f);
}

}  // namespace tinyssd
