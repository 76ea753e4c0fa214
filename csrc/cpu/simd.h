// Chooses a kernel's instruction set at run time. A kernel is a struct with an always-inlined `static void run(...)` of
// plain loops; run_simd compiles it once a path and calls the widest that this CPU has. TINYSSD_OPS_SIMD=baseline, avx2
// or avx512 forces one. Every path returns the same bits: the loops hold no reduction of floats and no contraction.
#pragma once

#include "../box.h"

#include <string>
#include <vector>

namespace tinyssd {

enum class SimdPath { kBaseline, kAvx2, kAvx512 };

// The path in use.
SimdPath simd_path();
const char* simd_path_name(SimdPath path);
// The paths that this build has and this CPU can run, the narrowest first.
std::vector<SimdPath> simd_paths();
// Forces a path by name, for tests; std::invalid_argument if it cannot run here.
void set_simd_path(const std::string& name);

// TINYSSD_ONE_PATH leaves out the others, for builds with sanitizers.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(TINYSSD_ONE_PATH)
#define TINYSSD_X86 1
#else
#define TINYSSD_X86 0
#endif

// GCC would thread the jumps of two comparisons into four cases before it looks for a minimum or a maximum to vectorise.
#if defined(__GNUC__) && !defined(__clang__)
#define TINYSSD_PLAIN_LOOPS __attribute__((optimize("no-thread-jumps")))
#else
#define TINYSSD_PLAIN_LOOPS
#endif

#if TINYSSD_X86
// Both compilers would use half of a 512-bit register; each is told otherwise in its own way, and Clang ignores the whole
// of a target that names GCC's.
#define TINYSSD_AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#if defined(__clang__)
#define TINYSSD_TARGET_AVX512 __attribute__((target(TINYSSD_AVX512), min_vector_width(512), noinline))
#else
#define TINYSSD_TARGET_AVX512 __attribute__((target(TINYSSD_AVX512 ",prefer-vector-width=512"), noinline))
#endif

template <class Kernel, class... Args>
TINYSSD_PLAIN_LOOPS __attribute__((target("avx2"), noinline)) void run_avx2(Args... args) {
  Kernel::run(args...);
}
template <class Kernel, class... Args>
TINYSSD_PLAIN_LOOPS TINYSSD_TARGET_AVX512 void run_avx512(Args... args) {
  Kernel::run(args...);
}
#endif

template <class Kernel, class... Args>
TINYSSD_PLAIN_LOOPS __attribute__((noinline)) void run_baseline(Args... args) {
  Kernel::run(args...);
}

template <class Kernel, class... Args>
void run_simd(Args... args) {
#if TINYSSD_X86
  switch (simd_path()) {
    case SimdPath::kAvx512: return run_avx512<Kernel>(args...);
    case SimdPath::kAvx2: return run_avx2<Kernel>(args...);
    case SimdPath::kBaseline: break;
  }
#endif
  run_baseline<Kernel>(args...);
}

// Boxes as five arrays, for loops over many boxes at once.
template <class T>
struct BoxArrays {
  T *x1, *y1, *x2, *y2, *area;

  static constexpr int64_t kArrays = 5;
  // Over memory for kArrays * stride values.
  static BoxArrays over(T* memory, int64_t stride) {
    return {memory, memory + stride, memory + 2 * stride, memory + 3 * stride, memory + 4 * stride};
  }
  TINYSSD_INLINE void set(int64_t i, const Box<T>& box, T box_area) const {
    x1[i] = box.x1;
    y1[i] = box.y1;
    x2[i] = box.x2;
    y2[i] = box.y2;
    area[i] = box_area;
  }
  TINYSSD_INLINE T iou_with(int64_t i, const Box<T>& box, T box_area) const {
    return iou(box, box_area, Box<T>{x1[i], y1[i], x2[i], y2[i]}, area[i]);
  }
  BoxArrays operator+(int64_t offset) const {
    return {x1 + offset, y1 + offset, x2 + offset, y2 + offset, area + offset};
  }
};

}  // namespace tinyssd
