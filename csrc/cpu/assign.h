// Anchor assignment on the CPU, shared by assign_anchors and multibox_target; the rule stands in tinyssd_ops/ops.py.
#pragma once

#include "simd.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace tinyssd {

// The anchors of a call, laid out once for all its images.
template <class T>
class AnchorArrays {
 public:
  explicit AnchorArrays(const T* anchors /* [A, 4] */, int64_t size);

  int64_t size() const { return size_; }
  int64_t num_tiles() const { return static_cast<int64_t>(bounds_.size()); }
  const BoxArrays<T>& arrays() const { return arrays_; }
  // The box around a tile of kTile anchors: a box that misses it has IoU 0 with all of them.
  const Box<T>& bounds(int64_t tile) const { return bounds_[tile]; }

  static constexpr int64_t kTile = 64;

 private:
  int64_t size_;
  std::unique_ptr<T[]> memory_;
  BoxArrays<T> arrays_;
  std::vector<Box<T>> bounds_;
};

// One image, with threads where it is large: assigned[a] is the index of the anchor's box, or -1. `valid` is nullptr where all boxes are.
template <class T>
void assign(
    const AnchorArrays<T>& anchors,
    const Box<T>* gt_boxes,  // [G]
    const bool* valid,       // [G]
    int64_t num_gt, T iou_threshold,
    int64_t* assigned);  // [A]

}  // namespace tinyssd
