// Predictions read on the CPU, shared by multibox_detection and detect: the decoded boxes of one image.
#pragma once

#include "../detection.h"
#include "simd.h"

#include <cstdint>

namespace tinyssd {

struct DecodeBoxes {
  template <class T>
  TINYSSD_INLINE static void run(const Box<T>* anchors, const Box<T>* offsets, int64_t size, Box<T>* boxes) {
    for (int64_t i = 0; i < size; ++i) boxes[i] = decode(anchors[i], offsets[i]);
  }
};

// The best of the classes' probabilities [C, A] from `first_class` on.
struct BestClass {
  template <class T>
  TINYSSD_INLINE static void run(
      const T* probs, int64_t num_classes, int64_t num_anchors, int64_t first_class, T* confidence, int32_t* classes) {
    for (int64_t i = 0; i < num_anchors; ++i) {
      confidence[i] = probs[first_class * num_anchors + i];
      classes[i] = static_cast<int32_t>(first_class);
    }
    for (int64_t c = first_class + 1; c < num_classes; ++c) {
      for (int64_t i = 0; i < num_anchors; ++i) {
        const T value = probs[c * num_anchors + i], best = confidence[i];
        const bool better = is_better(value, best);
        confidence[i] = better ? value : best;
        classes[i] = better ? static_cast<int32_t>(c) : classes[i];
      }
    }
  }
};

}  // namespace tinyssd
