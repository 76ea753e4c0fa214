// Soft-NMS, shared by its kernels: the check of its arguments, and what one kept box does to the score of another.
#pragma once

#include "checks.h"

namespace tinyssd {

inline ScalarType check_soft_nms(
    const Tensor& boxes, const Tensor& scores, double iou_threshold, double sigma,
    const std::optional<Tensor>& class_ids, std::optional<double> score_threshold, std::optional<int64_t> max_output) {
  const ScalarType dtype = check_nms_padded(boxes, scores, iou_threshold, class_ids, score_threshold, max_output);
  expect(sigma > 0, "sigma: expected a number above 0, got ", sigma);
  return dtype;
}

// How scores decay.
template <class T>
struct Decay {
  bool gaussian;
  T threshold, sigma;

  TINYSSD_INLINE T operator()(T score, T iou) const {
    if (gaussian) return score * exp_exact(-(iou * iou) / sigma);
    return iou >= threshold ? score * (T(1) - iou) : score;
  }
};

}  // namespace tinyssd
