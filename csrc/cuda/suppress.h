// Suppression of a batch on CUDA: chooses between suppress_small.cuh and suppress_large.cuh, compiled in suppress.cu.
#pragma once

#include "suppress.cuh"

namespace tinyssd {

// Keeps the best of each image: keep [B, most] holds the kept candidates by falling score, padded with -1, counts [B] how
// many they are. `like` is a tensor on the device. No host sync.
template <class T>
void suppress(
    const DeviceScope& scope, const Tensor& like, const Candidates<T>& in, int64_t num_images, double iou_threshold,
    int64_t most, int64_t* keep, int64_t* counts);

}  // namespace tinyssd
