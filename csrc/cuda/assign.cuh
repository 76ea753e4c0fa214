// Anchor assignment on CUDA, shared by assign_anchors and multibox_target: two launches for a whole batch.
// match_kernel: a thread owns an anchor and meets all boxes; it writes the anchor's result as the threshold alone decides
// it, and each block of kTile anchors leaves the largest IoU of every box with its tile: [B, G, A / kTile] values.
// claim_kernel: a block owns an image, a warp a box that looks for its anchor. The greedy rule is a stable matching:
// boxes and anchors rank each other by one order of pairs (IoU, lowest anchor, lowest box), so there is just one, and
// any order of proposals finds it. A box proposes to its best anchor that no better box holds; whom it displaces, its
// warp takes over. holder[a] only ever improves, so the tile maxima stay upper bounds and are lowered on the way.
#pragma once

#include "launch.cuh"

namespace tinyssd {

constexpr int kTile = 128;  // anchors of a block of match_kernel, one a thread
constexpr int kChunk = 64;  // boxes in its shared memory at once
constexpr int kFree = -1;   // in holder: no box; in anchor_of: no anchor
constexpr int kMostClaimWarps = 32;

// The ground-truth boxes of all images: rows of four corners, or label rows of a class and four corners.
template <class T>
struct GroundTruth {
  const T* rows;      // [B, G, width]
  int64_t width;      // 4, or 5: then a negative class marks padding
  const bool* valid;  // [B, G], or nullptr: all are
  int64_t count;      // G

  __device__ Box<T> box(int64_t i) const {
    const T* corners = rows + i * width + (width - 4);
    return {corners[0], corners[1], corners[2], corners[3]};
  }
  __device__ T class_id(int64_t i) const { return rows[i * width]; }
  __device__ bool is_valid(int64_t i) const {
    return (valid == nullptr || valid[i]) && (width == 4 || class_id(i) >= T(0));
  }
};

template <class T>
struct MatchShared {
  Box<T> boxes[kChunk];
  T areas[kChunk];
  bool valid[kChunk];
  T best[kChunk][kTile / kWarp];
};

// No IoU is negative, so the bits of floats order like the floats.
__device__ __forceinline__ float warp_max(float iou) {
  return __uint_as_float(__reduce_max_sync(kAllLanes, __float_as_uint(iou)));
}
__device__ __forceinline__ double warp_max(double iou) {
  for (int step = kWarp / 2; step > 0; step /= 2) iou = larger(iou, __shfl_xor_sync(kAllLanes, iou, step));
  return iou;
}

// Write::matched(anchor's index in the batch, anchor, ground truth, its index in the batch, its index in the image) and
// Write::background(anchor's index in the batch) store an anchor's result.
template <class T, class Write>
__global__ void __launch_bounds__(kTile) match_kernel(
    const Box<T>* __restrict__ anchors,  // [A]
    int64_t num_anchors, const GroundTruth<T> gts, T threshold, unsigned tiles,
    T* __restrict__ tile_best,  // [B, G, tiles]
    int* __restrict__ holder,   // [B, A]
    const Write write) {
  auto& shared = shared_memory<MatchShared<T>>();
  const int64_t image = blockIdx.x / tiles, tile = blockIdx.x % tiles, anchor = tile * kTile + threadIdx.x;
  const bool exists = anchor < num_anchors;
  const Box<T> own = exists ? load_box(anchors + anchor) : Box<T>{0, 0, 0, 0};
  const T own_area = area(own);
  T best = -1;
  int64_t best_gt = -1;
  for (int64_t start = 0; start < gts.count; start += kChunk) {
    const int size = static_cast<int>(smaller(int64_t{kChunk}, gts.count - start));
    const int64_t first = image * gts.count + start;
    if (threadIdx.x < size) {
      const Box<T> box = gts.box(first + threadIdx.x);
      store_box(shared.boxes + threadIdx.x, box);
      shared.areas[threadIdx.x] = area(box);
      shared.valid[threadIdx.x] = gts.is_valid(first + threadIdx.x);
    }
    __syncthreads();
    for (int g = 0; g < size; ++g) {
      if (!shared.valid[g]) continue;
      const Box<T> box = load_box(shared.boxes + g);
      T value = 0, largest = 0;
      if (__any_sync(kAllLanes, intersection(own, box) > T(0))) {  // many boxes miss all anchors of a warp
        value = iou(own, own_area, box, shared.areas[g]);
        largest = warp_max(value);
      }
      if (value > best) {
        best = value;
        best_gt = start + g;
      }
      if (threadIdx.x % kWarp == 0) shared.best[g][threadIdx.x / kWarp] = largest;
    }
    __syncthreads();
    if (threadIdx.x < size && shared.valid[threadIdx.x]) {
      T largest = 0;
      for (int warp = 0; warp < kTile / kWarp; ++warp) largest = larger(largest, shared.best[threadIdx.x][warp]);
      tile_best[(first + threadIdx.x) * tiles + tile] = largest;
    }
  }
  if (!exists) return;
  const int64_t slot = image * num_anchors + anchor;
  holder[slot] = kFree;
  if (best_gt >= 0 && best >= threshold) {
    write.matched(slot, own, gts, image * gts.count + best_gt, best_gt);
  } else {
    write.background(slot);
  }
}

// The largest value of a warp and the lowest index that has it.
template <class T>
__device__ __forceinline__ void warp_first_max(T& value, int& index) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, step);
    const int other_index = __shfl_xor_sync(kAllLanes, index, step);
    if (other > value || (other == value && other_index < index)) {
      value = other;
      index = other_index;
    }
  }
}

// One image, as its claim_kernel sees it.
template <class T>
struct Claims {
  const Box<T>* anchors;  // [A]
  int num_anchors;
  GroundTruth<T> gts;
  int64_t first_gt;  // of the image
  int tiles;
  T* tile_best;    // [G, tiles]
  int* holder;     // [A]
  int* anchor_of;  // [G]

  // Whether an anchor would rather have box g, whose IoU with it is `value`, than its holder.
  __device__ bool prefers(int anchor, int holder_gt, int g, T value) const {
    if (holder_gt == kFree) return true;
    const Box<T> own = load_box(anchors + anchor), rival = gts.box(first_gt + holder_gt);
    const T theirs = iou(own, area(own), rival, area(rival));
    return value > theirs || (value == theirs && g < holder_gt);
  }

  // Finds box g its anchor. Returns the box that lost it, or kFree. Called by a whole warp.
  __device__ int settle(int g) const {
    const int lane = threadIdx.x % kWarp;
    const Box<T> box = gts.box(first_gt + g);
    const T box_area = area(box);
    T* bounds = tile_best + int64_t{g} * tiles;
    while (true) {
      T top = -1;
      int tile = INT32_MAX;
      for (int t = lane; t < tiles; t += kWarp) {
        const T bound = __ldcg(bounds + t);  // another warp may have lowered it
        if (bound > top) {
          top = bound;
          tile = t;
        }
      }
      warp_first_max(top, tile);
      if (top < T(0)) {  // every anchor is held by a better box
        if (lane == 0) anchor_of[g] = kFree;
        return kFree;
      }
      T best = -1;
      int anchor = INT32_MAX;
      for (int i = lane; i < kTile && tile * kTile + i < num_anchors; i += kWarp) {
        const int candidate = tile * kTile + i;
        const Box<T> own = load_box(anchors + candidate);
        const T value = iou(own, area(own), box, box_area);
        if (value > best && prefers(candidate, __ldcg(holder + candidate), g, value)) {
          best = value;
          anchor = candidate;
        }
      }
      warp_first_max(best, anchor);
      if (best != top) {  // the bound was too high: held anchors do not count any more
        if (lane == 0) bounds[tile] = best;
        __threadfence_block();
        __syncwarp(kAllLanes);
        continue;
      }
      int displaced = g;  // g itself: the proposal failed
      if (lane == 0) {
        // Written before the anchor is won: afterwards whoever displaces g decides where it goes.
        anchor_of[g] = anchor;
        __threadfence_block();
        int current = __ldcg(holder + anchor);
        while (prefers(anchor, current, g, best)) {
          const int seen = atomicCAS(holder + anchor, current, g);
          if (seen == current) {
            displaced = current;
            break;
          }
          current = seen;
        }
        __threadfence_block();
      }
      displaced = __shfl_sync(kAllLanes, displaced, 0);
      __syncwarp(kAllLanes);  // what lane 0 has seen, the others have too
      if (displaced != g) return displaced;
    }
  }
};

template <class T, class Write>
__global__ void __launch_bounds__(kWarp* kMostClaimWarps) claim_kernel(
    const Box<T>* __restrict__ anchors,  // [A]
    int64_t num_anchors, const GroundTruth<T> gts, int tiles,
    T* tile_best,    // [B, G, tiles]
    int* holder,     // [B, A]
    int* anchor_of,  // [B, G]
    const Write write) {
  const int64_t image = blockIdx.x, first_gt = image * gts.count, first_anchor = image * num_anchors;
  const int count = static_cast<int>(gts.count), warps = blockDim.x / kWarp;
  const Claims<T> claims = {
      anchors,
      static_cast<int>(num_anchors),
      gts,
      first_gt,
      tiles,
      tile_best + first_gt * tiles,
      holder + first_anchor,
      anchor_of + first_gt};
  for (int next = threadIdx.x / kWarp; next < count; next += warps) {
    if (!gts.is_valid(first_gt + next)) continue;
    for (int g = next; g != kFree;) g = claims.settle(g);
  }
  __syncthreads();
  for (int g = threadIdx.x; g < count; g += blockDim.x) {
    if (!gts.is_valid(first_gt + g)) continue;
    const int anchor = claims.anchor_of[g];
    if (anchor != kFree) write.matched(first_anchor + anchor, load_box(anchors + anchor), gts, first_gt + g, g);
  }
}

// Assigns and stores every anchor's result. At least one image and one anchor.
template <class T, class Write>
void assign(
    const DeviceScope& scope, const Tensor& anchors, int64_t num_anchors, const GroundTruth<T>& gts, int64_t num_images,
    double iou_threshold, const Write& write) {
  const int64_t tiles = ceil_div(num_anchors, kTile);
  Scratch scratch;
  const auto tile_best = scratch.add<T>(num_images * gts.count * tiles);
  const auto holder = scratch.add<int>(num_images * num_anchors), anchor_of = scratch.add<int>(num_images * gts.count);
  scratch.allocate(anchors);
  scope.launch(
      match_kernel<T, Write>, num_images * tiles, kTile, sizeof(MatchShared<T>), box_data<T>(anchors), num_anchors, gts,
      static_cast<T>(iou_threshold), tiles, scratch.get(tile_best), scratch.get(holder), write);
  if (gts.count == 0) return;
  const int64_t warps = smaller(gts.count, int64_t{kMostClaimWarps});
  scope.launch(
      claim_kernel<T, Write>, num_images, static_cast<unsigned>(kWarp * warps), 0, box_data<T>(anchors), num_anchors,
      gts, tiles, scratch.get(tile_best), scratch.get(holder), scratch.get(anchor_of), write);
}

}  // namespace tinyssd
