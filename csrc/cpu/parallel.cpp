// Notices a fork.
#include "parallel.h"

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace tinyssd {
namespace {

std::atomic<bool> forked{false};

#if defined(__unix__) || defined(__APPLE__)
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

}  // namespace

bool is_forked() { return forked.load(std::memory_order_relaxed); }

}  // namespace tinyssd
