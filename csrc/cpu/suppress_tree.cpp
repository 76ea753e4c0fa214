// The kept boxes in a tree of blocks of 16, for what the grid cannot hold: its shape follows the boxes, whatever they are.
// All boxes are ordered once, halved again and again at the median of the direction in which they differ most, by
// position or by size, so that a block, 16 blocks, 16 times 16 blocks hold boxes that are alike. A node knows bounds of
// the kept boxes below it. From them follows the largest IoU with any of them, by the very operations of iou() in box.h,
// each of which is monotonic, rounding included: what is passed over cannot overlap enough, for any finite box.
#include "suppress_index.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

namespace tinyssd {
namespace {

constexpr int kLog2Fan = 4, kFan = 1 << kLog2Fan;
constexpr int kMostLevels = 8;  // 16**8 boxes

// Of the kept boxes below each of a level's nodes, as arrays.
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

template <class T>
struct Tree {
  T threshold;
  const uint32_t* slot_of;  // [size]
  BoxArrays<T> slots;       // the kept boxes, NaN where there is none
  int num_levels;           // above the blocks of slots
  Bounds<T> levels[kMostLevels];

  TINYSSD_INLINE bool affords(int64_t, int64_t) const { return true; }

  TINYSSD_INLINE void insert(int64_t i, const Box<T>& box, T box_area) {
    int64_t node = slot_of[i];
    slots.set(node, box, box_area);
    for (int level = 0; level < num_levels; ++level) {
      node >>= kLog2Fan;
      levels[level].add(node, box, box_area);
    }
  }

  TINYSSD_INLINE bool meets(const Box<T>& box, T box_area, int64_t* work) const {
    struct Open {
      int level;  // of the 16 nodes; -1: boxes
      int64_t begin;
    };
    Open open[kMostLevels * kFan];
    int num_open = 0;
    open[num_open++] = {num_levels - 1, 0};
    while (num_open > 0) {
      const Open top = open[--num_open];
      ++*work;
      if (top.level < 0) {
        if (any_over<kFan>(slots, top.begin, top.begin + kFan, box, box_area, threshold)) return true;
        continue;
      }
      uint32_t hits = 0;
      const Bounds<T>& bounds = levels[top.level];
      for (int lane = 0; lane < kFan; ++lane) {
        hits |= uint32_t{bounds.may_overlap(top.begin + lane, box, box_area, threshold)} << lane;
      }
      for (; hits != 0; hits &= hits - 1) {
        open[num_open++] = {top.level - 1, (top.begin + __builtin_ctz(hits)) << kLog2Fan};
      }
    }
    return false;
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

// Orders the points so that aligned runs of 16, 32, 64, ... are alike.
template <class T>
void order(Point<T>* points, int64_t size, const std::array<T, 2>& weights) {
  while (size > kFan) {
    int64_t half = kFan;
    while (2 * half < size) half *= 2;
    const int d = widest(points, size, weights);
    std::nth_element(
        points, points + half, points + size, [d](const auto& a, const auto& b) { return a.at[d] < b.at[d]; });
    order(points + half, size - half, weights);
    size = half;
  }
}

template <class T>
std::vector<Point<T>> ordered_points(const Task<T>& task) {
  std::vector<Point<T>> points;
  for (int64_t i = 0; i < task.size; ++i) {
    const Box<T> box = task.ranked[i];
    if (!can_overlap(box, area(box))) continue;
    const T w = box.x2 - box.x1, h = box.y2 - box.y1;
    const T cx = box.x1 * T(0.5) + box.x2 * T(0.5), cy = box.y1 * T(0.5) + box.y2 * T(0.5);
    points.push_back({{cx, cy, std::log(w), std::log(h)}, w, h, static_cast<uint32_t>(i)});
  }
  const T t = smaller(larger(task.threshold, T(1e-3)), T(1) - T(1e-3));
  order(points.data(), static_cast<int64_t>(points.size()), {T(1) / (T(1) - t), T(1) / -std::log(t)});
  return points;
}

}  // namespace

template <class T>
int64_t suppress_on_tree(const Task<T>& task, int64_t begin) {
  const std::vector<Point<T>> points = ordered_points(task);
  const auto size = static_cast<int64_t>(points.size());
  const std::unique_ptr<uint32_t[]> slot_of(new uint32_t[task.size]);
  for (int64_t slot = 0; slot < size; ++slot) slot_of[points[slot].index] = static_cast<uint32_t>(slot);
  std::unique_ptr<T[]> slot_memory;
  std::vector<std::vector<T>> level_memory;
  Tree<T> tree = {task.threshold, slot_of.get(), empty_arrays(slot_memory, size), 0, {}};
  for (int64_t nodes = size; nodes > kFan; ++tree.num_levels) {
    nodes = (nodes + kFan - 1) / kFan;
    const int64_t stride = (nodes + kFan - 1) / kFan * kFan;
    const T far = std::numeric_limits<T>::infinity();
    std::vector<T>& memory = level_memory.emplace_back(Bounds<T>::kArrays * stride, -far);
    const Bounds<T> bounds = tree.levels[tree.num_levels] = Bounds<T>::over(memory.data(), stride);
    for (T* least : {bounds.x1, bounds.y1, bounds.area}) std::fill(least, least + stride, far);
  }
  return decide(tree, task, begin);
}

template int64_t suppress_on_tree(const Task<float>&, int64_t);
template int64_t suppress_on_tree(const Task<double>&, int64_t);

}  // namespace tinyssd
