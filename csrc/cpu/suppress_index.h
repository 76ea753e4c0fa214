// Greedy suppression with an index of the kept boxes: each box, in the order of rank, is kept unless the index holds one
// that overlaps it by more than the threshold. On one thread, one by one. On several, in waves: all threads look a wave
// up in the index of the waves before; what is left of it is met by the kept boxes of its own wave, one by one.
// An index has meets(), insert() and affords(): whether the work so far is worth going on.
#pragma once

#include "../grid.h"
#include "parallel.h"
#include "simd.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>

namespace tinyssd {

constexpr int64_t kListLanes = 32;  // kept boxes tested at once in a list
// What a search adds to the work where the index cannot serve it: more than searches can add up to, and little enough for
// millions of such ones in one wave to be summed up.
constexpr int64_t kNever = int64_t{1} << 40;

constexpr int64_t kSearchCost = 150, kLookCost = 10;  // nanoseconds

inline void count_work(int64_t work) { work_done() += work % kNever; }

// One list, in the order of rank.
template <class T>
struct Task {
  const Box<T>* ranked;  // [size]
  int64_t size;
  T threshold;
  uint8_t* keep;  // [size]
};

// Whether one of the boxes from `begin` to `end`, rounded up to whole blocks, overlaps by more than the threshold. What
// lies beyond the end must be NaN or kept boxes of higher rank.
template <int64_t kWidth, class T>
TINYSSD_INLINE bool any_over(
    const BoxArrays<T>& kept, int64_t begin, int64_t end, const Box<T>& box, T box_area, T threshold) {
  for (int64_t i = begin; i < end; i += kWidth) {
    int hit = 0;
    for (int64_t lane = 0; lane < kWidth; ++lane) hit |= kept.iou_with(i + lane, box, box_area) > threshold;
    if (hit != 0) return true;
  }
  return false;
}

// Arrays for `size` boxes and a block more, all NaN: such a box overlaps nothing.
template <class T>
BoxArrays<T> empty_arrays(std::unique_ptr<T[]>& memory, int64_t size) {
  const int64_t stride = size + kListLanes, count = BoxArrays<T>::kArrays * stride;
  memory.reset(new T[count]);
  parallel(count, 1, [&](int64_t begin, int64_t end) {
    std::fill(memory.get() + begin, memory.get() + end, std::numeric_limits<T>::quiet_NaN());
  });
  return BoxArrays<T>::over(memory.get(), stride);
}

struct InsertKept {
  template <class Index, class T>
  TINYSSD_INLINE static void run(Index* shared, Task<T> task, int64_t end) {
    Index index = *shared;
    for (int64_t i = 0; i < end; ++i) {
      const T box_area = area(task.ranked[i]);
      if (task.keep[i] != 0 && can_overlap(task.ranked[i], box_area)) index.insert(i, task.ranked[i], box_area);
    }
    *shared = index;
  }
};

// Returns in *decided where the index gave up, or the end.
struct DecideOneByOne {
  template <class Index, class T>
  TINYSSD_INLINE static void run(Index* shared, Task<T> task, int64_t begin, int64_t end, int64_t* decided) {
    Index index = *shared;
    Pace pace;
    int64_t i = begin, work = 0;
    for (; i < end; ++i) {
      const Box<T> box = task.ranked[i];
      const T box_area = area(box);
      const bool inert = !can_overlap(box, box_area);
      const int64_t before = work;
      const bool gone = !inert && index.meets(box, box_area, &work);
      if (!index.affords(work, i - begin)) break;
      pace.add(kSearchCost + kLookCost * (work - before));
      task.keep[i] = !gone;
      if (!gone && !inert) index.insert(i, box, box_area);
    }
    *decided = i;
    *shared = index;
    count_work(work);
  }
};

struct LookUp {
  template <class Index, class T>
  TINYSSD_INLINE static void run(const Index* shared, Task<T> task, int64_t begin, int64_t end, int64_t* work) {
    const Index index = *shared;
    Pace pace;
    for (int64_t i = begin; i < end; ++i) {
      const Box<T> box = task.ranked[i];
      const T box_area = area(box);
      const int64_t before = *work;
      task.keep[i] = !can_overlap(box, box_area) || !index.meets(box, box_area, work);
      pace.add(kSearchCost + kLookCost * (*work - before));
    }
  }
};

// Of what the look-up left: `list` holds the kept ones of this wave, and beyond them of earlier ones.
struct DecideWave {
  template <class Index, class T>
  TINYSSD_INLINE static void run(
      Index* shared, Task<T> task, int64_t begin, int64_t end, BoxArrays<T> list, int64_t* num_left) {
    Index index = *shared;
    Pace pace;
    int64_t left = 0, kept = 0;
    for (int64_t i = begin; i < end; ++i) {
      const Box<T> box = task.ranked[i];
      const T box_area = area(box);
      if (task.keep[i] == 0 || !can_overlap(box, box_area)) continue;
      ++left;
      pace.add(kept);
      task.keep[i] = !any_over<kListLanes>(list, 0, kept, box, box_area, task.threshold);
      if (task.keep[i] == 0) continue;
      list.set(kept++, box, box_area);
      index.insert(i, box, box_area);
    }
    *num_left = left;
    *shared = index;
  }
};

// The same, with threads.
template <class Index, class T>
int64_t decide_in_waves(Index& index, const Task<T>& task, int64_t begin) {
  constexpr int64_t kLongest = 16;
  const int64_t aim = limits().wave, longest = kLongest * aim;
  std::unique_ptr<T[]> memory;
  const BoxArrays<T> list = empty_arrays(memory, longest);
  std::atomic<int64_t> work{0};
  Pace pace;
  int64_t at = begin;
  for (int64_t wave = aim; at < task.size;) {
    const int64_t end = smaller(task.size, at + wave);
    pace.add(kSearchCost * (end - at));
    parallel_parts(end - at, kSearchCost, [&](int64_t first, int64_t last) {
      int64_t own = 0;
      run_simd<LookUp>(static_cast<const Index*>(&index), task, at + first, at + last, &own);
      work += own;
    });
    if (!index.affords(work, end - begin)) break;
    int64_t num_left = 0;
    run_simd<DecideWave>(&index, task, at, end, list, &num_left);
    const bool most_are_left = 4 * num_left > 3 * (end - at);
    wave = smaller(wave * aim / larger(num_left, int64_t{1}), longest);
    at = end;
    if (!most_are_left) continue;
    // There the look-up does little of the work: one by one for a while.
    const int64_t stop = smaller(task.size, at + longest);
    run_simd<DecideOneByOne>(&index, task, at, stop, &at);
    if (at < stop) break;
  }
  count_work(work);
  return at;
}

// Decides the boxes from `begin` on, those before being decided; returns where the index gave up, or the size.
template <class Index, class T>
int64_t decide(Index& index, const Task<T>& task, int64_t begin) {
  run_simd<InsertKept>(&index, task, begin);
  if (num_threads() > 1 && task.size - begin >= limits().least_in_waves) return decide_in_waves(index, task, begin);
  int64_t decided = begin;
  run_simd<DecideOneByOne>(&index, task, begin, task.size, &decided);
  return decided;
}

// Each decides the boxes from `begin` on and returns where it stopped. The tree always ends.
template <class T>
int64_t suppress_on_grid(const Task<T>& task, int64_t begin);
template <class T>
int64_t suppress_on_tree(const Task<T>& task, int64_t begin);

}  // namespace tinyssd
