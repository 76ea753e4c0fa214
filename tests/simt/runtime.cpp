// Of CUDA's runtime, of AddressSanitizer and of libtorch what kernels, their host code and the machine ask for.
#include "block.h"
#include "include/cuda_runtime.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

// Absent where AddressSanitizer is.
extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(void const volatile* begin, size_t bytes);
__attribute__((weak)) void __sanitizer_symbolize_pc(void* pc, const char* format, char* text, size_t bytes);
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());
}

namespace simt {
namespace {

// What a kernel may always ask for, and what it may ask for after cudaFuncSetAttribute.
constexpr int kSharedMemoryByDefault = 48 << 10, kH100SharedMemory = 232448;

cudaError_t last_error = cudaSuccess;
std::map<const void*, int> allowed;  // shared memory, by kernel
int limit = kH100SharedMemory;

// The first of addr2line's lines that is wanted.
std::string described(const void* address, const char* options, bool (*wanted)(const std::string&)) {
  Dl_info info = {};
  if (dladdr(address, &info) == 0) return "?";
  const auto offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(info.dli_fbase);
  char text[4200];
  snprintf(text, sizeof(text), "addr2line -s %s -e '%s' 0x%zx", options, info.dli_fname, static_cast<size_t>(offset));
  FILE* output = popen(text, "r");
  if (output == nullptr) return "?";
  std::string found = "?";
  while (fgets(text, sizeof(text), output) != nullptr) {
    const std::string line(text, strcspn(text, "\n"));
    if (found == "?" && wanted(line)) found = line.substr(0, line.find(" (discriminator"));
  }
  pclose(output);
  return found;
}

}  // namespace

std::string name_of_function(const void* address) {
  if (&__sanitizer_symbolize_pc != nullptr) {
    char name[1024] = "?";
    // A byte into it, as the symbolizer takes what it gets for a return address.
    __sanitizer_symbolize_pc(static_cast<char*>(const_cast<void*>(address)) + 1, "%f", name, sizeof(name));
    return name;
  }
  return described(address, "-f -C", [](const std::string&) { return true; });
}

std::string line_of_code(const void* address) {
  // A byte back, into the call; beyond the stand-ins that are inlined there.
  return described(static_cast<const char*>(address) - 1, "-i", [](const std::string& line) {
    return line.find("cuda_runtime.h") == std::string::npos;
  });
}

void set_death_callback(void (*callback)()) {
  if (&__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(callback);
}

cudaError_t record(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > limit) return record(cudaErrorInvalidValue);
  allowed[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const bool grid_fits = grid.x - 1 < 0x7fffffff && grid.y - 1 < 65535 && grid.z - 1 < 65535;  // 0 wraps around
  const bool block_fits =
      block.x - 1 < 1024 && block.y - 1 < 1024 && block.z - 1 < 64 && uint64_t{block.x} * block.y * block.z <= 1024;
  if (!grid_fits || !block_fits) return record(cudaErrorInvalidConfiguration);
  const int most = std::max(kSharedMemoryByDefault, std::min(limit, allowed[kernel]));
  return record(config.dynamicSmemBytes <= static_cast<size_t>(most) ? cudaSuccess : cudaErrorInvalidValue);
}

}  // namespace simt

cudaError_t cudaGetLastError() { return std::exchange(simt::last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
  }
  return "unrecognized error code";
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = simt::limit;
  return cudaSuccess;
}

// Freeing the memory ends it.
void simt_guard(void* begin, size_t bytes) {
  if (&__asan_poison_memory_region != nullptr) __asan_poison_memory_region(begin, bytes);
}

void simt_set_shared_memory_limit(int bytes) { simt::limit = bytes; }

extern "C" {
// What libtorch has with CUDA only: one device, whose stream is the null stream.
int32_t aoti_torch_create_cuda_guard(int32_t, void** guard) {
  *guard = nullptr;
  return 0;
}
int32_t aoti_torch_delete_cuda_guard(void*) { return 0; }
int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
}
