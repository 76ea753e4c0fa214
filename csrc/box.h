// A box, its IoU and its offsets: the only C++ for them, host and device.
// Every operation is rounded on its own: no fused multiply-add (-ffp-contract=off, nvcc -fmad=false), no fast math, so
// that the Torch reference (tinyssd_ops/reference.py, boxes.py), C++ and CUDA return the same bits.
// Union <= 0 gives IoU 0; so does a NaN, which makes the union NaN. An IoU of 0 is +0, never -0.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Always inlined, so that a caller compiled for a wider instruction set vectorises it.
#if defined(__CUDACC__)
#define TINYSSD_INLINE __host__ __device__ __forceinline__
#else
#define TINYSSD_INLINE inline __attribute__((always_inline))
#endif

// What a GPU runs; tests/simt compiles and runs it on the CPU.
#if defined(__CUDA_ARCH__) || defined(TINYSSD_SIMT)
#define TINYSSD_DEVICE_CODE
#endif
// Where two boxes meet: tests/simt counts it.
#if !defined(TINYSSD_COUNT_PAIR)
#define TINYSSD_COUNT_PAIR()
#endif

namespace tinyssd {

template <class T>
struct Box {
  T x1, y1, x2, y2;
};

// Not std::max: one comparison with a fixed outcome for NaN and signed zeros, which a SIMD maximum computes as it is. A
// GPU has one instruction for fmax instead, with another outcome for NaN; a box with a NaN has a NaN area, so its IoU is
// 0 either way.
template <class T>
TINYSSD_INLINE T larger(T a, T b) {
#if defined(TINYSSD_DEVICE_CODE)
  if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
#endif
  return a > b ? a : b;
}
template <class T>
TINYSSD_INLINE T smaller(T a, T b) {
#if defined(TINYSSD_DEVICE_CODE)
  if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
#endif
  return a < b ? a : b;
}

template <class T>
TINYSSD_INLINE T area(const Box<T>& box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

template <class T>
TINYSSD_INLINE T intersection(const Box<T>& a, const Box<T>& b) {
  TINYSSD_COUNT_PAIR();
  const T width = larger(smaller(a.x2, b.x2) - larger(a.x1, b.x1), T(0));
  const T height = larger(smaller(a.y2, b.y2) - larger(a.y1, b.y1), T(0));
  return width * height;
}

template <class T>
TINYSSD_INLINE T iou(const Box<T>& a, T area_a, const Box<T>& b, T area_b) {
  const T inter = intersection(a, b);
  const T united = area_a + area_b - inter;
#if defined(TINYSSD_DEVICE_CODE)
  // Most pairs do not meet, and dividing 0 is a subroutine on a GPU: they divide 1 by 1.
  const bool meet = inter > T(0) && united > T(0);
  return meet ? (meet ? inter : T(1)) / (meet ? united : T(1)) : T(0);
#else
  const T ratio = inter / united;
  return united > T(0) ? ratio : T(0);
#endif
}

// Whether IoU(a, b) > threshold, without a division for most pairs. `least` is the threshold less a margin far above the
// rounding of the division (kIouMargin), so a pair that fails against it cannot pass the exact comparison.
constexpr double kIouMargin = 1e-5;

template <class T>
TINYSSD_INLINE bool overlaps_more(const Box<T>& a, T area_a, const Box<T>& b, T area_b, T least, T threshold) {
  const T inter = intersection(a, b);
  const T united = area_a + area_b - inter;
  return inter >= least * united && united > T(0) && inter / united > threshold;
}

template <class T>
struct ExpTraits;
template <>
struct ExpTraits<float> {
  using Int = int32_t;
  static constexpr float kLow = -104.0f, kHigh = 89.0f, kShift = 12582912.0f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr int kDegree = 7, kMantissaBits = 23;
  static constexpr Int kBias = 127;
};
template <>
struct ExpTraits<double> {
  using Int = int64_t;
  static constexpr double kLow = -746.0, kHigh = 710.0, kShift = 6755399441055744.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kDegree = 13, kMantissaBits = 52;
  static constexpr Int kBias = 1023;
};

// The factor 2**n, |n| within the normal exponents.
template <class T>
TINYSSD_INLINE T power_of_two(typename ExpTraits<T>::Int n) {
  const typename ExpTraits<T>::Int bits = (n + ExpTraits<T>::kBias) << ExpTraits<T>::kMantissaBits;
  T factor;
  memcpy(&factor, &bits, sizeof(factor));
  return factor;
}

// exp(x) from rounded basic operations, the same on every backend: see _exp in tinyssd_ops/boxes.py.
template <class T>
TINYSSD_INLINE T exp_exact(T x) {
  using Traits = ExpTraits<T>;
  x = x < Traits::kLow ? Traits::kLow : x;
  x = x > Traits::kHigh ? Traits::kHigh : x;
  const T shifted = x * T(1.4426950408889634) + Traits::kShift;
  const T n = shifted - Traits::kShift;
  const T r = (x - n * Traits::kLn2High) - n * Traits::kLn2Low;
  double factorial = 1;
  for (int k = 2; k <= Traits::kDegree; ++k) factorial *= k;
  T result = T(1.0 / factorial);
  for (int k = Traits::kDegree - 1; k >= 0; --k) {
    factorial /= k + 1;
    result = result * r + T(1.0 / factorial);
  }
  const auto exponent = static_cast<typename Traits::Int>(n == n ? n : T(0));
  const auto first = exponent >> 1;
  return result * power_of_two<T>(first) * power_of_two<T>(exponent - first);
}

// SSD's scales: the offsets of centre and size are multiplied by them.
constexpr double kCenterScale = 10, kSizeScale = 5, kEncodeEpsilon = 1e-6;

// The target class of a label's class; a wild one is cut off, which keeps the conversion defined.
template <class T>
TINYSSD_INLINE int64_t class_of_label(T label) {
  constexpr double kLargestClass = 2147483648.0;
  return static_cast<int64_t>(smaller(label, T(kLargestClass))) + 1;
}

// The offsets (dx, dy, dw, dh) from an anchor to a box.
template <class T>
TINYSSD_INLINE Box<T> encode(const Box<T>& anchor, const Box<T>& box) {
  const T w = anchor.x2 - anchor.x1, h = anchor.y2 - anchor.y1;
  const T dx = (box.x1 + box.x2) / T(2) - (anchor.x1 + anchor.x2) / T(2);
  const T dy = (box.y1 + box.y2) / T(2) - (anchor.y1 + anchor.y2) / T(2);
  // In double, so that the logarithm rounded to float is the same on every backend.
  const T log_w = static_cast<T>(std::log(static_cast<double>(T(kEncodeEpsilon) + (box.x2 - box.x1) / w)));
  const T log_h = static_cast<T>(std::log(static_cast<double>(T(kEncodeEpsilon) + (box.y2 - box.y1) / h)));
  return {T(kCenterScale) * dx / w, T(kCenterScale) * dy / h, T(kSizeScale) * log_w, T(kSizeScale) * log_h};
}

// The box that the offsets (dx, dy, dw, dh) mean.
template <class T>
TINYSSD_INLINE Box<T> decode(const Box<T>& anchor, const Box<T>& d) {
  const T w = anchor.x2 - anchor.x1, h = anchor.y2 - anchor.y1;
  const T cx = d.x1 * w / T(kCenterScale) + (anchor.x1 + anchor.x2) / T(2);
  const T cy = d.y1 * h / T(kCenterScale) + (anchor.y1 + anchor.y2) / T(2);
  const T half_w = exp_exact(d.x2 / T(kSizeScale)) * w * T(0.5);
  const T half_h = exp_exact(d.y2 / T(kSizeScale)) * h * T(0.5);
  return {cx - half_w, cy - half_h, cx + half_w, cy + half_h};
}

}  // namespace tinyssd
