// The first launch of multibox_detection and detect: a thread owns an anchor of an image, decodes its box and ranks its
// candidates.
#pragma once

#include "../detection.h"
#include "suppress.cuh"

namespace tinyssd {

// What the launch leaves for suppression and for the rows.
template <class T>
struct Decoded {
  Box<T>* boxes;     // [B, A]
  RankKey<T>* keys;  // [B, N]: N = A, or A * (C - 1), the classes of an anchor side by side
  int* classes;      // [B, A]: the best class of each anchor, or nullptr where every object class is a candidate
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

// Every pair of an anchor and an object class is a candidate if it scores at least `least`.
template <class T>
__global__ void __launch_bounds__(kDecodeThreads) decode_all_kernel(
    const T* __restrict__ probs,         // [B, C, A]
    const Box<T>* __restrict__ offsets,  // [B, A]
    const Box<T>* __restrict__ anchors,  // [A]
    int64_t num_images, int num_classes, int64_t num_anchors, T least, const Decoded<T> out) {
  const int64_t i = int64_t{blockIdx.x} * kDecodeThreads + threadIdx.x;
  if (i >= num_images * num_anchors) return;
  const int64_t image = i / num_anchors, anchor = i - image * num_anchors;
  store_box(out.boxes + i, decode(load_box(anchors + anchor), load_box(offsets + i)));
  for (int c = 1; c < num_classes; ++c) {
    const T score = probs[(image * num_classes + c) * num_anchors + anchor];
    out.keys[i * (num_classes - 1) + c - 1] = score >= least ? rank_key(score) : kNoCandidate<T>;
  }
}

}  // namespace tinyssd
