// Boxes on the device with the angles that CIoU wants of them.
#pragma once

#include "../broadcast.h"
#include "../iou.h"
#include "launch.cuh"

#include <utility>

namespace tinyssd {

template <class T>
struct MeasuredBoxes {
  const Box<T>* boxes;
  const T* angles;  // nullptr but for CIoU

  template <IouKind kKind>
  __device__ __forceinline__ Measured<T> get(int64_t i) const {
    const Box<T> box = load_box(boxes + i);
    T angle = 0;
    if constexpr (kKind == IouKind::kCiou) angle = angles[i];
    return {box, area(box), angle};
  }
};

constexpr int kMeasureThreads = 128;

template <class T>
__global__ void __launch_bounds__(kMeasureThreads)
    diagonal_angle_kernel(const Box<T>* __restrict__ boxes, int64_t size, T* __restrict__ angles) {
  const int64_t i = int64_t{blockIdx.x} * kMeasureThreads + threadIdx.x;
  if (i < size) angles[i] = diagonal_angle(load_box(boxes + i));
}

// Both tensors' boxes; what `scratch` holds for them lasts as long as it does.
template <IouKind kKind, class T>
std::pair<MeasuredBoxes<T>, MeasuredBoxes<T>> measured(
    const DeviceScope& scope, Scratch& scratch, const Tensor& boxes1, const Tensor& boxes2) {
  MeasuredBoxes<T> ones = {box_data<T>(boxes1), nullptr}, twos = {box_data<T>(boxes2), nullptr};
  if constexpr (kKind == IouKind::kCiou) {
    const int64_t size1 = boxes1.numel() / 4, size2 = boxes2.numel() / 4;
    const auto angles1 = scratch.add<T>(size1);
    const auto angles2 = scratch.add<T>(size2);
    scratch.allocate(boxes1);
    const auto fill = [&](const Box<T>* boxes, int64_t size, T* angles) {
      if (size == 0) return;
      scope.launch(diagonal_angle_kernel<T>, ceil_div(size, kMeasureThreads), kMeasureThreads, 0, boxes, size, angles);
    };
    fill(ones.boxes, size1, scratch.get(angles1));
    fill(twos.boxes, size2, scratch.get(angles2));
    ones.angles = scratch.get(angles1);
    twos.angles = scratch.get(angles2);
  }
  return {ones, twos};
}

}  // namespace tinyssd
