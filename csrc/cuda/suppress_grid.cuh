// The cells in which suppression on CUDA looks for kept boxes. Boxes of about the same width and about the same height
// share a grid. If IoU > t, the overlap in x exceeds t / (1 + t) times the sum of the widths, so the widths differ by less
// than a factor 1 / t and the centres by less than (w1 + w2) / 2 * (1 - t) / (1 + t); likewise in y. The search takes t
// less a margin far above the rounding of the IoU, as grid.h does.
#pragma once

#include "../grid.h"
#include "launch.cuh"

namespace tinyssd {

constexpr int kSideOffset = 32, kSideLevels = 64;  // the levels of a side are bits

// The grids of a threshold.
struct Grid {
  int log2_step;    // the sides of a level are within a factor of 2**log2_step, at most 2**(level * log2_step)
  int log2_cells;   // cells to the largest side of a level
  double t;         // the threshold of the search
  double inverse;   // 1 / t, and how far centres may be apart: divisions would cost the search its registers
  double nearness;  // (1 - t) / (1 + t)
  bool searchable;  // false: boxes are compared with all

  explicit Grid(double threshold)
      : log2_step(threshold < 0.4 ? 2 : 1),
        log2_cells(
            threshold < 0.6   ? 1
            : threshold < 0.8 ? 2
                              : 3),
        t(threshold * (1 - kIouMargin)),
        inverse(1 / t),
        nearness((1 - t) / (1 + t)),
        searchable(threshold > kLeastThreshold) {}

  // Wanted: side <= 2**(level * log2_step), and more than the level below.
  __device__ int level_of_side(double side) const {
    int64_t bits;
    memcpy(&bits, &side, sizeof(bits));
    const int exponent = static_cast<int>(bits >> 52) - 1022;
    return (exponent + log2_step - 1) >> (log2_step - 1);
  }
  __device__ double largest_of(int level) const { return power_of_two<double>(level * log2_step); }
  __device__ int64_t cell(double coordinate, int level) const {
    return cell_of(coordinate, power_of_two<double>(log2_cells - level * log2_step));
  }
  __device__ static uint32_t hash(int level_x, int64_t x, int level_y, int64_t y, uint64_t seed) {
    return hash_row(y, level_x * kSideLevels + level_y, seed) + static_cast<uint32_t>(x);
  }
};

// Where a box lies. Sides that have no level make it irregular too.
struct Spot {
  Extent extent;
  Kind kind;
  int level_x, level_y;

  template <class T>
  __device__ Spot(const Box<T>& box, const Grid& grid) : extent(extent_of(box)), kind(kind_of(box, extent)) {
    level_x = level_y = 0;
    if (kind != Kind::kRegular) return;
    level_x = grid.level_of_side(extent.w);
    level_y = grid.level_of_side(extent.h);
    const int far = larger(larger(level_x, -level_x), larger(level_y, -level_y));
    if (far >= kSideOffset) kind = Kind::kIrregular;
  }
};

// One direction of a search: the cells of a level that a box looks into.
struct Axis {
  double centre, side;
  int64_t first = 0;
  int level = 0;

  // Which of the levels can hold a partner.
  __device__ unsigned long long levels(const Grid& grid, unsigned long long present) const {
    const int lowest = larger(grid.level_of_side(side * grid.t) + kSideOffset, 0);
    const int highest = smaller(grid.level_of_side(side * grid.inverse) + kSideOffset, kSideLevels - 1);
    return present & ~0ull << lowest & ~0ull >> (kSideLevels - 1 - highest);
  }
  // Sets level and first, and returns how many cells there are.
  __device__ int64_t enter(const Grid& grid, int bit) {
    level = bit - kSideOffset;
    const double reach = (side + smaller(side * grid.inverse, grid.largest_of(level))) * 0.5 * grid.nearness;
    first = grid.cell(centre - reach, level);
    return grid.cell(centre + reach, level) - first + 1;
  }
};

}  // namespace tinyssd
