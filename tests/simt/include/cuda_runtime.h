// Stands in for CUDA's header where g++ compiles a .cu file for the machine of machine.h: the language's words, types
// and builtins, and the part of the runtime that csrc/cuda uses. What is missing here is a compile error there.
#pragma once

#include "../machine.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// -- Vector types, with CUDA's alignments: UBSan sees a misaligned access, which a GPU refuses.

#define SIMT_VECTORS(T, name, align2, align4)                \
  struct alignas(align2) name##2 { T x, y; };                \
  struct alignas(align4) name##4 { T x, y, z, w; };          \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

SIMT_VECTORS(char, char, 2, 4)
SIMT_VECTORS(unsigned char, uchar, 2, 4)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned, uint, 8, 16)
SIMT_VECTORS(long long, longlong, 16, 16)
SIMT_VECTORS(unsigned long long, ulonglong, 16, 16)
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(double, double, 16, 16)
using double4_16a = double4;
#undef SIMT_VECTORS

constexpr int warpSize = simt::kWarp;

// -- Barriers

inline void __syncthreads(simt::Place at = simt::Place::here()) { simt::meet_block("__syncthreads", at); }

namespace simt {

struct Votes {
  int yes, all;
};

inline Votes block_vote(const char* what, Place at, int predicate) {
  struct Thread {
    int predicate;
    Votes votes;
  } mine{predicate, {}};
  meet_block(what, at, &mine, [](void* const* threads, int count) {
    Votes votes{};
    for (int i = 0; i < count; ++i) {
      if (threads[i] == nullptr) continue;
      ++votes.all;
      votes.yes += static_cast<Thread*>(threads[i])->predicate != 0;
    }
    for (int i = 0; i < count; ++i) {
      if (threads[i] != nullptr) static_cast<Thread*>(threads[i])->votes = votes;
    }
  });
  return mine.votes;
}

// A warp operation: when all lanes of the mask have come, compute(values, lane) gives each lane's result, where values
// holds what each lane brought, and nullptr for a lane outside the mask.
template <class T, class F>
auto warp_operation(const char* what, Place at, unsigned mask, const T& value, const F& compute) {
  using Values = const T* const*;
  using Result = decltype(compute(Values{}, 0));
  struct Lane {
    const T* value;
    const F* compute;
    Result result;
  } mine{&value, &compute, {}};
  meet_warp(what, at, mask, &mine, [](void* const* lanes, int) {
    const T* values[kWarp] = {};
    for (int i = 0; i < kWarp; ++i) {
      if (lanes[i] != nullptr) values[i] = static_cast<Lane*>(lanes[i])->value;
    }
    for (int i = 0; i < kWarp; ++i) {
      if (lanes[i] == nullptr) continue;
      auto& lane = *static_cast<Lane*>(lanes[i]);
      lane.result = (*lane.compute)(values, i);
    }
  });
  return mine.result;
}

// The lanes whose value satisfies the predicate.
template <class T, class F>
unsigned lanes_where(const T* const* values, const F& predicate) {
  unsigned lanes = 0;
  for (int i = 0; i < kWarp; ++i) {
    if (values[i] != nullptr && predicate(*values[i])) lanes |= 1u << i;
  }
  return lanes;
}

template <class T, class F>
T fold(const T* const* values, const F& combine) {
  const T* result = nullptr;
  T total{};
  for (int i = 0; i < kWarp; ++i) {
    if (values[i] == nullptr) continue;
    total = result == nullptr ? *values[i] : combine(total, *values[i]);
    result = &total;
  }
  return total;
}

template <class T>
T shuffle(const char* what, Place at, unsigned mask, T value, int source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  return warp_operation(what, at, mask, value, [source](const T* const* values, int) {
    return values[source] != nullptr ? *values[source] : garbage<T>();
  });
}

inline int lane() { return thread_rank() % kWarp; }
inline int first_lane(int width) { return lane() & ~(width - 1); }

}  // namespace simt

inline int __syncthreads_count(int predicate, simt::Place at = simt::Place::here()) {
  return simt::block_vote("__syncthreads_count", at, predicate).yes;
}
inline int __syncthreads_or(int predicate, simt::Place at = simt::Place::here()) {
  return simt::block_vote("__syncthreads_or", at, predicate).yes > 0;
}
inline int __syncthreads_and(int predicate, simt::Place at = simt::Place::here()) {
  const simt::Votes votes = simt::block_vote("__syncthreads_and", at, predicate);
  return votes.yes == votes.all;
}
// One execution among those that CUDA allows may have a fence do nothing: what others see is decided by who runs when.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// -- Warp operations

inline void __syncwarp(unsigned mask = ~0u, simt::Place at = simt::Place::here()) {
  simt::meet_warp("__syncwarp", at, mask);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, simt::Place at = simt::Place::here()) {
  return simt::shuffle("__shfl_sync", at, mask, value, simt::first_lane(width) | (source & (width - 1)));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, simt::Place at = simt::Place::here()) {
  const int source = simt::lane() - static_cast<int>(delta);
  return simt::shuffle("__shfl_up_sync", at, mask, value, source < simt::first_lane(width) ? simt::lane() : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, simt::Place at = simt::Place::here()) {
  const int source = simt::lane() + static_cast<int>(delta);
  const bool inside = source < simt::first_lane(width) + width;
  return simt::shuffle("__shfl_down_sync", at, mask, value, inside ? source : simt::lane());
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, simt::Place at = simt::Place::here()) {
  const int source = simt::lane() ^ flip;
  const bool inside = source < simt::first_lane(width) + width;
  return simt::shuffle("__shfl_xor_sync", at, mask, value, inside ? source : simt::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Place at = simt::Place::here()) {
  return simt::warp_operation("__ballot_sync", at, mask, predicate, [](const int* const* values, int) {
    return simt::lanes_where(values, [](int value) { return value != 0; });
  });
}
inline int __any_sync(unsigned mask, int predicate, simt::Place at = simt::Place::here()) {
  return simt::warp_operation("__any_sync", at, mask, predicate, [](const int* const* values, int) {
    return static_cast<int>(simt::lanes_where(values, [](int value) { return value != 0; }) != 0);
  });
}
inline int __all_sync(unsigned mask, int predicate, simt::Place at = simt::Place::here()) {
  return simt::warp_operation("__all_sync", at, mask, predicate, [mask](const int* const* values, int) {
    return static_cast<int>(simt::lanes_where(values, [](int value) { return value != 0; }) == mask);
  });
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, simt::Place at = simt::Place::here()) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  return simt::warp_operation("__match_any_sync", at, mask, value, [](const T* const* values, int lane) {
    return simt::lanes_where(values, [&](T other) { return memcmp(&other, values[lane], sizeof(T)) == 0; });
  });
}
// No more than this is promised: that the lane which asks is active.
inline unsigned __activemask() { return 1u << simt::lane(); }

#define SIMT_REDUCE(name, T, expression)                                                  \
  inline T name(unsigned mask, T value, simt::Place at = simt::Place::here()) {           \
    return simt::warp_operation(#name, at, mask, value, [](const T* const* values, int) { \
      return simt::fold(values, [](T a, T b) -> T { return expression; });                \
    });                                                                                   \
  }
SIMT_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
SIMT_REDUCE(__reduce_max_sync, int, a > b ? a : b)
SIMT_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
SIMT_REDUCE(__reduce_min_sync, int, a < b ? a : b)
SIMT_REDUCE(__reduce_add_sync, unsigned, a + b)
SIMT_REDUCE(__reduce_add_sync, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
SIMT_REDUCE(__reduce_or_sync, unsigned, a | b)
SIMT_REDUCE(__reduce_and_sync, unsigned, a& b)
SIMT_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef SIMT_REDUCE

// -- Atomics: others may run before one, none during it.

namespace simt {

template <class T, class... Allowed>
constexpr bool is_one_of = (std::is_same_v<T, Allowed> || ...);
template <class T>
struct Same {
  using type = T;
};
// Converts to the type that the address has, as CUDA's overloads do.
template <class T>
using Operand = typename Same<T>::type;

template <class T, class F>
T atomic(T* address, const F& next) {
  maybe_yield();
  const T before = *address;
  *address = next(before);
  return before;
}

}  // namespace simt

#define SIMT_ATOMIC_OF_SCOPE(name, expression, ...)                                        \
  template <class T>                                                                       \
  T name(T* address, simt::Operand<T> value) {                                             \
    static_assert(simt::is_one_of<T, __VA_ARGS__>, #name ": CUDA has none for this type"); \
    return simt::atomic(address, [value](T old) -> T { return expression; });              \
  }
#define SIMT_ATOMIC(name, ...)                    \
  SIMT_ATOMIC_OF_SCOPE(name, __VA_ARGS__)         \
  SIMT_ATOMIC_OF_SCOPE(name##_block, __VA_ARGS__) \
  SIMT_ATOMIC_OF_SCOPE(name##_system, __VA_ARGS__)
SIMT_ATOMIC(atomicAdd, old + value, int, unsigned, unsigned long long, float, double)
SIMT_ATOMIC(atomicSub, old - value, int, unsigned)
SIMT_ATOMIC(atomicMax, old > value ? old : value, int, unsigned, long long, unsigned long long)
SIMT_ATOMIC(atomicMin, old < value ? old : value, int, unsigned, long long, unsigned long long)
SIMT_ATOMIC(atomicOr, old | value, int, unsigned, unsigned long long)
SIMT_ATOMIC(atomicAnd, old& value, int, unsigned, unsigned long long)
SIMT_ATOMIC(atomicXor, old ^ value, int, unsigned, unsigned long long)
SIMT_ATOMIC(atomicExch, (static_cast<void>(old), value), int, unsigned, unsigned long long, float)
#undef SIMT_ATOMIC
#undef SIMT_ATOMIC_OF_SCOPE

template <class T>
T atomicCAS(T* address, simt::Operand<T> expected, simt::Operand<T> value) {
  static_assert(simt::is_one_of<T, int, unsigned, unsigned long long, unsigned short>);
  return simt::atomic(address, [=](T old) { return old == expected ? value : old; });
}
template <class T>
T atomicCAS_block(T* address, simt::Operand<T> expected, simt::Operand<T> value) {
  return atomicCAS(address, expected, value);
}

// -- Memory

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldca(const T* address) {
  return *address;
}
// The loads that see what other threads write meanwhile.
template <class T>
T __ldcg(const T* address) {
  simt::maybe_yield();
  return *address;
}
template <class T>
T __ldcv(const T* address) {
  simt::maybe_yield();
  return *address;
}
template <class T>
void __stcs(T* address, simt::Operand<T> value) {
  *address = value;
}
template <class T>
void __stcg(T* address, simt::Operand<T> value) {
  *address = value;
}
inline void __nanosleep(unsigned) { simt::yield(); }
[[noreturn]] inline void __trap() { simt::fail("__trap"); }

// -- Arithmetic

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned long long __brevll(unsigned long long x) {
  const auto low = static_cast<unsigned>(x), high = static_cast<unsigned>(x >> 32);
  return static_cast<unsigned long long>(__brev(low)) << 32 | __brev(high);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}

namespace simt {

template <class To, class From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(result));
  return result;
}

}  // namespace simt

inline int __float_as_int(float x) { return simt::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return simt::bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return simt::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return simt::bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return simt::bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return simt::bits_as<double>(x); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

// Of floats, the one that is not NaN; of integers of two types, as C++ compares them.
template <class A, class B, std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, int> = 0>
constexpr auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return static_cast<T>(std::fmin(static_cast<T>(a), static_cast<T>(b)));
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
template <class A, class B, std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, int> = 0>
constexpr auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return static_cast<T>(std::fmax(static_cast<T>(a), static_cast<T>(b)));
  return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}

// -- The runtime. All work is done when a call returns.

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNotSupported = 801,
};
using cudaStream_t = struct CUstream_st*;

enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeIgnore = 0,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6,
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  union {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace simt {

// What a kernel gets unless cudaFuncSetAttribute said otherwise.
constexpr int kSharedMemoryByDefault = 48 << 10;

int& shared_memory_of(const void* kernel);
cudaError_t last_error(cudaError_t error, bool clear);
cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel);

}  // namespace simt

inline cudaError_t cudaGetLastError() { return simt::last_error(cudaSuccess, true); }
inline cudaError_t cudaPeekAtLastError() { return simt::last_error(cudaSuccess, false); }
const char* cudaGetErrorString(cudaError_t error);
inline const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t = nullptr) {
  memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}
inline void cudaGridDependencySynchronize() {}
inline void cudaTriggerProgrammaticLaunchCompletion() {}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const auto* address = reinterpret_cast<const void*>(kernel);
  if (const cudaError_t error = simt::check_launch(*config, address)) return simt::last_error(error, false);
  // Parameters are passed by value, so each thread has its own.
  const auto run = [&](Parameters... parameters) {
    auto body = [&] { kernel(parameters...); };
    simt::launch(
        config->gridDim, config->blockDim, config->dynamicSmemBytes, address,
        [](void* context) { (*static_cast<decltype(body)*>(context))(); }, &body);
  };
  run(std::forward<Arguments>(arguments)...);
  return cudaSuccess;
}
