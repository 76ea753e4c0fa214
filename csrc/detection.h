// Predictions and detections, shared by multibox_detection and detect on every device.
#pragma once

#include "box.h"

namespace tinyssd {

// One row of the outputs [..., 6].
template <class T>
struct Row {
  T class_id, confidence;
  Box<T> box;
};

// Whether a class with this probability is chosen over the best of the classes before it: the largest, the lowest class
// of equals; a NaN is the largest of all, as in torch.max.
template <class T>
TINYSSD_INLINE bool is_better(T value, T best) {
  return (value > best) | ((value != value) & (best == best));
}

// A row of multibox_detection: what is below the threshold is background, as sure as it is not the object.
template <class T>
TINYSSD_INLINE Row<T> detection_row(int64_t class_id, T confidence, T pos_threshold, const Box<T>& box) {
  const bool unsure = confidence < pos_threshold;
  return {unsure ? T(0) : static_cast<T>(class_id), unsure ? T(1) - confidence : confidence, box};
}

}  // namespace tinyssd
