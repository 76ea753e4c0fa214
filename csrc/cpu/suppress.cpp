// Greedy suppression of one class: each box, in the order of rank, against the kept boxes that could overlap it enough.
// While few are kept: against all of them, a block of lanes at a time. Then they lie in the hashed grid of grid.h, whose
// cells are half as wide as the longest box of their level, so that a box looks into a handful of them.
#include "suppress.h"

#include "../grid.h"
#include "simd.h"

#include <limits>

namespace tinyssd {
namespace {

constexpr int64_t kFewKept = 128;   // so many kept boxes are met one by one before a grid is made
constexpr int64_t kLanes = 8;       // kept boxes tested at once in a cell
constexpr int64_t kListLanes = 32;  // ... in a list
constexpr int kLog2Cells = 1;       // cells to the longest side of a level

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

struct SuppressFew {
  template <class T>
  TINYSSD_INLINE static void run(
      const Box<T>* ranked, int64_t size, T threshold, uint8_t* keep, BoxArrays<T> kept, int64_t* num_decided) {
    int64_t i = 0, num_kept = 0;
    for (; i < size && num_kept < kFewKept; ++i) {
      const T box_area = area(ranked[i]);
      const bool inert = !can_overlap(ranked[i], box_area);
      keep[i] = inert || !any_over<kLanes>(kept, 0, num_kept, ranked[i], box_area, threshold);
      if (keep[i] != 0 && !inert) kept.set(num_kept++, ranked[i], box_area);
    }
    *num_decided = i;
  }
};

struct Bucket {
  uint32_t begin, size;
};

// A box's place in the grid.
struct Place {
  Kind kind;
  int8_t level;
  uint32_t bucket;  // of the cell of the centre
};

template <class T>
struct Grid {
  const Box<T>* ranked;  // [size]
  int64_t size;
  T threshold;
  const Place* places;  // [size]
  Bucket* buckets;      // [bucket_mask + 1]
  uint32_t bucket_mask;
  BoxArrays<T> slots;      // the kept regular boxes, by bucket
  BoxArrays<T> kept;       // all kept boxes
  BoxArrays<T> irregular;  // the kept irregular boxes
  uint64_t levels;         // the levels of kept boxes, as bits
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

struct SuppressMany {
  template <class T>
  TINYSSD_INLINE static bool suppressed(const Grid<T>& grid, const Box<T>& box, T box_area, int64_t num_kept) {
    if (!(grid.threshold > T(kLeastThreshold))) {
      return any_over<kListLanes>(grid.kept, 0, num_kept, box, box_area, grid.threshold);
    }
    const Least least = least_of(grid.threshold);
    const Extent extent = extent_of(box);
    const Levels levels = levels_of(extent.longest(), least);
    int64_t cells_left = num_kept / 16 + 16;  // beyond that, the list of all kept boxes is faster
    for (int bit = levels.lowest; bit <= levels.highest; ++bit) {
      if ((grid.levels >> bit & 1) == 0) continue;
      const int level = bit - kLevelOffset;
      const double scale = cells_per_unit(level, kLog2Cells);
      const double reach_x = reach(extent.w, level, least), reach_y = reach(extent.h, level, least);
      const int64_t left = cell_of(extent.cx - reach_x, scale), right = cell_of(extent.cx + reach_x, scale);
      const int64_t top = cell_of(extent.cy - reach_y, scale), bottom = cell_of(extent.cy + reach_y, scale);
      const double cells = static_cast<double>(right - left + 1) * static_cast<double>(bottom - top + 1);
      if (cells > static_cast<double>(cells_left)) {
        return any_over<kListLanes>(grid.kept, 0, num_kept, box, box_area, grid.threshold);
      }
      cells_left -= static_cast<int64_t>(cells);
      for (int64_t y = top; y <= bottom; ++y) {
        uint32_t hash = hash_cell(left, y, level);
        for (int64_t x = left; x <= right; ++x, ++hash) {
          const Bucket bucket = grid.buckets[hash & grid.bucket_mask];
          if (any_over<kLanes>(grid.slots, bucket.begin, bucket.begin + bucket.size, box, box_area, grid.threshold)) {
            return true;
          }
        }
      }
    }
    return false;
  }

  template <class T>
  TINYSSD_INLINE static void run(Grid<T>* shared, int64_t num_decided, uint8_t* keep) {
    Grid<T> grid = *shared;
    int64_t num_kept = 0, num_irregular = 0;
    for (int64_t i = 0; i < grid.size; ++i) {
      const Box<T> box = grid.ranked[i];
      const Place place = grid.places[i];
      const T box_area = area(box);
      bool gone = false;
      if (i < num_decided) {
        gone = keep[i] == 0;
      } else if (place.kind == Kind::kRegular) {
        gone = any_over<kListLanes>(grid.irregular, 0, num_irregular, box, box_area, grid.threshold) ||
               suppressed(grid, box, box_area, num_kept);
      } else if (place.kind == Kind::kIrregular) {
        gone = any_over<kListLanes>(grid.kept, 0, num_kept, box, box_area, grid.threshold);
      }
      keep[i] = !gone;
      if (gone || place.kind == Kind::kInert) continue;
      grid.kept.set(num_kept++, box, box_area);
      if (place.kind == Kind::kIrregular) {
        grid.irregular.set(num_irregular++, box, box_area);
        continue;
      }
      Bucket& bucket = grid.buckets[place.bucket];
      grid.slots.set(bucket.begin + bucket.size++, box, box_area);
      grid.levels |= uint64_t{1} << (place.level + kLevelOffset);
    }
  }
};

// NaN, which overlaps nothing, in every array.
template <class T>
BoxArrays<T> empty_arrays(std::vector<T>& memory, int64_t size) {
  const int64_t stride = size + kListLanes;
  memory.assign(BoxArrays<T>::kArrays * stride, std::numeric_limits<T>::quiet_NaN());
  return BoxArrays<T>::over(memory.data(), stride);
}

}  // namespace

template <class T>
void suppress(const Box<T>* ranked, int64_t size, T threshold, uint8_t* keep) {
  std::vector<T> kept_memory;
  const BoxArrays<T> kept = empty_arrays(kept_memory, smaller(size, kFewKept));
  int64_t num_decided = 0;
  run_simd<SuppressFew>(ranked, size, threshold, keep, kept, &num_decided);
  if (num_decided == size) return;
  uint32_t num_buckets = 1;
  while (num_buckets < size) num_buckets *= 2;
  std::vector<Place> places(size);
  std::vector<Bucket> buckets(num_buckets);
  int64_t num_irregular = 0;
  for (int64_t i = 0; i < size; ++i) {
    places[i] = place_of(ranked[i], num_buckets - 1);
    if (places[i].kind == Kind::kRegular) ++buckets[places[i].bucket].size;
    num_irregular += places[i].kind == Kind::kIrregular;
  }
  uint32_t start = 0;
  for (Bucket& bucket : buckets) {
    bucket.begin = start;
    start += bucket.size;
    bucket.size = 0;
  }
  std::vector<T> slot_memory, irregular_memory, all_memory;
  const BoxArrays<T> slots = empty_arrays(slot_memory, size);
  const BoxArrays<T> all = empty_arrays(all_memory, size);
  const BoxArrays<T> irregular = empty_arrays(irregular_memory, num_irregular);
  Grid<T> grid = {ranked, size, threshold, places.data(), buckets.data(), num_buckets - 1, slots, all, irregular, 0};
  run_simd<SuppressMany>(&grid, num_decided, keep);
}

template void suppress(const Box<float>*, int64_t, float, uint8_t*);
template void suppress(const Box<double>*, int64_t, double, uint8_t*);

}  // namespace tinyssd
