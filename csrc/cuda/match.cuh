// match_kernel, the first step of the assignment: each anchor's best box. A warp owns a tile, kPerLane groups of 32
// anchors, a lane an anchor of each; a block owns kMatchWarps neighbouring tiles of an image. Every group has a box
// around its anchors, and 32 boxes are held against it at once: one that misses it has an IoU of 0 with all of the group.
// Anchors prefer the box with the largest IoU, then the lowest index; IoUs of 0 need not be computed for that.
#pragma once

#include "ground_truth.cuh"

#include <limits>

namespace tinyssd {

constexpr int kMatchWarps = 8;
constexpr int kChunk = kWarp * kMatchWarps;  // boxes in shared memory at once, loaded one a thread

template <class T>
struct MatchShared {
  Box<T> boxes[kChunk];
  T areas[kChunk];
  unsigned valid[kMatchWarps];  // a bit a box
  T best[kMatchWarps][kChunk];  // the largest IoU of a warp's tile with each box
};

// No IoU is negative, so the bits of floats order like the floats.
__device__ __forceinline__ float warp_max(float iou) {
  return __uint_as_float(__reduce_max_sync(kAllLanes, __float_as_uint(iou)));
}
__device__ __forceinline__ double warp_max(double iou) {
  for (int step = kWarp / 2; step > 0; step /= 2) iou = larger(iou, __shfl_xor_sync(kAllLanes, iou, step));
  return iou;
}

// The largest value of a warp; a NaN may win, or not.
__device__ __forceinline__ float warp_largest(float value) {
  // The bits of floats as integers in the order of the floats, and back: those of negative ones are turned.
  const auto turn = [](int bits) { return bits ^ (bits >> 31 & INT32_MAX); };
  return __int_as_float(turn(__reduce_max_sync(kAllLanes, turn(__float_as_int(value)))));
}
__device__ __forceinline__ double warp_largest(double value) { return warp_max(value); }

// The smallest box around those of all lanes; where one has a NaN, any.
template <class T>
__device__ __forceinline__ Box<T> warp_bounds(const Box<T>& box) {
  return {-warp_largest(-box.x1), -warp_largest(-box.y1), warp_largest(box.x2), warp_largest(box.y2)};
}

// Whether a box intersects no box within the bounds, inverted ones included. False for NaN: then the IoU decides.
template <class T>
__device__ __forceinline__ bool misses(const Box<T>& box, const Box<T>& bounds) {
  return (box.x2 <= bounds.x1) | (box.x1 >= bounds.x2) | (box.y2 <= bounds.y1) | (box.y1 >= bounds.y2);
}

// A lane's anchors and what they prefer so far.
template <class T, int kPerLane>
struct LaneAnchors {
  Box<T> boxes[kPerLane], bounds[kPerLane];  // the bounds are those of the lane's groups
  T areas[kPerLane];
  T best[kPerLane];
  int best_gt[kPerLane];  // -1: no box has an IoU above 0

  __device__ void load(const Box<T>* anchors, int64_t first, int64_t num_anchors) {
    constexpr T kFar = std::numeric_limits<T>::infinity();
    TINYSSD_UNROLL
    for (int i = 0; i < kPerLane; ++i) boxes[i] = load_box(anchors + smaller(first + i * kWarp, num_anchors - 1));
    TINYSSD_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      // Where there is no anchor, a box that overlaps nothing and widens no bounds.
      if (first + i * kWarp >= num_anchors) boxes[i] = {kFar, kFar, -kFar, -kFar};
      areas[i] = area(boxes[i]);
      best[i] = 0;
      best_gt[i] = -1;
    }
    TINYSSD_UNROLL
    for (int i = 0; i < kPerLane; ++i) bounds[i] = warp_bounds(boxes[i]);
  }

  // Holds 32 boxes of shared memory, of which the valid ones count, against all anchors of the warp. Returns the largest
  // IoU of this lane's box with them; `first_gt` is the index of the first box in the image.
  __device__ T meet(const Box<T>* gt_boxes, const T* gt_areas, unsigned valid, int first_gt) {
    const int lane = threadIdx.x % kWarp;
    const Box<T> own_gt = load_box(gt_boxes + lane);
    unsigned hits[kPerLane], left = 0;
    TINYSSD_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      hits[i] = __ballot_sync(kAllLanes, !misses(own_gt, bounds[i])) & valid;
      left |= hits[i];
    }
    T own_largest = 0;
    for (; left != 0; left &= left - 1) {
      const int bit = lowest_bit(left);
      const Box<T> gt = load_box(gt_boxes + bit);
      const T gt_area = gt_areas[bit];
      T largest = 0;
      TINYSSD_UNROLL
      for (int i = 0; i < kPerLane; ++i) {
        if (!has_bit(hits[i], bit)) continue;
        const T value = iou(boxes[i], areas[i], gt, gt_area);
        largest = larger(largest, value);
        const bool better = value > best[i];
        best[i] = better ? value : best[i];
        best_gt[i] = better ? first_gt + bit : best_gt[i];
      }
      largest = warp_max(largest);
      own_largest = lane == bit ? largest : own_largest;
    }
    return own_largest;
  }
};

// Write::matched(anchor's index in the batch, anchor, ground truth, its index in the batch, its index in the image) and
// Write::background(anchor's index in the batch) store an anchor's result.
template <class T, int kPerLane, class Write>
__global__ void __launch_bounds__(kWarp* kMatchWarps) match_kernel(
    const Box<T>* __restrict__ anchors,  // [A]
    int64_t num_anchors, const GroundTruth<T> gts, T threshold, unsigned blocks_an_image,
    T* __restrict__ tile_best,  // [B, G, blocks_an_image * kMatchWarps]
    int* __restrict__ holder,   // [B, A]
    const Write write) {
  auto& shared = shared_memory<MatchShared<T>>();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t image = blockIdx.x / blocks_an_image, block = blockIdx.x % blocks_an_image;
  const int64_t first_anchor = (block * kMatchWarps + warp) * kWarp * kPerLane + lane;
  LaneAnchors<T, kPerLane> own;
  own.load(anchors, first_anchor, num_anchors);
  int first_valid = -1;
  for (int64_t start = 0; start < gts.count; start += kChunk) {
    const int64_t gt = image * gts.count + start + threadIdx.x;
    const bool is_valid = start + threadIdx.x < gts.count && gts.is_valid(gt);
    if (is_valid) {
      const Box<T> box = gts.box(gt);
      store_box(shared.boxes + threadIdx.x, box);
      shared.areas[threadIdx.x] = area(box);
    }
    const unsigned valid_in_warp = __ballot_sync(kAllLanes, is_valid);
    if (lane == 0) shared.valid[warp] = valid_in_warp;
    __syncthreads();
    for (int word = 0; word < kMatchWarps; ++word) {
      const unsigned valid = shared.valid[word];
      if (valid == 0) continue;
      const int first_gt = static_cast<int>(start) + word * kWarp;
      if (first_valid < 0) first_valid = first_gt + lowest_bit(valid);
      shared.best[warp][word * kWarp + lane] =
          own.meet(shared.boxes + word * kWarp, shared.areas + word * kWarp, valid, first_gt);
    }
    __syncthreads();
    if (is_valid) {
      constexpr int kEach = 16 / sizeof(T);
      auto* target = reinterpret_cast<Pack<T, kEach>*>(tile_best + (gt * blocks_an_image + block) * kMatchWarps);
      for (int part = 0; part < kMatchWarps / kEach; ++part) {
        Pack<T, kEach> pack;
        for (int i = 0; i < kEach; ++i) pack.values[i] = shared.best[part * kEach + i][threadIdx.x];
        target[part] = pack;
      }
    }
  }
  TINYSSD_UNROLL
  for (int i = 0; i < kPerLane; ++i) {
    const int64_t anchor = first_anchor + i * kWarp, slot = image * num_anchors + anchor;
    if (anchor >= num_anchors) break;
    holder[slot] = kFree;
    // An IoU of 0 ties with that of all other boxes: the first one wins.
    const int gt = own.best_gt[i] >= 0 ? own.best_gt[i] : first_valid;
    if (gt >= 0 && own.best[i] >= threshold) {
      write.matched(slot, own.boxes[i], gts, image * gts.count + gt, gt);
    } else {
      write.background(slot);
    }
  }
}

}  // namespace tinyssd
