// What both steps of the assignment know. Anchors come in tiles: those that a warp of match_kernel owns, kPerLane a
// lane, one of each group of 32 neighbours.
#pragma once

#include "launch.cuh"

namespace tinyssd {

constexpr int kFree = -1;  // in holder: no box; in anchor_of: no anchor

// The ground-truth boxes of all images: rows of four corners, or label rows of a class and four corners.
template <class T>
struct GroundTruth {
  const T* rows;      // [B, G, width]
  int64_t width;      // 4, or 5: then a negative class marks padding
  const bool* valid;  // [B, G], or nullptr: all are
  int64_t count;      // G

  __device__ Box<T> box(int64_t i) const {
    const T* corners = rows + i * width + (width - 4);
    return {corners[0], corners[1], corners[2], corners[3]};
  }
  __device__ T class_id(int64_t i) const { return rows[i * width]; }
  __device__ bool is_valid(int64_t i) const {
    return (valid == nullptr || valid[i]) && (width == 4 || class_id(i) >= T(0));
  }
};

TINYSSD_INLINE bool has_bit(unsigned bits, int i) { return (bits >> i & 1u) != 0; }

// The index of the lowest bit of a word that is not 0.
__device__ __forceinline__ int lowest_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }

}  // namespace tinyssd
