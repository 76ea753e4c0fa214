// What the assign_* ops share on every backend: their checks, and the order in which candidates are ranked.
// Ground truth comes as gt_boxes [B, G, 4] with two optional flags [B, G]: gt_valid, False for padding, and gt_ignored,
// True for regions (crowds) that no anchor is assigned to, but that make an anchor kIgnored which overlaps them best.
#pragma once

#include "box.h"
#include "checks.h"

#include <limits>

namespace tinyssd {

// In the results: no box, and neither a box nor background.
constexpr int64_t kBackground = -1, kIgnored = -2;
// The most candidates that a box may rank at once.
constexpr int64_t kMostTopk = 64;

// A candidate of a box: the smaller value ranks first, then the lower anchor.
template <class T>
struct Candidate {
  T value;
  int anchor;

  TINYSSD_INLINE bool before(const Candidate& other) const {
    return value < other.value || (value == other.value && anchor < other.anchor);
  }
};

// After every candidate.
template <class T>
TINYSSD_INLINE Candidate<T> no_candidate() {
  return {std::numeric_limits<T>::infinity(), std::numeric_limits<int>::max()};
}

// Whether a point lies inside a box, not on its edge.
template <class T>
TINYSSD_INLINE bool contains(const Box<T>& box, T x, T y) {
  return x > box.x1 && y > box.y1 && x < box.x2 && y < box.y2;
}

inline void expect_flags(const char* name, const std::optional<Tensor>& flags, const Tensor& gt_boxes) {
  if (!flags) return;
  const ScalarType dtype = flags->scalar_type();
  expect(dtype == ScalarType::Bool, name, ": expected dtype torch.bool, got ", dtype_string(dtype));
  gt_boxes.dim() == 2 ? expect_shape(name, *flags, {gt_boxes.size(0)})
                      : expect_shape(name, *flags, {gt_boxes.size(0), gt_boxes.size(1)});
  expect_device(name, *flags, gt_boxes);
}

inline ScalarType check_anchors_and_gt(
    const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid,
    const std::optional<Tensor>& gt_ignored) {
  expect_shape("anchors", anchors, {"A", 4});
  gt_boxes.dim() == 2 ? expect_shape("gt_boxes", gt_boxes, {"G", 4})
                      : expect_shape("gt_boxes", gt_boxes, {"B", "G", 4});
  const ScalarType dtype = compute_dtype({{"anchors", anchors}, {"gt_boxes", gt_boxes}});
  expect_flags("gt_valid", gt_valid, gt_boxes);
  expect_flags("gt_ignored", gt_ignored, gt_boxes);
  expect_numbered("anchors", anchors.size(0));
  expect_numbered("gt_boxes", gt_boxes.size(gt_boxes.dim() - 2));
  return dtype;
}

inline ScalarType check_assign_threshold(
    const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid,
    const std::optional<Tensor>& gt_ignored, double high_threshold, double low_threshold) {
  const ScalarType dtype = check_anchors_and_gt(anchors, gt_boxes, gt_valid, gt_ignored);
  expect_threshold("high_threshold", high_threshold);
  expect_threshold("low_threshold", low_threshold);
  expect(
      low_threshold <= high_threshold, "low_threshold: expected at most high_threshold, ", high_threshold, ", got ",
      low_threshold);
  return dtype;
}

// The ground truth of a call, contiguous.
template <class T>
struct GtView {
  const Box<T>* boxes;  // [B, G]
  const bool* valid;    // [B, G], or nullptr: all are
  const bool* ignored;  // [B, G], or nullptr: none is
  int64_t count;        // G

  TINYSSD_INLINE bool is_valid(int64_t i) const { return valid == nullptr || valid[i]; }
  TINYSSD_INLINE bool is_ignored(int64_t i) const { return ignored != nullptr && ignored[i]; }
};

// An assignment [B, A], or [A] where the ground truth is that of one image.
inline Tensor new_assignment(const Tensor& like, const Tensor& gt_boxes, int64_t num_anchors) {
  return gt_boxes.dim() == 2 ? new_tensor(like, {num_anchors}, ScalarType::Long)
                             : new_tensor(like, {gt_boxes.size(0), num_anchors}, ScalarType::Long);
}

}  // namespace tinyssd
