// SimOTA's costs, the same on every backend: logarithms are made of rounded basic operations.
#pragma once

#include "assigners.h"

namespace tinyssd {

template <class T>
struct LogTraits;
template <>
struct LogTraits<float> {
  static constexpr int32_t kRootHalf = 0x3f3504f3;  // the bits of sqrt(0.5)
  static constexpr int kTerms = 4;
};
template <>
struct LogTraits<double> {
  static constexpr int64_t kRootHalf = 0x3fe6a09e667f3bcd;
  static constexpr int kTerms = 10;
};

// log(x), at least -100 as in a cross entropy that stays finite; x below the normal numbers gives -100, NaN stays NaN.
// x = m * 2^k with m around 1; log(m) = 2 atanh(s) with s = (m - 1) / (m + 1), by its series.
template <class T>
TINYSSD_INLINE T exact_log(T x) {
  using Int = typename ExpTraits<T>::Int;
  constexpr Int kMantissa = (Int(1) << ExpTraits<T>::kMantissaBits) - 1;
  Int bits;
  memcpy(&bits, &x, sizeof(bits));
  using Unsigned = std::make_unsigned_t<Int>;  // whose differences wrap
  const Int above = static_cast<Int>(Unsigned(bits) - Unsigned(LogTraits<T>::kRootHalf));
  const Int mantissa = static_cast<Int>(Unsigned(bits) - Unsigned(above & ~kMantissa));
  T m;
  memcpy(&m, &mantissa, sizeof(m));
  const T k = static_cast<T>(above >> ExpTraits<T>::kMantissaBits);
  const T s = (m - T(1)) / (m + T(1)), z = s * s;
  T series = T(2.0 / (2 * LogTraits<T>::kTerms + 1));
  for (int term = LogTraits<T>::kTerms - 1; term >= 1; --term) series = series * z + T(2.0 / (2 * term + 1));
  const T result = k * ExpTraits<T>::kLn2High + ((T(2) * s + s * (series * z)) + k * ExpTraits<T>::kLn2Low);
  const T finite = x >= std::numeric_limits<T>::min() ? result : T(-100);
  return x == x ? larger(finite, T(-100)) : x;
}

// The cost of a point for a box: the binary cross entropy of its scores, that of all classes but one being the same for
// every box (`absent`, the sum of -log(1 - score) over all classes), and three times -log IoU.
template <class T>
TINYSSD_INLINE T simota_cost(T absent, T score, T iou) {
  const T classification = absent + (exact_log(T(1) - score) - exact_log(score));
  return classification - T(3) * exact_log(iou + T(1e-8));
}

// Whether a point lies within `reach` of a box's centre, in x and in y.
template <class T>
TINYSSD_INLINE bool near_center(const Box<T>& box, T x, T y, T reach) {
  const T cx = (box.x1 + box.x2) / T(2), cy = (box.y1 + box.y2) / T(2);
  return (x > cx - reach) & (x < cx + reach) & (y > cy - reach) & (y < cy + reach);
}

// How many points a box gets: its largest IoUs, added from the largest on, without the fraction; at least 1.
template <class T, class At>
TINYSSD_INLINE int dynamic_k(int count, int topk, const At& iou_at) {
  T sum = 0;
  for (int i = 0; i < count; ++i) sum += iou_at(i);
  const int whole = static_cast<int>(sum);
  return whole < 1 ? 1 : whole > topk ? topk : whole;
}

inline ScalarType check_assign_simota(
    const Tensor& scores, const Tensor& boxes, const Tensor& points, const Tensor& strides, const Tensor& gt_labels,
    const Tensor& gt_boxes, const std::optional<Tensor>& gt_valid, const std::optional<Tensor>& gt_ignored,
    double radius, int64_t topk) {
  const ScalarType dtype = check_predictions_and_gt(scores, boxes, points, gt_labels, gt_boxes, gt_valid, gt_ignored);
  expect_shape("strides", strides, {points.size(0)});
  const ScalarType stride_dtype = compute_dtype({{"scores", scores}, {"strides", strides}});
  expect(
      radius >= 0 && radius <= 1e6, "radius: expected a number from 0 to 1e6, got ",
      radius == radius ? radius : std::abs(radius));
  expect_topk(topk);
  return stride_dtype == ScalarType::Double ? stride_dtype : dtype;
}

}  // namespace tinyssd
