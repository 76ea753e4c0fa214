// The blocks in flight and the launch that they belong to; between the machine's own files.
#pragma once

#include "fiber.h"

#include <memory>
#include <string>
#include <vector>

namespace simt {

struct BlockCounts;

struct Block {
  uint3 index{};
  uint64_t serial = 0;                         // among all of the grid
  std::vector<std::unique_ptr<Fiber>> fibers;  // by rank; more than the block has threads after a larger one
  int num_threads = 0, num_left = 0, num_at_barrier = 0;
  uint32_t barriers = 0;  // passed
  char* shared_memory = nullptr;
  size_t shared_bytes = 0;
  std::vector<int> numbers;       // of stand-ins
  BlockCounts* counts = nullptr;  // nullptr: this block is not counted
  uint32_t size = 0;              // basic blocks that its threads have run

  bool shares(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - shared_memory) < shared_bytes;
  }
};

// What is launched.
struct Launch {
  const void* kernel = nullptr;
  void (*body)(void*, const void*) = nullptr;
  void* context = nullptr;
  dim3 grid, block;
  size_t shared_bytes = 0;
};
extern Launch launched;

// Ends the launch with a std::runtime_error, thrown on the host's stack.
[[noreturn]] void fail(const std::string& message);
// Lets the others run; the caller says what it waits for, or is ready.
void reschedule();
void yield();
// Demangled.
std::string name_of_function(const void* address);
// "nms.cu:17", of a return address.
std::string line_of_code(const void* address);
// Called before a sanitizer ends the process.
void set_death_callback(void (*callback)());

}  // namespace simt
