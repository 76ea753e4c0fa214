// Greedy suppression on the CPU, shared by nms, batched_nms, nms_padded, multibox_detection and detect.
// A candidate is suppressed by a kept box of higher rank and the same class when IoU > threshold. Ranks: falling score,
// equal scores by index, NaN last.
#pragma once

#include "../box.h"
#include "../rank.h"
#include "parallel.h"
#include "sort.h"

#include <cstdint>
#include <vector>

namespace tinyssd {

template <class T>
using Ranked = std::vector<Keyed<RankKey<T>>>;

// keep[i] = 1 or 0 for boxes in the order of rank, all of one class. threshold in 0..1, size < 2**31.
template <class T>
void suppress(const Box<T>* ranked, int64_t size, T threshold, uint8_t* keep);

// Sorts the candidates (key: rank_key of the score, index: the caller's) by rank and returns for each rank whether it
// is kept. box_of(index) is a candidate's box.
template <class T, class BoxOf>
std::vector<uint8_t> rank_and_suppress(Ranked<T>& candidates, T threshold, const BoxOf& box_of) {
  stable_sort_by_key(candidates);
  std::vector<Box<T>> boxes(candidates.size());
  parallel(static_cast<int64_t>(boxes.size()), 5, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) boxes[i] = box_of(candidates[i].index);
  });
  std::vector<uint8_t> keep(boxes.size());
  suppress(boxes.data(), static_cast<int64_t>(boxes.size()), threshold, keep.data());
  return keep;
}

// Numbers by their classes, those of one class in their order.
struct ByClass {
  std::vector<uint32_t> order;
  std::vector<int64_t> starts;  // in it, of each class
};

template <class ClassOf>
ByClass group_by_class(size_t size, const ClassOf& class_of) {
  uint64_t lowest = UINT64_MAX;
  std::vector<Keyed<uint64_t>> items(size);
  for (size_t i = 0; i < size; ++i) {
    items[i] = {static_cast<uint64_t>(class_of(i)), static_cast<uint32_t>(i)};
    lowest = smaller(items[i].key, lowest);
  }
  for (auto& item : items) item.key -= lowest;  // equal high digits, which the sort skips
  stable_sort_by_key(items);
  ByClass groups = {std::vector<uint32_t>(size), {}};
  for (size_t i = 0; i < size; ++i) {
    if (i == 0 || items[i].key != items[i - 1].key) groups.starts.push_back(static_cast<int64_t>(i));
    groups.order[i] = items[i].index;
  }
  return groups;
}

// The same, where class_of(index) is a candidate's class; threads over classes.
template <class T, class BoxOf, class ClassOf>
std::vector<uint8_t> rank_and_suppress(
    Ranked<T>& candidates, T threshold, const BoxOf& box_of, const ClassOf& class_of) {
  stable_sort_by_key(candidates);
  const size_t size = candidates.size();
  auto [by_class, starts] = group_by_class(size, [&](size_t rank) { return class_of(candidates[rank].index); });
  std::vector<Box<T>> boxes(size);
  for (size_t i = 0; i < size; ++i) boxes[i] = box_of(candidates[by_class[i]].index);
  const auto num_classes = static_cast<int64_t>(starts.size());
  starts.push_back(static_cast<int64_t>(size));
  std::vector<uint8_t> keep_by_class(size), keep(size);
  parallel(num_classes, 100 * static_cast<int64_t>(size) / (num_classes + 1), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      suppress(boxes.data() + starts[c], starts[c + 1] - starts[c], threshold, keep_by_class.data() + starts[c]);
    }
  });
  for (size_t i = 0; i < size; ++i) keep[by_class[i]] = keep_by_class[i];
  return keep;
}

}  // namespace tinyssd
