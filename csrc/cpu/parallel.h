// Threads over images, rows or groups, obeying torch.set_num_threads. Nested calls run in the calling thread. Every part
// ends early where one of them fails, or where the caller is interrupted.
#pragma once

#include "interrupt.h"
#include "limits.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <exception>

namespace tinyssd {

// What the threads of one parallel call share.
struct Parts;

// The call that this thread works for, or nullptr.
inline const Parts*& current_parts() {
  static thread_local const Parts* parts = nullptr;
  return parts;
}

struct Parts {
  int64_t size;
  const Parts** caller = &current_parts();
  std::atomic<int64_t> done{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // the first; torch's own loop would keep no more of it than its message

  template <class F>
  void run(int64_t begin, int64_t end, const F& f) {
    current_parts() = this;
    try {
      f(begin, end);
      done += end - begin;
      if (caller == &current_parts() && has_interrupt_hook()) wait();
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
    current_parts() = nullptr;
  }

  // Waits for the other parts, looking for an interrupt, which torch's own waiting does not.
  void wait() const;
};

// Whether this process was forked from one that had the library: the pool's threads stayed behind, and waiting for them
// would never end.
bool is_forked();

// The threads that a parallel call can use here.
inline int64_t num_threads() {
  return current_parts() != nullptr || is_forked() ? 1 : static_cast<int64_t>(torch::stable::get_num_threads());
}

// Calls f(begin, end) once a thread, for parts of 0..size; `cost` is the rough work of one item, in nanoseconds. Long
// loops in f pace themselves.
template <class F>
void parallel_parts(int64_t size, int64_t cost, const F& f) {
  const int64_t grain = limits().worth_a_thread / (cost > 0 ? cost : 1) + 1;
  if (size <= grain || num_threads() == 1) {
    if (size > 0) f(int64_t{0}, size);
    return;
  }
  Parts parts = {size};
  torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) { parts.run(begin, end, f); });
  if (parts.error) std::rethrow_exception(parts.error);
}

// The same with several calls of f a thread, where the work is long, between which it looks for an interrupt.
template <class F>
void parallel(int64_t size, int64_t cost, const F& f) {
  constexpr int64_t kLong = 20'000'000;  // nanoseconds
  const int64_t most = kLong / (cost > 0 ? cost : 1) + 1;
  parallel_parts(size, cost, [&](int64_t begin, int64_t end) {
    for (; end - begin > most; begin += most) {
      f(begin, begin + most);
      look_for_interrupt();
    }
    f(begin, end);
  });
}

}  // namespace tinyssd
