// The sizes at which the CPU kernels change their ways. Tests lower them, so that small inputs take every way, and count
// the work; no value changes a result.
#pragma once

#include <atomic>
#include <cstdint>

namespace tinyssd {

struct Limits {
  int64_t worth_a_thread = 20000;  // nanoseconds
  int64_t few_kept = 384;          // so many kept boxes are met one by one before there is a grid or a tree
  int64_t wave = 512;              // boxes of a wave that are met by all kept ones of the wave, about
  int64_t least_in_waves = 4096;   // boxes left for which several threads are worth it
  // Beyond these, a box and on average, the grid gives way to the tree.
  int64_t grid_cells = 256;  // looked into
  int64_t neighbours = 512;  // kept boxes in the same cell
  int64_t soft_many = 256;   // candidates of soft_nms for which the order of a tree is worth finding
};

inline Limits& limits() {
  static Limits current;
  return current;
}

// Cells, blocks and tiles looked at since the start, by all threads: what tests count in place of time.
inline std::atomic<int64_t>& work_done() {
  static std::atomic<int64_t> count{0};
  return count;
}

}  // namespace tinyssd
