// Where the kept boxes can lie that suppress a box: the exact pruning shared by suppression on the CPU and on CUDA.
// Boxes lie in a hashed grid, by their centres, one level for the boxes whose longest side is within a factor of 4. If
// IoU > t, the overlap in x exceeds t * max(w1, w2), so the centres differ by less than (w1 + w2) / 2 - t * max(w1, w2),
// likewise in y, and the longest sides differ by less than a factor 1 / t. The search uses t less a margin far above the
// rounding of the IoU. Boxes too small, too large or too far out for that are irregular: they meet all others.
#pragma once

#include "box.h"

#include <limits>

namespace tinyssd {

constexpr double kLeastThreshold = 0.01;  // below it, nearly everything near is a candidate
constexpr double kLeastSide = 1e-15, kLargestSide = 1e15, kLeastRelativeSide = 1e-9;
constexpr int kLevelOffset = 32, kLevels = 64;  // levels of regular boxes are within -25..25

// Inert boxes have an IoU of 0 with all: they are kept and suppress nothing.
enum class Kind : uint8_t { kInert, kIrregular, kRegular };

// An IoU with such a box can exceed 0. False for a side or area of 0 or less, an infinite area and NaN.
template <class T>
TINYSSD_INLINE bool can_overlap(const Box<T>& box, T box_area) {
  return box.x2 - box.x1 > T(0) && box.y2 - box.y1 > T(0) && box_area > T(0) &&
         box_area < std::numeric_limits<T>::infinity();
}

// A box that can overlap others, in double: its sides and its centre.
struct Extent {
  double w, h, cx, cy;
  TINYSSD_INLINE double longest() const { return larger(w, h); }
};

template <class T>
TINYSSD_INLINE Extent extent_of(const Box<T>& box) {
  const double x1 = box.x1, y1 = box.y1, x2 = box.x2, y2 = box.y2;
  return {x2 - x1, y2 - y1, (x1 + x2) * 0.5, (y1 + y2) * 0.5};
}

template <class T>
TINYSSD_INLINE Kind kind_of(const Box<T>& box, const Extent& extent) {
  if (!can_overlap(box, area(box))) return Kind::kInert;
  const double far_x = larger(std::abs(double(box.x1)), std::abs(double(box.x2)));
  const double far_y = larger(std::abs(double(box.y1)), std::abs(double(box.y2)));
  const bool regular = smaller(extent.w, extent.h) > kLeastSide && extent.longest() < kLargestSide &&
                       extent.w > far_x * kLeastRelativeSide && extent.h > far_y * kLeastRelativeSide;
  return regular ? Kind::kRegular : Kind::kIrregular;
}

// For a normal positive value. The longest side of a box of the level is less than 4**level and at least a quarter of it.
TINYSSD_INLINE int level_of(double longest_side) {
  int64_t bits;
  memcpy(&bits, &longest_side, sizeof(bits));
  const int exponent = static_cast<int>(bits >> 52) - 1022;  // less than 2**exponent, at least half of that
  return (exponent + 1) >> 1;
}
TINYSSD_INLINE double largest_side(int level) { return power_of_two<double>(2 * level); }

// The threshold of the search, and its inverse.
struct Least {
  double t, inverse;
};
TINYSSD_INLINE Least least_of(double threshold) {
  const double t = threshold * (1 - kIouMargin);
  return {t, 1 / t};
}

// The levels in which boxes can lie that overlap one of this longest side by more than t, as positions of bits.
struct Levels {
  int lowest, highest;
};
TINYSSD_INLINE Levels levels_of(double longest, const Least& least) {
  return {
      larger(level_of(longest * least.t) + kLevelOffset, 0),
      smaller(level_of(longest * least.inverse) + kLevelOffset, kLevels - 1)};
}

// The farthest that the centre of a box of the level can lie from that of a box with this side.
TINYSSD_INLINE double reach(double side, int level, const Least& least) {
  if (least.t >= 0.5) return (1 - least.t) * side;
  return side * 0.5 + smaller(side * least.inverse, largest_side(level)) * (0.5 - least.t);
}

// A level's cells have the largest side divided by 2**log2_cells.
TINYSSD_INLINE double cells_per_unit(int level, int log2_cells) { return power_of_two<double>(log2_cells - 2 * level); }

TINYSSD_INLINE int64_t cell_of(double coordinate, double cells_per_unit) {
  constexpr double kFar = 1e15;  // beyond any cell of a regular box; keeps the conversion defined
  const double scaled = smaller(larger(coordinate * cells_per_unit, -kFar), kFar);
  const auto whole = static_cast<int64_t>(scaled);
  return whole - (static_cast<double>(whole) > scaled);
}

// The hash of the cell x = 0 of a row. The cell x has hash_row + x: neighbours lie side by side.
TINYSSD_INLINE uint32_t hash_row(int64_t y, int level, uint64_t seed = 0) {
  uint64_t row =
      static_cast<uint64_t>(y) * 0x9E3779B97F4A7C15u + (static_cast<uint64_t>(level) ^ seed) * 0xC2B2AE3D27D4EB4Fu;
  row ^= row >> 29;
  return static_cast<uint32_t>(row);
}

}  // namespace tinyssd
