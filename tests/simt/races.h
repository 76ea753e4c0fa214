// The race detector: two accesses of different threads to the same bytes, at least one of which writes, and not both
// volatile or atomic, where nothing orders one before the other (clocks.h). Blocks that never run at once here count: on a
// GPU they may. And weak memory: a plain or volatile store is seen by its own thread at once, by others at a fence, a
// barrier, a __syncwarp, the thread's end, or a random moment.
#pragma once

#include "block.h"
#include "counts.h"

#include <cstdint>

namespace simt {

bool watching_races();

void begin_launch_races();
void begin_races(Block& block);
// Before the access. May let others run.
void watch_access(Fiber& fiber, void* address, unsigned bytes, Access kind, const void* code);

// The stores of a fiber that others may not see yet.
void publish(Fiber& fiber);
void hide_stores(Fiber& fiber);  // before another runs
void show_stores(Fiber& fiber);  // when it goes on

}  // namespace simt
