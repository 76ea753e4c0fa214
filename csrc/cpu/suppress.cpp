// Greedy suppression of one class: each box, in the order of rank, against the kept boxes that could overlap it enough.
// While few are kept: against all of them, a block of lanes at a time. Then they lie in a hashed grid, one level for
// the boxes whose longest side is within a factor of 4; a cell is half as wide as the longest of them, so that a box
// looks into a handful of cells. The pruning is exact: if IoU > t, the overlap in x exceeds t * max(w1, w2), so the
// centres differ by less than (w1 + w2) / 2 - t * max(w1, w2), likewise in y, and the longest sides differ by less than
// a factor 1 / t. The search uses t less a margin far above the rounding of the IoU. Boxes too small, too large or too
// far out for that are met by all.
#include "suppress.h"

#include "simd.h"

#include <cstring>
#include <limits>

namespace tinyssd {
namespace {

constexpr int64_t kFewKept = 128;         // so many kept boxes are met one by one before a grid is made
constexpr int64_t kLanes = 8;             // kept boxes tested at once in a cell
constexpr int64_t kListLanes = 32;        // ... in a list
constexpr double kMargin = 1e-5;          // relative, taken off the threshold
constexpr double kLeastThreshold = 0.01;  // below it, nearly everything near is a candidate
constexpr double kLeastSide = 1e-15, kLargestSide = 1e15, kLeastRelativeSide = 1e-9;
constexpr int kLevelOffset = 32, kLevels = 64;  // levels of regular boxes are within -25..25

// An IoU with such a box can exceed 0. False for a side or area of 0 or less, an infinite area and NaN.
template <class T>
TINYSSD_INLINE bool can_overlap(const Box<T>& box, T box_area) {
  return box.x2 - box.x1 > T(0) && box.y2 - box.y1 > T(0) && box_area > T(0) &&
         box_area < std::numeric_limits<T>::infinity();
}

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
enum class Kind : uint8_t { kInert, kIrregular, kRegular };

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

TINYSSD_INLINE int64_t cell_of(double coordinate, double cells_per_unit) {
  constexpr double kFar = 1e15;  // beyond any cell of a regular box; keeps the conversion defined
  const double scaled = smaller(larger(coordinate * cells_per_unit, -kFar), kFar);
  const auto whole = static_cast<int64_t>(scaled);
  return whole - (static_cast<double>(whole) > scaled);
}

// The longest side of a box of the level is less than 4**level and at least a quarter of that.
TINYSSD_INLINE double largest_side(int level) { return power_of_two<double>(2 * level); }
TINYSSD_INLINE double cells_per_unit(int level) { return power_of_two<double>(1 - 2 * level); }

TINYSSD_INLINE uint32_t hash_cell(int64_t x, int64_t y, int level) {
  // Neighbours in x lie side by side, so a block of lanes that runs past a cell tests boxes that are near anyway.
  uint64_t row = static_cast<uint64_t>(y) * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(level) * 0xC2B2AE3D27D4EB4Fu;
  row ^= row >> 29;
  return static_cast<uint32_t>(row + static_cast<uint64_t>(x));
}

// For a normal positive value.
TINYSSD_INLINE int level_of(double longest_side) {
  int64_t bits;
  memcpy(&bits, &longest_side, sizeof(bits));
  const int exponent = static_cast<int>(bits >> 52) - 1022;  // less than 2**exponent, at least half of that
  return (exponent + 1) >> 1;
}

template <class T>
Place place_of(const Box<T>& box, uint32_t bucket_mask) {
  if (!can_overlap(box, area(box))) return {Kind::kInert, 0, 0};
  const double x1 = box.x1, y1 = box.y1, x2 = box.x2, y2 = box.y2;
  const double w = x2 - x1, h = y2 - y1;
  const double longest = larger(w, h), shortest = smaller(w, h);
  const double far_x = larger(std::abs(x1), std::abs(x2)), far_y = larger(std::abs(y1), std::abs(y2));
  const bool regular = shortest > kLeastSide && longest < kLargestSide && w > far_x * kLeastRelativeSide &&
                       h > far_y * kLeastRelativeSide;
  if (!regular) return {Kind::kIrregular, 0, 0};
  const int level = level_of(longest);
  const double scale = cells_per_unit(level);
  const uint32_t hash = hash_cell(cell_of((x1 + x2) * 0.5, scale), cell_of((y1 + y2) * 0.5, scale), level);
  return {Kind::kRegular, static_cast<int8_t>(level), hash & bucket_mask};
}

struct SuppressMany {
  // The farthest that the centre of a box of the level can lie from that of a box with this side.
  TINYSSD_INLINE static double reach(double side, int level, double t) {
    if (t >= 0.5) return (1 - t) * side;
    return side * 0.5 + smaller(side / t, largest_side(level)) * (0.5 - t);
  }

  template <class T>
  TINYSSD_INLINE static bool suppressed(const Grid<T>& grid, const Box<T>& box, T box_area, int64_t num_kept) {
    if (!(grid.threshold > T(kLeastThreshold))) {
      return any_over<kListLanes>(grid.kept, 0, num_kept, box, box_area, grid.threshold);
    }
    const double t = static_cast<double>(grid.threshold) * (1 - kMargin);
    const double w = static_cast<double>(box.x2) - box.x1, h = static_cast<double>(box.y2) - box.y1;
    const double cx = (static_cast<double>(box.x1) + box.x2) * 0.5, cy = (static_cast<double>(box.y1) + box.y2) * 0.5;
    const double longest = larger(w, h);
    const int lowest = larger(level_of(longest * t) + kLevelOffset, 0);
    const int highest = smaller(level_of(longest / t) + kLevelOffset, kLevels - 1);
    int64_t cells_left = num_kept / 16 + 16;  // beyond that, the list of all kept boxes is faster
    for (int bit = lowest; bit <= highest; ++bit) {
      if ((grid.levels >> bit & 1) == 0) continue;
      const int level = bit - kLevelOffset;
      const double scale = cells_per_unit(level);
      const double reach_x = reach(w, level, t), reach_y = reach(h, level, t);
      const int64_t left = cell_of(cx - reach_x, scale), right = cell_of(cx + reach_x, scale);
      const int64_t top = cell_of(cy - reach_y, scale), bottom = cell_of(cy + reach_y, scale);
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
