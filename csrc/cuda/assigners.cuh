// What the assign_* ops share on CUDA: two passes, each a constant number of launches, in O(A + G) memory.
// select: a block owns a box of an image; its threads share the anchors, and each warp keeps the first k candidates in a
// sorted list, which warp 0 merges in the end. What the box asks of an anchor (the k-th candidate) is all that it stores.
// resolve_kernel: a thread owns an anchor of an image and meets the boxes in their order, as they asked; so of equals the
// lowest box wins, without atomics. Padding takes no part; ignored boxes only mark the anchors that overlap them best.
#pragma once

#include "../assigners.h"
#include "launch.cuh"

#include <type_traits>

namespace tinyssd {

// Warps that share a box in select. Where boxes are few and anchors many, the anchors that each warp goes through one
// after the other are what takes time; many boxes keep the device busy by themselves.
constexpr int kManyWarps = 16, kFewWarps = 4;
constexpr int64_t kManyBoxes = 1024, kManyAnchors = 2048;
constexpr int kResolveThreads = 128;
constexpr int kResolveChunk = 64;  // boxes in shared memory at once

template <class T, int kWarps>
struct Lists {
  Candidate<T> of[kWarps][kMostTopk];
};

// Calls f with the warps of a block, as a type.
template <class F>
void with_warps(int64_t num_boxes, int64_t num_anchors, const F& f) {
  num_boxes < kManyBoxes&& num_anchors >= kManyAnchors ? f(std::integral_constant<int, kManyWarps>{})
                                                       : f(std::integral_constant<int, kFewWarps>{});
}

// Puts a candidate into a sorted list of k, whose last one leaves. Called by a whole warp with one candidate.
template <class T>
__device__ void insert(Candidate<T>* list, int k, const Candidate<T>& candidate) {
  constexpr int kParts = kMostTopk / kWarp;
  const int lane = threadIdx.x % kWarp;
  Candidate<T> held[kParts];
  int place = k;
#pragma unroll
  for (int part = kParts - 1; part >= 0; --part) {
    const int i = part * kWarp + lane;
    held[part] = i < k ? list[i] : Candidate<T>{};
    const unsigned moving = __ballot_sync(kAllLanes, i < k && candidate.before(held[part]));
    if (moving != 0) place = part * kWarp + __ffs(static_cast<int>(moving)) - 1;
  }
  __syncwarp(kAllLanes);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int i = part * kWarp + lane;
    if (i >= place && i + 1 < k) list[i + 1] = held[part];
  }
  if (lane == 0 && place < k) list[place] = candidate;
  __syncwarp(kAllLanes);
}

// The first k candidates among the anchors begin..end, sorted, in lists.of[0]: called by the whole block, to which they
// are visible afterwards. of(anchor) makes the candidate, or no_candidate().
template <class T, int kWarps, class F>
__device__ void select(Lists<T, kWarps>& lists, int k, int begin, int end, const F& of) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  Candidate<T>* list = lists.of[warp];
  __syncthreads();  // an earlier result has been read
  for (int i = lane; i < k; i += kWarp) list[i] = no_candidate<T>();
  __syncwarp(kAllLanes);
  for (int start = begin + warp * kWarp; start < end; start += kWarps * kWarp) {
    const int anchor = start + lane;
    const Candidate<T> own = anchor < end ? of(anchor) : no_candidate<T>();
    unsigned better = __ballot_sync(kAllLanes, own.before(list[k - 1]));
    for (; better != 0; better &= better - 1) {
      const int source = __ffs(static_cast<int>(better)) - 1;
      const Candidate<T> next = {__shfl_sync(kAllLanes, own.value, source), __shfl_sync(kAllLanes, own.anchor, source)};
      if (next.before(list[k - 1])) insert(list, k, next);
    }
  }
  __syncthreads();
  if (warp == 0) {
    for (int other = 1; other < kWarps; ++other) {
      for (int i = 0; i < k && lists.of[other][i].before(list[k - 1]); ++i) insert(list, k, lists.of[other][i]);
    }
  }
  __syncthreads();
}

enum BoxKind : int { kPadding, kCounted, kCrowd };

// A box as resolve_kernel keeps it: what the rule wrote in its select pass comes along.
template <class T, class Asked>
struct alignas(16) MetBox {
  Box<T> box;
  T area;
  int kind;
  Asked asked;
};

// Rule has the types Asked and Anchor (with the fields box and area) and the functions
//   Asked asked(index of the box in the batch); Anchor anchor(image, anchor, whether it exists);
//   meet(Anchor&, MetBox, index of the box in the image); write(Anchor, image, anchor, whether it is to be ignored).
template <class T, class Rule>
__global__ void __launch_bounds__(kResolveThreads)
    resolve_kernel(const GtView<T> gts, int num_anchors, unsigned tiles, const Rule rule) {
  struct Shared {
    MetBox<T, typename Rule::Asked> boxes[kResolveChunk];
  };
  auto& shared = shared_memory<Shared>();
  const int64_t image = blockIdx.x / tiles;
  const int anchor = static_cast<int>(blockIdx.x % tiles * kResolveThreads + threadIdx.x);
  const bool exists = anchor < num_anchors;
  auto own = rule.anchor(image, exists ? anchor : 0);
  T largest = 0;
  bool crowd = false;
  for (int64_t start = 0; start < gts.count; start += kResolveChunk) {
    const int size = static_cast<int>(smaller(int64_t{kResolveChunk}, gts.count - start));
    if (threadIdx.x < size) {
      const int64_t i = image * gts.count + start + threadIdx.x;
      auto& met = shared.boxes[threadIdx.x];
      store_box(&met.box, load_box(gts.boxes + i));
      met.area = area(met.box);
      met.kind = !gts.is_valid(i) ? kPadding : gts.is_ignored(i) ? kCrowd : kCounted;
      if (met.kind == kCounted) met.asked = rule.asked(i);
    }
    __syncthreads();
    for (int g = 0; g < size; ++g) {
      const auto& met = shared.boxes[g];
      if (met.kind == kCounted) rule.meet(own, met, static_cast<int>(start) + g);
      if (met.kind == kPadding || gts.ignored == nullptr) continue;
      const T value = iou(own.box, own.area, met.box, met.area);
      if (value > largest) {
        largest = value;
        crowd = met.kind == kCrowd;
      }
    }
    __syncthreads();
  }
  if (exists) rule.write(own, image, anchor, crowd);
}

template <class T, class Rule>
void resolve(
    const DeviceScope& scope, const GtView<T>& gts, int64_t num_images, int64_t num_anchors, const Rule& rule) {
  const int64_t tiles = ceil_div(num_anchors, kResolveThreads);
  scope.launch(
      resolve_kernel<T, Rule>, num_images * tiles, kResolveThreads,
      sizeof(MetBox<T, typename Rule::Asked>) * kResolveChunk, gts, num_anchors, tiles, rule);
}

// The ground truth of a call on the device; it holds on to what it converts.
class DeviceGt {
 public:
  DeviceGt(
      const Tensor& boxes, const std::optional<Tensor>& valid, const std::optional<Tensor>& ignored, ScalarType dtype)
      : boxes_(boxes_as(boxes, dtype)),
        valid_(contiguous_as(valid, ScalarType::Bool)),
        ignored_(contiguous_as(ignored, ScalarType::Bool)) {}

  template <class T>
  GtView<T> view() const {
    return {
        box_data<T>(boxes_), valid_ ? valid_->const_data_ptr<bool>() : nullptr,
        ignored_ ? ignored_->const_data_ptr<bool>() : nullptr, boxes_.size(boxes_.dim() - 2)};
  }

 private:
  Tensor boxes_;
  std::optional<Tensor> valid_, ignored_;
};

}  // namespace tinyssd
