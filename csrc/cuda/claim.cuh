// claim_kernel, the second step of the assignment: a block owns an image, a warp a box that looks for its anchor. The
// greedy rule is a stable matching: boxes and anchors rank each other by one order of pairs (IoU, lowest anchor, lowest
// box), so there is just one, and any order of proposals finds it. A box proposes to its best anchor that no better box
// holds; whom it displaces, its warp takes over. holder[a] only ever improves, so the tile maxima stay upper bounds and
// are lowered on the way. Boxes that have an IoU of 0 with all anchors that they could have come last, and need no
// search: in order, they get the free anchors in order.
#pragma once

#include "ground_truth.cuh"

namespace tinyssd {

constexpr int kMostClaimWarps = 16;
constexpr int kBoundsAtOnce = 16;  // loads in flight

// The largest value of a warp, which is an IoU or -1, and the lowest index that has it. The bits of such floats order like
// the floats.
__device__ __forceinline__ void warp_first_max(float& value, int& index) {
  const int bits = __float_as_int(value), largest = __reduce_max_sync(kAllLanes, bits);
  index = __reduce_min_sync(kAllLanes, bits == largest ? index : INT32_MAX);
  value = __int_as_float(largest);
}
__device__ __forceinline__ void warp_first_max(double& value, int& index) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(kAllLanes, value, step);
    const int other_index = __shfl_xor_sync(kAllLanes, index, step);
    if (other > value || (other == value && other_index < index)) {
      value = other;
      index = other_index;
    }
  }
}

// The place of the bit of rank `rank` among those that are set, counted from the lowest.
__device__ __forceinline__ int place_of_bit(unsigned bits, int rank) {
  for (; rank > 0; --rank) bits &= bits - 1;
  return lowest_bit(bits);
}

// A box that looks for an anchor.
template <class T>
struct Seeker {
  int index;  // in the image
  Box<T> box;
  T area;
};

// An anchor, or a tile of them, and the IoU with it.
template <class T>
struct Choice {
  T iou;
  int index;
};

// One image, as its claim_kernel sees it.
template <class T, int kPerLane>
struct Claims {
  static constexpr int kTile = kWarp * kPerLane;

  const Box<T>* anchors;  // [A]
  int num_anchors;
  GroundTruth<T> gts;
  int64_t first_gt;  // of the image
  int tiles;
  T* tile_best;    // [G, tiles]
  int* holder;     // [A]
  int* anchor_of;  // [G]

  // Whether an anchor would rather have the box, whose IoU with it is `value`, than its holder.
  __device__ bool prefers(int anchor, int holder_gt, int g, T value) const {
    if (holder_gt == kFree) return true;
    const Box<T> own = load_box(anchors + anchor), rival = gts.box(first_gt + holder_gt);
    const T theirs = iou(own, area(own), rival, area(rival));
    return value > theirs || (value == theirs && g < holder_gt);
  }

  __device__ Choice<T> best_tile(const T* bounds) const {
    Choice<T> top = {-1, INT32_MAX};
    for (int first = threadIdx.x % kWarp; first < tiles; first += kWarp * kBoundsAtOnce) {
      T values[kBoundsAtOnce];
      // Another warp may have lowered them. Beyond the end, the last one once more, which changes nothing.
      TINYSSD_UNROLL
      for (int i = 0; i < kBoundsAtOnce; ++i) values[i] = __ldcg(bounds + smaller(first + i * kWarp, tiles - 1));
      TINYSSD_UNROLL
      for (int i = 0; i < kBoundsAtOnce; ++i) {
        const bool better = values[i] > top.iou;
        top = {better ? values[i] : top.iou, better ? smaller(first + i * kWarp, tiles - 1) : top.index};
      }
    }
    warp_first_max(top.iou, top.index);
    __syncwarp(kAllLanes);  // all have read the bounds, which a warp may lower: a shuffle orders no memory
    return top;
  }

  // Among the anchors of a tile that would rather have the box than their holder; an IoU of -1 if there is none.
  __device__ Choice<T> best_anchor(int tile, const Seeker<T>& seeker) const {
    const int first = tile * kTile + threadIdx.x % kWarp;
    Box<T> own[kPerLane];
    int holders[kPerLane];
    TINYSSD_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      const int anchor = smaller(first + i * kWarp, num_anchors - 1);
      own[i] = load_box(anchors + anchor);
      holders[i] = __ldcg(holder + anchor);
    }
    Choice<T> best = {-1, INT32_MAX};
    TINYSSD_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      const int anchor = smaller(first + i * kWarp, num_anchors - 1);
      const T value = iou(own[i], area(own[i]), seeker.box, seeker.area);
      if (value > best.iou && prefers(anchor, holders[i], seeker.index, value)) best = {value, anchor};
    }
    warp_first_max(best.iou, best.index);
    return best;
  }

  // Lane 0 gives the box the anchor unless that prefers another by now. Returns to all lanes the box that lost it, kFree
  // if none did, or the seeker itself: then it lost.
  __device__ int propose(const Seeker<T>& seeker, const Choice<T>& choice) const {
    int displaced = seeker.index;
    if (threadIdx.x % kWarp == 0) {
      // Written before the anchor is won: afterwards whoever displaces the box decides where it goes.
      anchor_of[seeker.index] = choice.index;
      __threadfence_block();
      int current = __ldcg(holder + choice.index);
      while (prefers(choice.index, current, seeker.index, choice.iou)) {
        const int seen = atomicCAS(holder + choice.index, current, seeker.index);
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
    return displaced;
  }

  // Finds box g an anchor that it overlaps, or none. Returns the box that lost it, or kFree. Called by a whole warp.
  __device__ int settle(int g) const {
    const Box<T> box = gts.box(first_gt + g);
    const Seeker<T> seeker = {g, box, area(box)};
    T* bounds = tile_best + int64_t{g} * tiles;
    while (true) {
      const Choice<T> tile = best_tile(bounds);
      if (!(tile.iou > T(0))) {
        if (threadIdx.x % kWarp == 0) anchor_of[g] = kFree;
        return kFree;
      }
      Choice<T> choice = best_anchor(tile.index, seeker);
      while (choice.iou == tile.iou) {
        const int displaced = propose(seeker, choice);
        if (displaced != g) return displaced;
        choice = best_anchor(tile.index, seeker);
      }
      // The bound was too high: held anchors do not count any more.
      if (threadIdx.x % kWarp == 0) bounds[tile.index] = choice.iou;
      __threadfence_block();
      __syncwarp(kAllLanes);
    }
  }

  __device__ bool waits(int g) const { return gts.is_valid(first_gt + g) && anchor_of[g] == kFree; }

  // Gives the boxes that wait, in order, the free anchors in order. Called by one warp, when all others are settled.
  __device__ void hand_out() const {
    const int lane = threadIdx.x % kWarp, count = static_cast<int>(gts.count);
    int next = 0;  // the first anchor not looked at
    for (int start = 0; start < count; start += kWarp) {
      unsigned waiting = __ballot_sync(kAllLanes, start + lane < count && waits(start + lane));
      while (waiting != 0 && next < num_anchors) {
        const int anchor = next + lane;
        const unsigned free = __ballot_sync(kAllLanes, anchor < num_anchors && __ldcg(holder + anchor) == kFree);
        const int pairs = smaller(__popc(waiting), __popc(free)), rank = __popc(waiting & ((1u << lane) - 1));
        const bool served = has_bit(waiting, lane) && rank < pairs;
        if (served) anchor_of[start + lane] = next + place_of_bit(free, rank);
        next += pairs < __popc(free) ? place_of_bit(free, pairs - 1) + 1 : kWarp;
        waiting &= ~__ballot_sync(kAllLanes, served);
      }
    }
  }
};

template <class T, int kPerLane, class Write>
__global__ void __launch_bounds__(kWarp* kMostClaimWarps, 1) claim_kernel(
    const Box<T>* __restrict__ anchors,  // [A]
    int64_t num_anchors, const GroundTruth<T> gts, int tiles,
    T* tile_best,    // [B, G, tiles]
    int* holder,     // [B, A]
    int* anchor_of,  // [B, G]
    const Write write) {
  const int64_t image = blockIdx.x, first_gt = image * gts.count, first_anchor = image * num_anchors;
  const int count = static_cast<int>(gts.count), warps = blockDim.x / kWarp;
  const Claims<T, kPerLane> claims = {
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
  bool some_wait = false;
  for (int g = threadIdx.x; g < count; g += blockDim.x) some_wait |= claims.waits(g);
  if (__syncthreads_or(some_wait)) {
    if (threadIdx.x < kWarp) claims.hand_out();
    __syncthreads();
  }
  for (int g = threadIdx.x; g < count; g += blockDim.x) {
    if (!gts.is_valid(first_gt + g)) continue;
    const int anchor = claims.anchor_of[g];
    if (anchor != kFree) write.matched(first_anchor + anchor, load_box(anchors + anchor), gts, first_gt + g, g);
  }
}

}  // namespace tinyssd
