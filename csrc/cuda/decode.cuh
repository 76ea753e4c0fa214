// The first launch of multibox_detection and detect: a thread owns an anchor of an image, decodes its box and ranks its
// candidates: its best class, or every object class (then the classes of an anchor lie side by side).
#pragma once

#include "../detection.h"
#include "suppress.cuh"

#include <limits>

namespace tinyssd {

// What the launch leaves for suppression and for the rows.
template <class T>
struct Decoded {
  Box<T>* boxes;     // [B, A]
  RankKey<T>* keys;  // [B, A]
  int* classes;      // [B, A]: the best class of each anchor
  T* confidence;     // [B, A], or nullptr
};

constexpr int kDecodeThreads = 256;

// For each anchor its best class from `first_class` on; it is a candidate if that is an object of at least `least`.
template <class T>
__global__ void __launch_bounds__(kDecodeThreads) decode_best_kernel(
    const T* __restrict__ probs,         // [B, C, A]
    const Box<T>* __restrict__ offsets,  // [B, A]
    const Box<T>* __restrict__ anchors,  // [A]
    int64_t num_images, int num_classes, int64_t num_anchors, int first_class, bool filtered, T least,
    const Decoded<T> out) {
  const int64_t i = int64_t{blockIdx.x} * kDecodeThreads + threadIdx.x;
  if (i >= num_images * num_anchors) return;
  const int64_t image = i / num_anchors, anchor = i - image * num_anchors;
  store_box(out.boxes + i, decode(load_box(anchors + anchor), load_box(offsets + i)));
  const T* own = probs + image * num_classes * num_anchors + anchor;
  T confidence = own[first_class * num_anchors];
  int class_id = first_class;
  for (int c = first_class + 1; c < num_classes; ++c) {
    const T value = own[c * num_anchors];
    if (!is_better(value, confidence)) continue;
    confidence = value;
    class_id = c;
  }
  const bool candidate = class_id > 0 && (!filtered || confidence >= least);
  out.keys[i] = candidate ? rank_key(confidence) : kNoCandidate<T>;
  out.classes[i] = class_id;
  if (out.confidence != nullptr) out.confidence[i] = confidence;
}

constexpr int kClassesEach = 8;  // that a thread of list_candidates_kernel looks at

// Lists the pairs of an anchor and an object class that score at least `least`, as many as fit. A block owns 256 anchors
// and 8 classes of an image, and decodes the boxes where those are the first classes.
template <class T>
__global__ void __launch_bounds__(kDecodeThreads) list_candidates_kernel(
    const T* __restrict__ probs,         // [B, C, A]
    const Box<T>* __restrict__ offsets,  // [B, A]
    const Box<T>* __restrict__ anchors,  // [A]
    int num_classes, int64_t num_anchors, int blocks_of_anchors, int blocks_of_classes, T least, int64_t capacity,
    Box<T>* __restrict__ boxes,       // [B, A]
    Standing<T>* __restrict__ list,   // [B, capacity]
    unsigned* __restrict__ listed) {  // [B]: how many there are, whether they fit or not
  const int64_t part = blockIdx.x / blocks_of_anchors, image = part / blocks_of_classes;
  const int first_class = static_cast<int>(part % blocks_of_classes) * kClassesEach + 1;
  const int64_t anchor = int64_t{blockIdx.x % blocks_of_anchors} * kDecodeThreads + threadIdx.x;
  const bool exists = anchor < num_anchors;
  if (exists && first_class == 1) {
    const int64_t i = image * num_anchors + anchor;
    store_box(boxes + i, decode(load_box(anchors + anchor), load_box(offsets + i)));
  }
  const T* own = probs + image * num_classes * num_anchors + anchor;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  T scores[kClassesEach];
  TINYSSD_UNROLL
  for (int k = 0; k < kClassesEach; ++k) {
    const int c = first_class + k;
    scores[k] = exists && c < num_classes ? own[c * num_anchors] : nan;
  }
  unsigned lanes[kClassesEach];  // which of the warp pass
  int all = 0;
  TINYSSD_UNROLL
  for (int k = 0; k < kClassesEach; ++k) {
    lanes[k] = __ballot_sync(kAllLanes, scores[k] >= least);
    all += __popc(lanes[k]);
  }
  if (all == 0) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  unsigned place = 0;
  if (lane == 0) place = atomicAdd(listed + image, static_cast<unsigned>(all));
  place = __shfl_sync(kAllLanes, place, 0);
  TINYSSD_UNROLL
  for (int k = 0; k < kClassesEach; ++k) {
    const unsigned mine = place + __popc(lanes[k] & ((1u << lane) - 1));
    place += __popc(lanes[k]);
    if ((lanes[k] >> lane & 1) == 0 || mine >= capacity) continue;
    const int64_t candidate = anchor * (num_classes - 1) + first_class + k - 1;
    list[image * capacity + mine] = standing<T>(rank_key(scores[k]), candidate);
  }
}

}  // namespace tinyssd
