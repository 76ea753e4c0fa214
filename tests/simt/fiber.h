// Threads as fibers: each has a stack of its own, kept for the next block; the host's stack is one more. run() goes from
// one to another. AddressSanitizer is told, where it is there, since it must know whose stack it sees.
#pragma once

#include "clocks.h"
#include "machine.h"

#include <cstddef>
#include <string>
#include <vector>

namespace simt {

struct Block;

enum class State { kIdle, kReady, kAtBarrier, kAtWarp, kReturned };

// A store that others may not see yet: what they see instead, and while another fiber runs what was stored.
struct Store {
  char* address;
  unsigned bytes;
  char before[16], after[16];
};

struct Fiber {
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  char* stack = nullptr;
  size_t stack_bytes = 0;

  State state = State::kIdle;
  Block* block = nullptr;
  int rank = 0;
  uint3 thread{};
  int quiet = 0;
  Clock clock;
  std::vector<Store> stores;
  // What it waits for.
  const char* what = nullptr;
  Place at{};
  unsigned mask = 0;
  void* argument = nullptr;
  Finish finish = nullptr;
};

extern Fiber host;
extern Fiber* current;

// Goes on where `to` left off; returns when somebody runs this fiber again.
void run(Fiber& to);
// Makes the fiber begin with fiber_main the next time it runs, whatever it was doing.
void reset(Fiber& fiber);
// What every fiber runs for ever: a thread of one block after another. In machine.cpp.
void fiber_main();
// The first thing that a fiber does.
void fiber_entered();

}  // namespace simt
