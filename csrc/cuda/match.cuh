// match_kernel, the first step of the assignment: each anchor's best box. A warp owns a tile, kPerLane groups of 32
// anchors, a lane an anchor of each; a block owns kMatchWarps neighbouring tiles of an image. Every group has a box
// around its anchors, and 32 boxes are held against it at once: of a box that misses it, or cannot have an IoU that
// matters with any of the group, none is computed. Anchors prefer the box with the largest IoU, then the lowest index.
#pragma once

#include "reach.cuh"

#include <limits>

namespace tinyssd {

constexpr int kMatchWarps = 8;
constexpr int kChunk = kWarp * kMatchWarps;  // boxes in shared memory at once, loaded one a thread

template <class T>
struct MatchShared {
  Box<T> boxes[kChunk];
  T areas[kChunk];
  T least[kChunk];              // IoUs below matter neither to the box nor to anchors
  unsigned valid[kMatchWarps];  // a bit a box
  T best[kMatchWarps][kChunk];  // the largest IoU of a warp's tile with each box
};

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

// What the IoU of a box with the anchors of a group can be, from the bounds and the smallest area of the group. Each step
// is monotonic, rounding included: the intersection with an anchor is at most that with the bounds, the union at least
// that with the smallest area, and at least the box but for the rounding, which kIouMargin is far above.
template <class T>
struct Ceiling {
  T inter, united;
  __device__ Ceiling(const Box<T>& box, T box_area, const Box<T>& bounds, T smallest_area)
      : inter(intersection(box, bounds)), united(larger(box_area, smallest_area + box_area - inter)) {}
  // Whether every IoU is below `least`, by a margin. False for NaN.
  __device__ bool is_below(T least) const { return inter < least * static_cast<T>(1 - 2 * kIouMargin) * united; }
  // At least every IoU, and below `least`, if they are.
  __device__ T value(T least) const {
    const T ratio = inter / united * static_cast<T>(1 + kIouMargin) + std::numeric_limits<T>::min();
    return smaller(ratio, least * static_cast<T>(1 - kIouMargin));
  }
};

// Too small a number has no room for the margin.
template <class T>
__device__ __forceinline__ T least_of_use(T iou) {
  return iou > T(1e-3) ? iou : T(0);
}

// A lane's anchors and what they prefer so far.
template <class T, int kPerLane>
struct LaneAnchors {
  Box<T> boxes[kPerLane], bounds[kPerLane];  // the bounds are those of the lane's groups
  T areas[kPerLane], smallest_area[kPerLane];
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
    for (int i = 0; i < kPerLane; ++i) {
      bounds[i] = warp_bounds(boxes[i]);
      smallest_area[i] = -warp_largest(-areas[i]);
    }
  }

  // Holds 32 boxes of shared memory, of which the valid ones count, against all anchors of the warp. Returns what no IoU of
  // this lane's box with them exceeds: the largest, if that matters. `first_gt` is the index of the first box in the image.
  __device__ T meet(const Box<T>* gt_boxes, const T* gt_areas, const T* gt_least, unsigned valid, int first_gt) {
    const int lane = threadIdx.x % kWarp;
    const Box<T> own_gt = load_box(gt_boxes + lane);
    const T own_area = gt_areas[lane], own_least = gt_least[lane];
    unsigned hits[kPerLane], left = 0;
    T own_largest = 0;
    TINYSSD_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      const Ceiling<T> ceiling(own_gt, own_area, bounds[i], smallest_area[i]);
      const bool below = ceiling.is_below(own_least);
      if (below && ceiling.inter > T(0)) own_largest = larger(own_largest, ceiling.value(own_least));
      hits[i] = __ballot_sync(kAllLanes, !below && ceiling.inter != T(0)) & valid;
      left |= hits[i];
    }
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
      own_largest = lane == bit ? larger(own_largest, largest) : own_largest;
    }
    return own_largest;
  }
};

// Write::matched(anchor's index in the batch, anchor, ground truth, its index in the batch, its index in the image) and
// Write::background(anchor's index in the batch) store an anchor's result.
// At least a block of it on a multiprocessor: without that, the compiler hoards blocks and spills those of float64.
template <class T, int kPerLane, class Write>
__global__ void __launch_bounds__(kWarp* kMatchWarps, 1) match_kernel(
    const Box<T>* __restrict__ anchors,  // [A]
    int64_t num_anchors, const GroundTruth<T> gts, T threshold, unsigned blocks_an_image,
    const T* __restrict__ reached,  // [B, G]: an IoU of each box with some anchor; or nullptr
    T* __restrict__ tile_best,      // [B, G, blocks_an_image * kMatchWarps]
    int* __restrict__ holder,       // [B, A]
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
      shared.least[threadIdx.x] = reached == nullptr ? T(0) : least_of_use(smaller(threshold, reached[gt]));
    }
    const unsigned valid_in_warp = __ballot_sync(kAllLanes, is_valid);
    if (lane == 0) shared.valid[warp] = valid_in_warp;
    __syncthreads();
    for (int word = 0; word < kMatchWarps; ++word) {
      const unsigned valid = shared.valid[word];
      if (valid == 0) continue;
      const int first_gt = static_cast<int>(start) + word * kWarp;
      if (first_valid < 0) first_valid = first_gt + lowest_bit(valid);
      shared.best[warp][word * kWarp + lane] = own.meet(
          shared.boxes + word * kWarp, shared.areas + word * kWarp, shared.least + word * kWarp, valid, first_gt);
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
