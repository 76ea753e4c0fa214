// The IoU of ordinary boxes with fewer instructions: the same bits as iou() of box.h, for floats alone.
// A division a / b that is rounded as IEEE 754 asks is, as nvcc compiles it: a reciprocal of b good to a unit in the
// last place, one step that makes it the rounded 1 / b, the quotient by it, and one step that rounds that; beside these
// six instructions a check of the exponents, and a subroutine for operands that fail it. Ordinary boxes cannot fail it:
// their corners are multiples of 2^-43 below 2^18, so an intersection is 0 or at least 2^-86, a union lies between 2^-86
// and 2^39, and the quotient is 0 or at least 2^-125: nothing overflows or loses bits, and 0 / union comes out as 0.
#pragma once

#include "launch.cuh"

namespace tinyssd {

constexpr float kLeastCorner = 1.0f / (1 << 20), kCornerLimit = 1 << 18;

// Without branches: && would be one.
TINYSSD_INLINE bool is_ordinary_corner(float corner) {
  return (corner == 0) | ((std::fabs(corner) >= kLeastCorner) & (std::fabs(corner) < kCornerLimit));
}

// False for a side of 0 or less, and for NaN.
TINYSSD_INLINE bool is_ordinary(const Box<float>& box) {
  return is_ordinary_corner(box.x1) & is_ordinary_corner(box.y1) & is_ordinary_corner(box.x2) &
         is_ordinary_corner(box.y2) & (box.x2 > box.x1) & (box.y2 > box.y1);
}
// A division in double is a long way from six instructions, whatever the operands.
TINYSSD_INLINE bool is_ordinary(const Box<double>&) { return false; }

// 1 / x to a unit in the last place.
__device__ __forceinline__ float approximate_reciprocal(float x) {
#if defined(__CUDACC__)
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}

// iou(a, area_a, b, area_b) of two ordinary boxes.
__device__ __forceinline__ float ordinary_iou(const Box<float>& a, float area_a, const Box<float>& b, float area_b) {
  const float inter = intersection(a, b), united = area_a + area_b - inter;
  const float start = approximate_reciprocal(united);
  const float reciprocal = std::fmaf(start, std::fmaf(-united, start, 1.0f), start);
  const float quotient = inter * reciprocal;
  return std::fmaf(reciprocal, std::fmaf(-united, quotient, inter), quotient);
}
__device__ __forceinline__ double ordinary_iou(
    const Box<double>& a, double area_a, const Box<double>& b, double area_b) {
  return iou(a, area_a, b, area_b);
}

}  // namespace tinyssd
