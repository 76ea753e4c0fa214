// Measured boxes as six arrays, for loops over many boxes at once.
#pragma once

#include "../iou.h"
#include "load.h"
#include "simd.h"

namespace tinyssd {

template <class T>
struct MeasuredArrays {
  BoxArrays<T> boxes;
  T* angle;

  static constexpr int64_t kArrays = BoxArrays<T>::kArrays + 1;
  // Over memory for kArrays * stride values.
  static MeasuredArrays over(T* memory, int64_t stride) {
    return {BoxArrays<T>::over(memory, stride), memory + BoxArrays<T>::kArrays * stride};
  }
  template <IouKind kKind>
  void fill(const T* source, int64_t size) const {
    for (int64_t i = 0; i < size; ++i) {
      const Measured<T> one = measure<kKind>(load_box(source, i));
      boxes.set(i, one.box, one.area);
      angle[i] = one.angle;
    }
  }
  TINYSSD_INLINE Measured<T> get(int64_t i) const {
    return {{boxes.x1[i], boxes.y1[i], boxes.x2[i], boxes.y2[i]}, boxes.area[i], angle[i]};
  }
  MeasuredArrays operator+(int64_t offset) const { return {boxes + offset, angle + offset}; }
};

}  // namespace tinyssd
