// What every CUDA op needs of the runtime: the device and stream of a tensor, launches that are checked, shared and
// scratch memory. Kernels are launched through cudaLaunchKernelEx and take all their shared memory from shared_memory,
// so that a host compiler can read the files too: tests/simt runs the kernels without a GPU.
#pragma once

#include "../box.h"
#include "../checks.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#ifndef USE_CUDA
// Declared by the header above only where torch itself was built with CUDA; they live in libtorch_cuda.
extern "C" {
struct CUDAGuardOpaque;
AOTITorchError aoti_torch_create_cuda_guard(int32_t device_index, CUDAGuardOpaque** guard);
AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardOpaque* guard);
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
}
#endif

// Before a loop of a constant number of turns: the turns become one piece of code, whose loads are under way together.
#if defined(__CUDACC__)
#define TINYSSD_UNROLL _Pragma("unroll")
#else
#define TINYSSD_UNROLL _Pragma("GCC unroll 32")
#endif

namespace tinyssd {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline void check_cuda(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not find it again
  throw std::runtime_error(std::string("CUDA error in tinyssd_ops: ") + cudaGetErrorString(error));
}

inline std::mutex shared_memory_mutex;
inline std::map<std::pair<const void*, int32_t>, size_t> allowed_shared_memory;

// Lets a kernel ask for this much shared memory. The driver is told once a device, kernel and size.
inline void allow_shared_memory(const void* kernel, int32_t device, size_t bytes) {
  constexpr size_t kAlwaysAllowed = 48 * 1024;
  if (bytes <= kAlwaysAllowed) return;
  const std::lock_guard lock(shared_memory_mutex);
  size_t& most = allowed_shared_memory[{kernel, device}];
  if (bytes <= most) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  most = bytes;
}

// A number in host memory that every device can write to.
class PinnedNumber {
 public:
  PinnedNumber() {
    void* memory = nullptr;
    check_cuda(cudaHostAlloc(&memory, sizeof(int64_t), cudaHostAllocPortable));
    value_ = static_cast<int64_t*>(memory);
  }
  ~PinnedNumber() { cudaFreeHost(value_); }  // at the end of the process it may fail, and matters no more
  PinnedNumber(const PinnedNumber&) = delete;
  PinnedNumber& operator=(const PinnedNumber&) = delete;
  int64_t* get() const { return value_; }

 private:
  int64_t* value_ = nullptr;
};

// Makes a tensor's device the current one for a scope, and knows its current stream.
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor& tensor) : device_(tensor.get_device_index()) {
    CUDAGuardOpaque* guard = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(device_, &guard));
    guard_.reset(guard);
    // The guard speaks to libtorch's CUDA runtime. This library has one of its own, with a current device of its own;
    // the guard's end makes the device before current again for the driver, which both go by.
    check_cuda(cudaSetDevice(device_));
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  int attribute(cudaDeviceAttr attribute) const {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, attribute, device_));
    return value;
  }

  void fill_bytes(void* memory, int value, int64_t bytes) const {
    if (bytes > 0) check_cuda(cudaMemsetAsync(memory, value, bytes, stream_));
  }

  // Waits for the stream, then returns the number at an address of the device. A copy to memory that is not pinned would
  // go by way of the driver's own.
  int64_t wait_for(const int64_t* number) const {
    static thread_local const PinnedNumber arrived;
    check_cuda(cudaMemcpyAsync(arrived.get(), number, sizeof(*number), cudaMemcpyDeviceToHost, stream_));
    check_cuda(cudaStreamSynchronize(stream_));
    return *arrived.get();
  }

  // The arguments are converted to the kernel's parameter types.
  template <class... Params, class... Args>
  void launch(void (*kernel)(Params...), int64_t blocks, dim3 threads, size_t shared_bytes, const Args&... args) const {
    expect(blocks <= INT32_MAX, "the input is too large for one CUDA launch");
    allow_shared_memory(reinterpret_cast<const void*>(kernel), device_, shared_bytes);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = threads;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
  }

 private:
  struct DeleteGuard {
    void operator()(CUDAGuardOpaque* guard) const { aoti_torch_delete_cuda_guard(guard); }
  };
  int32_t device_;
  std::unique_ptr<CUDAGuardOpaque, DeleteGuard> guard_;
  cudaStream_t stream_ = nullptr;
};

// The block's shared memory as one object.
template <class T>
__device__ __forceinline__ T& shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return *reinterpret_cast<T*>(dynamic_shared_memory);
#else
  return *static_cast<T*>(simt_shared_memory());
#endif
}

TINYSSD_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Device memory for the time of a call: arrays are added, then allocated together, then asked for.
class Scratch {
 public:
  template <class T>
  struct Array {
    int64_t begin, end;
  };
  template <class T>
  Array<T> add(int64_t count) {
    const int64_t begin = bytes_, end = begin + count * static_cast<int64_t>(sizeof(T));
    bytes_ = after(end);
    return {begin, end};
  }
  void allocate(const Tensor& like) {
    memory_ = new_tensor(like, {larger(bytes_, int64_t{1})}, ScalarType::Byte);
    base_ = static_cast<unsigned char*>(memory_->mutable_data_ptr());
  }
  // nullptr before the allocation.
  template <class T>
  T* get(Array<T> array) const {
    if (base_ == nullptr) return nullptr;
#if !defined(__CUDACC__)
    simt_guard(base_ + array.end, after(array.end) - array.end);
#endif
    return reinterpret_cast<T*>(base_ + array.begin);
  }

 private:
  // Where the next array begins: never without a gap, which the tests watch.
  static int64_t after(int64_t end) {
    constexpr int64_t kAlignment = 256;
    return (end / kAlignment + 1) * kAlignment;
  }

  int64_t bytes_ = 0;
  std::optional<Tensor> memory_;
  unsigned char* base_ = nullptr;
};

// Numbers that are moved at once, 16 bytes at the most, where the compiler would move one after the other.
template <class T, int kSize>
struct alignas(kSize * sizeof(T)) Pack {
  T values[kSize];
};

template <class T>
__device__ __forceinline__ Box<T> load_box(const Box<T>* box) {
  constexpr int kParts = sizeof(Box<T>) / 16, kEach = 16 / sizeof(T);
  T corners[4];
  for (int part = 0; part < kParts; ++part) {
    const auto pack = reinterpret_cast<const Pack<T, kEach>*>(box)[part];
    for (int i = 0; i < kEach; ++i) corners[part * kEach + i] = pack.values[i];
  }
  return {corners[0], corners[1], corners[2], corners[3]};
}

template <class T>
__device__ __forceinline__ void store_box(Box<T>* target, const Box<T>& box) {
  constexpr int kParts = sizeof(Box<T>) / 16, kEach = 16 / sizeof(T);
  const T corners[4] = {box.x1, box.y1, box.x2, box.y2};
  for (int part = 0; part < kParts; ++part) {
    Pack<T, kEach> pack;
    for (int i = 0; i < kEach; ++i) pack.values[i] = corners[part * kEach + i];
    reinterpret_cast<Pack<T, kEach>*>(target)[part] = pack;
  }
}

// Contiguous, of this dtype, and at an address that load_box can read from: a view may begin anywhere.
inline Tensor boxes_as(const Tensor& tensor, ScalarType dtype) {
  const Tensor result = contiguous_as(tensor, dtype);
  const bool aligned = reinterpret_cast<uintptr_t>(result.const_data_ptr()) % 16 == 0;
  return aligned ? result : torch::stable::clone(result);
}

}  // namespace tinyssd
