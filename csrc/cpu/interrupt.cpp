// The hook and the clock that says when it is due.
#include "interrupt.h"

#include "parallel.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

namespace tinyssd {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<InterruptHook> current_hook{nullptr};

}  // namespace

void set_interrupt_hook(InterruptHook hook) { current_hook = hook; }
bool has_interrupt_hook() { return current_hook.load(std::memory_order_relaxed) != nullptr; }

void look_for_interrupt() {
  const Parts* parts = current_parts();
  // Its message is never read: the error of the other part is the op's.
  if (parts != nullptr && parts->failed) throw std::runtime_error("another part failed");
  const InterruptHook hook = current_hook.load(std::memory_order_relaxed);
  if (hook == nullptr) return;
  constexpr std::chrono::milliseconds kInterval{100};
  static thread_local Clock::time_point due;
  const Clock::time_point now = Clock::now();
  if (now < due) return;
  due = now + kInterval;
  hook();
}

void Parts::wait() const {
  constexpr std::chrono::milliseconds kShort{1}, kLongestSleep{20};
  constexpr int kShare = 16;  // of what it has waited, which is what a sleep may add
  const Clock::time_point start = Clock::now();
  while (done < size && !failed) {
    const Clock::duration waited = Clock::now() - start;
    if (waited < kShort) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<Clock::duration>(waited / kShare, kLongestSleep));
    }
    look_for_interrupt();
  }
}

}  // namespace tinyssd
