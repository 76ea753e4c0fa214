// reach_kernel, before the assignment of many anchors: a warp owns a box and meets one group of 32 neighbouring anchors in
// kGroupStride. The largest IoU with them is one that the box reaches for certain, so tiles that stay below it are of no
// use to the box, and below the threshold none to the anchors: match_kernel need not compute what lies there.
#pragma once

#include "ground_truth.cuh"

namespace tinyssd {

constexpr int kReachWarps = 8;    // boxes of a block, mostly of one image: they read the same anchors
constexpr int kGroupStride = 61;  // prime, so that samples drift over rows of cells and their sizes
constexpr int kGroupsAtOnce = 8;  // loads in flight

// No IoU is negative, so the bits of floats order like the floats.
__device__ __forceinline__ float warp_max(float iou) {
  return __uint_as_float(__reduce_max_sync(kAllLanes, __float_as_uint(iou)));
}
__device__ __forceinline__ double warp_max(double iou) {
  for (int step = kWarp / 2; step > 0; step /= 2) iou = larger(iou, __shfl_xor_sync(kAllLanes, iou, step));
  return iou;
}

template <class T>
__global__ void __launch_bounds__(kWarp* kReachWarps) reach_kernel(
    const Box<T>* __restrict__ anchors,  // [A]
    int64_t num_anchors, const GroundTruth<T> gts, int64_t num_boxes,
    T* __restrict__ reached) {  // [B, G]
  const int64_t g = int64_t{blockIdx.x} * kReachWarps + threadIdx.x / kWarp;
  if (g >= num_boxes || !gts.is_valid(g)) return;
  const Box<T> box = gts.box(g);
  const T box_area = area(box);
  const int lane = threadIdx.x % kWarp;
  T largest = 0;
  for (int64_t first = lane; first - lane < num_anchors; first += kWarp * kGroupStride * kGroupsAtOnce) {
    Box<T> own[kGroupsAtOnce];
    // Beyond the end, the last anchor, which is one of them too.
    TINYSSD_UNROLL
    for (int i = 0; i < kGroupsAtOnce; ++i) {
      own[i] = load_box(anchors + smaller(first + i * kWarp * kGroupStride, num_anchors - 1));
    }
    TINYSSD_UNROLL
    for (int i = 0; i < kGroupsAtOnce; ++i) largest = larger(largest, iou(own[i], area(own[i]), box, box_area));
  }
  largest = warp_max(largest);
  if (lane == 0) reached[g] = largest;
}

}  // namespace tinyssd
