// Greedy suppression of one class: each box, in the order of rank, against the kept boxes that could overlap it enough.
// While few are kept: against all of them, a block of lanes at a time. Then they lie in a grid; where that would be slow,
// in a tree.
#include "suppress.h"

#include "suppress_index.h"

namespace tinyssd {
namespace {

struct SuppressFew {
  // By blocks as wide as there are boxes to fill them.
  template <class T>
  TINYSSD_INLINE static bool meets(const BoxArrays<T>& kept, int64_t size, const Box<T>& box, T box_area, T threshold) {
    constexpr int64_t kFew = 8;
    return size <= kListLanes ? any_over<kFew>(kept, 0, size, box, box_area, threshold)
                              : any_over<kListLanes>(kept, 0, size, box, box_area, threshold);
  }

  template <class T>
  TINYSSD_INLINE static void run(Task<T> task, int64_t most, BoxArrays<T> kept, int64_t* num_decided) {
    Pace pace;
    int64_t i = 0, num_kept = 0;
    for (; i < task.size && num_kept < most; ++i) {
      const Box<T> box = task.ranked[i];
      const T box_area = area(box);
      const bool inert = !can_overlap(box, box_area);
      pace.add(num_kept);
      task.keep[i] = inert || !meets(kept, num_kept, box, box_area, task.threshold);
      if (task.keep[i] != 0 && !inert) kept.set(num_kept++, box, box_area);
    }
    *num_decided = i;
  }
};

}  // namespace

template <class T>
void suppress(const Box<T>* ranked, int64_t size, T threshold, uint8_t* keep) {
  const Task<T> task = {ranked, size, threshold, keep};
  const int64_t most = limits().few_kept;
  std::unique_ptr<T[]> memory;
  const BoxArrays<T> kept = empty_arrays(memory, smaller(size, most));
  int64_t decided = 0;
  run_simd<SuppressFew>(task, most, kept, &decided);
  if (decided < size) decided = suppress_on_grid(task, decided);
  if (decided < size) suppress_on_tree(task, decided);
}

template void suppress(const Box<float>*, int64_t, float, uint8_t*);
template void suppress(const Box<double>*, int64_t, double, uint8_t*);

}  // namespace tinyssd
