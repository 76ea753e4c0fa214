#include "fiber.h"

#include "block.h"
#include "races.h"

#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

// Absent where AddressSanitizer is.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(void const volatile* begin, size_t bytes);

// Keeps the registers that a call must preserve on this stack, leaves its pointer in *from, and goes on where `to` left
// off. By hand, since swapcontext asks the kernel for the signal mask each time.
void simt_switch(void** from, void* to);
}
#if defined(__x86_64__)
constexpr int kSavedWords = 6;
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, . - simt_switch
)");
#else
#error "tests/simt switches stacks on x86-64 alone: write simt_switch for this machine"
#endif

namespace simt {
namespace {

constexpr size_t kStackBytes = 256 << 10;
Fiber* previous = nullptr;

// Which stack is the host's, only AddressSanitizer knows.
void finish_switch(void* fake_stack) {
  if (&__sanitizer_finish_switch_fiber == nullptr) return;
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
  if (previous == &host) host.stack = static_cast<char*>(const_cast<void*>(bottom)), host.stack_bytes = bytes;
}

}  // namespace

Fiber host;
Fiber* current = &host;

void run(Fiber& to) {
  previous = std::exchange(current, &to);
  if (previous == &to) return;
  Fiber& from = *previous;
  if (!from.stores.empty()) hide_stores(from);
  from.quiet = std::exchange(quiet, to.quiet);
  if (to.block != nullptr) {
    threadIdx = to.thread;
    blockIdx = to.block->index;
  }
  if (&__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
  }
  simt_switch(&from.stack_pointer, to.stack_pointer);
  finish_switch(current->fake_stack);
  if (!current->stores.empty()) show_stores(*current);
}

void fiber_entered() { finish_switch(nullptr); }

void reset(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory =
        mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("simt: no memory for a fiber's stack");
    mprotect(memory, page, PROT_NONE);  // so that a stack too small does not run into another
    fiber.stack = static_cast<char*>(memory) + page;
    fiber.stack_bytes = kStackBytes;
  }
  // A fiber that an error left behind has marks of its frames there.
  if (&__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes);
  *--top = nullptr;  // as if something had called fiber_main, which the alignment of its frame depends on
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < kSavedWords; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
  fiber.fake_stack = nullptr;
  fiber.state = State::kIdle;
  fiber.quiet = 0;
}

}  // namespace simt
