// A tree of boxes, shared by nms and soft_nms: its shape follows the boxes, whatever they are. All boxes are ordered once,
// halved again and again at the median of the direction in which they differ most, by position or by size, so that a
// block, 16 blocks, 16 times 16 blocks hold boxes that are alike. A node knows bounds of the boxes below it. From them
// follows the largest IoU with any of them, by the very operations of iou() in box.h, each of which is monotonic, rounding
// included: what is passed over cannot overlap enough, for any finite box.
#pragma once

#include "../grid.h"
#include "interrupt.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace tinyssd {

constexpr int kLog2Fan = 4, kFan = 1 << kLog2Fan;
constexpr int kMostLevels = 8;  // 16**8 boxes

// Of the boxes below each of a level's nodes, as arrays.
template <class T>
struct Bounds {
  T *x1, *y1, *x2, *y2, *w, *h, *area;  // least x1, y1 and area; largest x2, y2, w and h

  static constexpr int64_t kArrays = 7;
  static Bounds over(T* memory, int64_t stride) {
    return {
        memory,
        memory + stride,
        memory + 2 * stride,
        memory + 3 * stride,
        memory + 4 * stride,
        memory + 5 * stride,
        memory + 6 * stride};
  }
  TINYSSD_INLINE void add(int64_t i, const Box<T>& box, T box_area) const {
    x1[i] = smaller(x1[i], box.x1);
    y1[i] = smaller(y1[i], box.y1);
    x2[i] = larger(x2[i], box.x2);
    y2[i] = larger(y2[i], box.y2);
    w[i] = larger(w[i], box.x2 - box.x1);
    h[i] = larger(h[i], box.y2 - box.y1);
    area[i] = smaller(area[i], box_area);
  }
  // Whether a box below the node may overlap by more than the threshold.
  TINYSSD_INLINE bool may_overlap(int64_t i, const Box<T>& box, T box_area, T threshold) const {
    const T width = larger(smaller(smaller(box.x2, x2[i]) - larger(box.x1, x1[i]), w[i]), T(0));
    const T height = larger(smaller(smaller(box.y2, y2[i]) - larger(box.y1, y1[i]), h[i]), T(0));
    const T inter = width * height, united = box_area + area[i] - inter;
    return (inter > T(0)) & ((united <= T(0)) | (inter / united > threshold));
  }
};

// A box as a point whose coordinates tell how it differs from others.
template <class T>
struct Point {
  std::array<T, 4> at;  // centre x, y, logarithms of the sides
  T w, h;
  uint32_t index;
};

// How many boxes apart the points are, by direction: the spread over what two boxes may differ that overlap enough.
template <class T>
int widest(const Point<T>* points, int64_t size, const std::array<T, 2>& weights) {
  std::array<T, 4> least = points[0].at, most = points[0].at;
  T w = 0, h = 0;
  for (int64_t i = 0; i < size; ++i) {
    for (int d = 0; d < 4; ++d) {
      least[d] = smaller(points[i].at[d], least[d]);
      most[d] = larger(points[i].at[d], most[d]);
    }
    w += points[i].w / static_cast<T>(size);
    h += points[i].h / static_cast<T>(size);
  }
  const std::array<T, 4> spread = {
      weights[0] * ((most[0] - least[0]) / w), weights[0] * ((most[1] - least[1]) / h),
      weights[1] * (most[2] - least[2]), weights[1] * (most[3] - least[3])};
  return static_cast<int>(std::max_element(spread.begin(), spread.end()) - spread.begin());
}

constexpr int64_t kOrderCost = 20;  // nanoseconds a point and level

// Orders the points so that aligned runs of 16, 32, 64, ... are alike.
template <class T>
void order(Point<T>* points, int64_t size, const std::array<T, 2>& weights, Pace& pace) {
  while (size > kFan) {
    pace.add(kOrderCost * size);
    int64_t half = kFan;
    while (2 * half < size) half *= 2;
    const int d = widest(points, size, weights);
    std::nth_element(
        points, points + half, points + size, [d](const auto& a, const auto& b) { return a.at[d] < b.at[d]; });
    order(points + half, size - half, weights, pace);
    size = half;
  }
}

// Those of the boxes box_of(0), box_of(1), ... that can overlap others, in the order of the tree; its shape serves IoUs
// above the threshold.
template <class T, class BoxOf>
std::vector<Point<T>> ordered_points(int64_t size, const BoxOf& box_of, T threshold) {
  std::vector<Point<T>> points;
  for (int64_t i = 0; i < size; ++i) {
    const Box<T> box = box_of(i);
    if (!can_overlap(box, area(box))) continue;
    const T w = box.x2 - box.x1, h = box.y2 - box.y1;
    const T cx = box.x1 * T(0.5) + box.x2 * T(0.5), cy = box.y1 * T(0.5) + box.y2 * T(0.5);
    points.push_back({{cx, cy, std::log(w), std::log(h)}, w, h, static_cast<uint32_t>(i)});
  }
  const T t = smaller(larger(threshold, T(1e-3)), T(1) - T(1e-3));
  Pace pace;
  order(points.data(), static_cast<int64_t>(points.size()), {T(1) / (T(1) - t), T(1) / -std::log(t)}, pace);
  return points;
}

}  // namespace tinyssd
