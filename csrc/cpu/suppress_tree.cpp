// The kept boxes in a tree, for what the grid cannot hold: see box_tree.h.
#include "box_tree.h"
#include "suppress_index.h"

#include <memory>
#include <vector>

namespace tinyssd {
namespace {

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

}  // namespace

template <class T>
int64_t suppress_on_tree(const Task<T>& task, int64_t begin) {
  const std::vector<Point<T>> points =
      ordered_points(task.size, [&](int64_t i) { return task.ranked[i]; }, task.threshold);
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
