// Lets whoever called an op end it early, as Python's Ctrl-C does: loops that may be long pace themselves, and at times the
// thread that called the op runs a hook, which may throw. Without a hook, as in a program without Python, nothing happens.
#pragma once

#include "../box.h"

namespace tinyssd {

using InterruptHook = void (*)();
void set_interrupt_hook(InterruptHook hook);
bool has_interrupt_hook();

// Runs the hook where a tenth of a second has passed; throws what it throws, and in a thread of the pool where another
// part of the same parallel() has failed.
void look_for_interrupt();

// Counts the rough work of a loop, in nanoseconds.
class Pace {
 public:
  TINYSSD_INLINE void add(int64_t cost) {
    left_ -= cost;
    if (left_ >= 0) return;
    left_ = kWork;
    look_for_interrupt();
  }

 private:
  static constexpr int64_t kWork = 2'000'000;  // that may well be ten times as much
  int64_t left_ = kWork;
};

}  // namespace tinyssd
