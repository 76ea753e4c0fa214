// Stands in for CUDA's header where g++ compiles a .cu file for the machine of machine.h: of the language's words and
// builtins and of the runtime, what csrc/cuda and faults.cu use. What is missing here is a compile error there.
#pragma once

#include "../machine.h"

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// With CUDA's alignment: UBSan sees a misaligned access, which a GPU refuses.
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace simt {

template <class T, class... Allowed>
constexpr bool is_one_of = (std::is_same_v<T, Allowed> || ...);

// For how many threads of the block the predicate holds.
inline int block_count(const char* what, Place at, int predicate) {
  struct Thread {
    bool yes;
    int count;
  } mine{predicate != 0, 0};
  meet_block(what, at, &mine, [](void* const* threads, int size) {
    int count = 0;
    for (int i = 0; i < size; ++i) count += threads[i] != nullptr && static_cast<Thread*>(threads[i])->yes;
    for (int i = 0; i < size; ++i) {
      if (threads[i] != nullptr) static_cast<Thread*>(threads[i])->count = count;
    }
  });
  return mine.count;
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

template <class T, class F>
T reduce(const char* what, Place at, unsigned mask, T value, const F& combine) {
  return warp_operation(what, at, mask, value, [&combine](const T* const* values, int lane) {
    T total = *values[lane];
    for (int i = 0; i < kWarp; ++i) {
      if (i != lane && values[i] != nullptr) total = combine(total, *values[i]);
    }
    return total;
  });
}

template <class T>
T shuffle(const char* what, Place at, unsigned mask, T value, int source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  return warp_operation(what, at, mask, value, [source](const T* const* values, int) {
    const T* found = values[source & (kWarp - 1)];
    return found != nullptr ? *found : garbage<T>();
  });
}

}  // namespace simt

// -- Barriers

inline void __syncthreads(simt::Place at = simt::Place::here()) { simt::meet_block("__syncthreads", at); }
inline int __syncthreads_count(int predicate, simt::Place at = simt::Place::here()) {
  return simt::block_count("__syncthreads_count", at, predicate);
}
inline int __syncthreads_or(int predicate, simt::Place at = simt::Place::here()) {
  return simt::block_count("__syncthreads_or", at, predicate) > 0;
}
inline void __threadfence_block() { simt::fence(false); }
inline void __threadfence() { simt::fence(true); }

// -- Warp operations

inline void __syncwarp(unsigned mask = ~0u, simt::Place at = simt::Place::here()) {
  simt::meet_warp("__syncwarp", at, mask);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, simt::Place at = simt::Place::here()) {
  return simt::shuffle("__shfl_sync", at, mask, value, source);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, simt::Place at = simt::Place::here()) {
  return simt::shuffle("__shfl_xor_sync", at, mask, value, simt::thread_rank() ^ flip);
}
inline int __any_sync(unsigned mask, int predicate, simt::Place at = simt::Place::here()) {
  return simt::reduce("__any_sync", at, mask, predicate != 0, [](bool a, bool b) { return a || b; });
}
inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Place at = simt::Place::here()) {
  return simt::warp_operation("__ballot_sync", at, mask, predicate != 0, [](const bool* const* values, int) {
    unsigned lanes = 0;
    for (int i = 0; i < simt::kWarp; ++i) lanes |= static_cast<unsigned>(values[i] != nullptr && *values[i]) << i;
    return lanes;
  });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, simt::Place at = simt::Place::here()) {
  static_assert(simt::is_one_of<T, int, unsigned>);
  return simt::reduce("__reduce_max_sync", at, mask, value, [](T a, T b) { return a > b ? a : b; });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, simt::Place at = simt::Place::here()) {
  static_assert(simt::is_one_of<T, int, unsigned>);
  return simt::reduce("__reduce_min_sync", at, mask, value, [](T a, T b) { return a < b ? a : b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, simt::Place at = simt::Place::here()) {
  return simt::reduce("__reduce_or_sync", at, mask, value, [](unsigned a, unsigned b) { return a | b; });
}

// -- Atomics: others may run before one, none during it. The operand converts to the type that the address has, as
// CUDA's overloads do.

namespace simt {

// Where in the kernel's code this is: tells one atomic operation from the next.
__attribute__((noinline)) inline const void* code_address() { return __builtin_return_address(0); }

template <class T, class F>
__attribute__((always_inline)) inline T atomic(T* address, const F& next) {
  maybe_yield();
  note_atomic(address, sizeof(T), code_address());
  const Hidden hidden;
  const T before = *address;
  *address = next(before);
  return before;
}

}  // namespace simt

#define SIMT_ATOMIC(name, expression, ...)                                                 \
  template <class T>                                                                       \
  __forceinline__ T name(T* address, std::type_identity_t<T> value) {                      \
    static_assert(simt::is_one_of<T, __VA_ARGS__>, #name ": CUDA has none for this type"); \
    return simt::atomic(address, [value](T old) -> T { return expression; });              \
  }
SIMT_ATOMIC(atomicAdd, old + value, int, unsigned, unsigned long long, float, double)
SIMT_ATOMIC(atomicMax, old > value ? old : value, int, unsigned, long long, unsigned long long)
SIMT_ATOMIC(atomicOr, old | value, int, unsigned, unsigned long long)
SIMT_ATOMIC(atomicExch, (static_cast<void>(old), value), int, unsigned, unsigned long long, float)
#undef SIMT_ATOMIC

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  static_assert(simt::is_one_of<T, int, unsigned, unsigned long long, unsigned short>);
  return simt::atomic(address, [=](T old) { return old == expected ? value : old; });
}

// A load that sees what other threads write meanwhile.
template <class T>
T __ldcg(const T* address) {
  simt::maybe_yield();
  return *static_cast<const volatile T*>(address);
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline int __ffsll(long long x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(x)) + 1; }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }

// -- The runtime. All work is done when a call returns.

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
};
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace simt {

// These keep the error for cudaGetLastError, and return it.
cudaError_t record(cudaError_t error);
cudaError_t allow_shared_memory(const void* kernel, int bytes);
cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel);

}  // namespace simt

template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute, int value) {
  return simt::allow_shared_memory(reinterpret_cast<const void*>(kernel), value);
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
constexpr unsigned cudaHostAllocPortable = 1;
inline cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* memory) {
  free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  simt::charge_device("cudaMemsetAsync", {1, static_cast<double>(bytes), 0});
  memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  simt::charge_device("cudaMemcpyAsync", {1, static_cast<double>(bytes), 0});
  memcpy(to, from, bytes);
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const auto* address = reinterpret_cast<const void*>(kernel);
  if (const cudaError_t error = simt::check_launch(*config, address)) return error;
  // Parameters are passed by value, so each thread has its own.
  const auto run = [&](Parameters... parameters) {
    auto body = [&](const void* which) { reinterpret_cast<void (*)(Parameters...)>(which)(parameters...); };
    simt::launch(
        config->gridDim, config->blockDim, config->dynamicSmemBytes, address,
        [](void* context, const void* which) { (*static_cast<decltype(body)*>(context))(which); }, &body);
  };
  run(std::forward<Arguments>(arguments)...);
  return cudaSuccess;
}
