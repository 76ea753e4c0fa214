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

// The square root, the same on every backend: that of float32 is rounded correctly; for float64 two of Heron's steps
// refine it. Numbers beyond the range of float32 count as 0 or infinite.
TINYSSD_INLINE float exact_sqrt(float x) { return std::sqrt(x); }
TINYSSD_INLINE double exact_sqrt(double x) {
  const auto start = static_cast<double>(std::sqrt(static_cast<float>(x)));
  if (!(start > 0 && start <= std::numeric_limits<float>::max())) return start;
  const double root = 0.5 * (start + x / start);
  return 0.5 * (root + x / root);
}

// x to the power of halves / 2, by multiplying one after the other, the square root last: the same on every backend.
template <class T>
TINYSSD_INLINE T half_power(T x, int halves) {
  T result = 1;
  for (int i = 0; i < halves / 2; ++i) result = result * x;
  return halves % 2 != 0 ? result * exact_sqrt(x) : result;
}

// How well a prediction fits a box: score^alpha * IoU^beta, both powers in halves.
struct Alignment {
  int alpha, beta;

  template <class T>
  TINYSSD_INLINE T operator()(T score, T iou) const {
    return half_power(score, alpha) * half_power(iou, beta);
  }
};

inline void expect_power(const char* name, double value) {
  const bool good = value >= 0 && value <= 10 && 2 * value == std::floor(2 * value);
  expect(good, name, ": expected a multiple of 0.5 from 0 to 10, got ", value == value ? value : std::abs(value));
}

inline void expect_topk(int64_t topk) {
  expect(topk >= 1 && topk <= kMostTopk, "topk: expected a number from 1 to ", kMostTopk, ", got ", topk);
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

// Predictions of A points and the ground truth that they are compared with.
inline ScalarType check_predictions_and_gt(
    const Tensor& scores, const Tensor& boxes, const Tensor& points, const Tensor& gt_labels, const Tensor& gt_boxes,
    const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored) {
  expect_shape("scores", scores, {"B", "A", "C"});
  const int64_t num_images = scores.size(0), num_anchors = scores.size(1);
  expect(scores.size(2) >= 1, "scores: expected at least 1 class, got 0");
  expect_shape("boxes", boxes, {num_images, num_anchors, 4});
  expect_shape("points", points, {num_anchors, 2});
  expect_shape("gt_boxes", gt_boxes, {num_images, "G", 4});
  expect_shape("gt_labels", gt_labels, {num_images, gt_boxes.size(1)});
  const ScalarType dtype =
      compute_dtype({{"scores", scores}, {"boxes", boxes}, {"points", points}, {"gt_boxes", gt_boxes}});
  expect_integer("gt_labels", gt_labels);
  expect_device("gt_labels", gt_labels, scores);
  expect_flags("gt_valid", gt_valid, gt_boxes);
  expect_flags("gt_ignored", gt_ignored, gt_boxes);
  expect_numbered("scores", num_anchors);
  expect_numbered("gt_boxes", gt_boxes.size(1));
  return dtype;
}

inline ScalarType check_assign_task_aligned(
    const Tensor& scores, const Tensor& boxes, const Tensor& points, const Tensor& gt_labels, const Tensor& gt_boxes,
    const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored, int64_t topk, double alpha,
    double beta) {
  const ScalarType dtype = check_predictions_and_gt(scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored);
  expect_topk(topk);
  expect_power("alpha", alpha);
  expect_power("beta", beta);
  return dtype;
}

// What assignment_target reads in an assignment: an index of a box, or else why there is none.
TINYSSD_INLINE bool is_index(int64_t g, int64_t num_gt) { return g >= 0 && g < num_gt; }
TINYSSD_INLINE int64_t class_without_box(int64_t g) { return g == kIgnored ? -1 : 0; }

inline ScalarType check_assignment_target(
    const Tensor& assigned, const Tensor& gt_labels, const Tensor& gt_boxes, const std::optional<Tensor>& anchors) {
  expect_shape("assigned", assigned, {"B", "A"});
  const ScalarType index = assigned.scalar_type();
  expect(index == ScalarType::Long, "assigned: expected dtype torch.int64, got ", dtype_string(index));
  expect_shape("gt_boxes", gt_boxes, {assigned.size(0), "G", 4});
  expect_shape("gt_labels", gt_labels, {assigned.size(0), gt_boxes.size(1)});
  if (anchors) expect_shape("anchors", *anchors, {assigned.size(1), 4});
  const ScalarType dtype = anchors ? compute_dtype({{"gt_boxes", gt_boxes}, {"anchors", *anchors}})
                                   : compute_dtype({{"gt_boxes", gt_boxes}});
  expect_integer("gt_labels", gt_labels);
  expect_device("gt_labels", gt_labels, gt_boxes);
  expect_device("assigned", assigned, gt_boxes);
  return dtype;
}

// How many of the anchors each level of a pyramid has. Plain data, so that it also travels as a kernel's argument.
struct Levels {
  static constexpr int kMost = 16;

  int count = 0;
  int64_t starts[kMost + 1] = {0};

  explicit Levels(const std::vector<int64_t>& sizes) : count(static_cast<int>(sizes.size())) {
    for (int level = 0; level < count; ++level) starts[level + 1] = starts[level] + sizes[level];
  }
};

inline ScalarType check_assign_atss(
    const Tensor& anchors, const std::vector<int64_t>& level_sizes, const Tensor& gt_boxes,
    const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored, int64_t topk) {
  const ScalarType dtype = check_anchors_and_gt(anchors, gt_boxes, gt_valid, gt_ignored);
  const auto count = static_cast<int64_t>(level_sizes.size());
  expect(count >= 1 && count <= Levels::kMost, "level_sizes: expected 1 to ", Levels::kMost, " levels, got ", count);
  std::string shown;
  int64_t left = anchors.size(0);
  bool good = true;
  for (const int64_t size : level_sizes) {
    good = good && size >= 0 && size <= left;
    left -= good ? size : 0;
    shown += (shown.empty() ? "" : ", ") + std::to_string(size);
  }
  expect(
      good && left == 0, "level_sizes: expected sizes that add up to ", anchors.size(0), " anchors, got [", shown, "]");
  expect_topk(topk);
  return dtype;
}

// Numbers that are added in their order, in float64: whether a value reaches their mean plus their standard deviation
// (that of a sample), without a square root.
struct Spread {
  double mean, variance;

  template <class At>
  TINYSSD_INLINE static Spread of(int count, const At& at) {
    double sum = 0, squares = 0;
    for (int i = 0; i < count; ++i) sum += at(i);
    const double mean = sum / count;
    for (int i = 0; i < count; ++i) squares += (at(i) - mean) * (at(i) - mean);
    return {mean, count > 1 ? squares / (count - 1) : 0.0};
  }
  TINYSSD_INLINE bool reached_by(double value) const {
    const double above = value - mean;
    return above >= 0 && above * above >= variance;
  }
};

template <class T>
TINYSSD_INLINE T center_x(const Box<T>& box) {
  return (box.x1 + box.x2) / T(2);
}
template <class T>
TINYSSD_INLINE T center_y(const Box<T>& box) {
  return (box.y1 + box.y2) / T(2);
}

// The square of the distance of two points; beyond every number where one is NaN.
template <class T>
TINYSSD_INLINE T squared_distance(T x1, T y1, T x2, T y2) {
  const T dx = x1 - x2, dy = y1 - y2, sum = dx * dx + dy * dy;
  return sum == sum ? sum : std::numeric_limits<T>::infinity();
}

// What the points predict, contiguous.
template <class T>
struct PredictionView {
  const T* scores;      // [B, A, C]
  const Box<T>* boxes;  // [B, A]
  int64_t num_anchors, num_classes;

  TINYSSD_INLINE bool knows(int64_t label) const { return label >= 0 && label < num_classes; }
  TINYSSD_INLINE const T* scores_of(int64_t image, int64_t anchor) const {
    return scores + (image * num_anchors + anchor) * num_classes;
  }
};

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
