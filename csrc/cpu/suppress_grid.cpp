// The kept boxes in the hashed grid of grid.h, whose cells are half as wide as the longest box of their level, so that a
// box looks into a handful of them. Gives up where the boxes are too many in a cell, too mixed in size, too thin, too
// small or too far out for it.
#include "suppress_index.h"

#include <memory>
#include <vector>

namespace tinyssd {
namespace {

constexpr int64_t kLanes = 8;         // kept boxes tested at once in a cell
constexpr int kLog2Cells = 1;         // cells to the longest side of a level
constexpr int64_t kMostCells = 4096;  // of a level in one search

struct Bucket {
  uint32_t begin, size;
};

// A box's place in the grid.
struct Place {
  Kind kind;
  int8_t level;
  uint32_t bucket;  // of the cell of the centre
};

// A block of lanes that runs past a cell meets its neighbour in x, whose boxes are near anyway.
TINYSSD_INLINE uint32_t hash_cell(int64_t x, int64_t y, int level) {
  return hash_row(y, level) + static_cast<uint32_t>(x);
}

template <class T>
Place place_of(const Box<T>& box, uint32_t bucket_mask) {
  const Extent extent = extent_of(box);
  const Kind kind = kind_of(box, extent);
  if (kind != Kind::kRegular) return {kind, 0, 0};
  const int level = level_of(extent.longest());
  const double scale = cells_per_unit(level, kLog2Cells);
  const uint32_t hash = hash_cell(cell_of(extent.cx, scale), cell_of(extent.cy, scale), level);
  return {Kind::kRegular, static_cast<int8_t>(level), hash & bucket_mask};
}

template <class T>
struct Grid {
  T threshold;
  const Place* places;  // [size]
  Bucket* buckets;      // [bucket_mask + 1]
  uint32_t bucket_mask;
  BoxArrays<T> slots;                   // the kept boxes, by bucket
  uint64_t levels;                      // the levels of kept boxes, as bits
  int64_t most_cells, most_neighbours;  // a box, on average
  int64_t num_kept, neighbours;         // neighbours: for each kept box those before it in its bucket, summed up

  TINYSSD_INLINE bool affords(int64_t cells, int64_t count) const {
    constexpr int64_t kBoxesAhead = 64;
    return cells < kNever && cells <= most_cells * (count + kBoxesAhead) &&
           neighbours <= most_neighbours * (num_kept + kBoxesAhead);
  }

  TINYSSD_INLINE void insert(int64_t i, const Box<T>& box, T box_area) {
    Bucket& bucket = buckets[places[i].bucket];
    neighbours += bucket.size;
    ++num_kept;
    slots.set(bucket.begin + bucket.size++, box, box_area);
    levels |= uint64_t{1} << (places[i].level + kLevelOffset);
  }

  TINYSSD_INLINE bool meets(const Box<T>& box, T box_area, int64_t* work) const {
    const Least least = least_of(threshold);
    const Extent extent = extent_of(box);
    const Levels near = levels_of(extent.longest(), least);
    for (int bit = near.lowest; bit <= near.highest; ++bit) {
      if ((levels >> bit & 1) == 0) continue;
      const int level = bit - kLevelOffset;
      const double scale = cells_per_unit(level, kLog2Cells);
      const double reach_x = reach(extent.w, level, least), reach_y = reach(extent.h, level, least);
      const int64_t left = cell_of(extent.cx - reach_x, scale), right = cell_of(extent.cx + reach_x, scale);
      const int64_t top = cell_of(extent.cy - reach_y, scale), bottom = cell_of(extent.cy + reach_y, scale);
      const double cells = static_cast<double>(right - left + 1) * static_cast<double>(bottom - top + 1);
      if (cells > static_cast<double>(kMostCells)) {
        *work += kNever;
        return false;
      }
      *work += static_cast<int64_t>(cells);
      for (int64_t y = top; y <= bottom; ++y) {
        uint32_t hash = hash_cell(left, y, level);
        for (int64_t x = left; x <= right; ++x, ++hash) {
          const Bucket bucket = buckets[hash & bucket_mask];
          if (any_over<kLanes>(slots, bucket.begin, bucket.begin + bucket.size, box, box_area, threshold)) return true;
        }
      }
    }
    return false;
  }
};

}  // namespace

template <class T>
int64_t suppress_on_grid(const Task<T>& task, int64_t begin) {
  if (!(task.threshold > T(kLeastThreshold))) return begin;
  uint32_t num_buckets = 1;
  while (num_buckets < task.size) num_buckets *= 2;
  const std::unique_ptr<Place[]> places(new Place[task.size]);
  std::atomic<bool> regular{true};
  parallel(task.size, 20, [&](int64_t first, int64_t last) {
    bool all = true;
    for (int64_t i = first; i < last; ++i) {
      places[i] = place_of(task.ranked[i], num_buckets - 1);
      all = all && places[i].kind != Kind::kIrregular;
    }
    if (!all) regular = false;
  });
  if (!regular) return begin;
  std::vector<Bucket> buckets(num_buckets);
  for (int64_t i = 0; i < task.size; ++i) {
    if (places[i].kind == Kind::kRegular) ++buckets[places[i].bucket].size;
  }
  uint32_t start = 0;
  for (Bucket& bucket : buckets) {
    bucket.begin = start;
    start += bucket.size;
    bucket.size = 0;
  }
  std::unique_ptr<T[]> memory;
  const BoxArrays<T> slots = empty_arrays(memory, task.size);
  const Limits& most = limits();
  Grid<T> grid = {
      task.threshold, places.get(), buckets.data(), num_buckets - 1, slots, 0, most.grid_cells, most.neighbours, 0, 0};
  return decide(grid, task, begin);
}

template int64_t suppress_on_grid(const Task<float>&, int64_t);
template int64_t suppress_on_grid(const Task<double>&, int64_t);

}  // namespace tinyssd
