// What a launch costs a GPU, by count: work (instructions, memory transactions, atomics, warp operations, IoU tests) and
// depth (the longest chain of dependent steps, in cycles). Blocks to count run the kernel of the library whose accesses
// call the machine (watch.cpp); each lane logs its accesses until its warp meets. Then accesses of the same place in the
// code, the k-th of each lane, are taken for one instruction of the warp. A warp's chain is the sum of its instructions'
// latencies; loads of one basic block are on their way together. A barrier waits for the longest chain of the block.
// Divergent lanes that a GPU would not bring together again are counted as if it did: a lower bound there.
#pragma once

#include "block.h"

#include <cstdint>

namespace simt {

enum class Access : uint8_t { kRead, kWrite, kFreshRead, kFreshWrite, kAtomic, kBasicBlock, kPair };

bool counting();
const void* counted_kernel();  // the twin of the launched kernel

void begin_launch_counts(uint64_t num_blocks);
void end_launch_counts();
// For the next block in the order of the launch: decides whether it is counted.
void begin_counts(Block& block);
void end_counts(Block& block);

void count_access(Fiber& fiber, const void* address, unsigned bytes, Access kind, const void* code);
void count_warp_operation(Block& block, int warp, unsigned mask);
void count_barrier(Block& block);

}  // namespace simt
