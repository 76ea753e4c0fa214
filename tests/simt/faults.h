// What the programs of planted faults share. `PROGRAM CASE good 20` prints a line for each of 20 seeds: what the case
// computed, or the error.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int kThreads = 128, kBlocks = 4;
constexpr unsigned kAll = 0xffffffffu;

template <class T>
T* shared_as() {
  return static_cast<T*>(simt_shared_memory());
}

// A heap block of the exact size, as a tensor has, filled with -1.
template <class T>
struct Array {
  explicit Array(int size) : values(size, static_cast<T>(-1)) { values.shrink_to_fit(); }
  T* data() { return values.data(); }
  std::vector<T> values;
};

template <class... Parameters, class... Arguments>
void launch(int blocks, size_t shared_bytes, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = static_cast<unsigned>(blocks);
  config.blockDim = kThreads;
  config.dynamicSmemBytes = shared_bytes;
  if (const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...)) {
    throw std::runtime_error(cudaGetErrorString(error));
  }
}

using Cases = std::map<std::string, std::vector<long> (*)(bool good)>;

inline int run_case(const Cases& cases, char** arguments) {
  const auto function = cases.at(arguments[1]);
  const bool good = std::string(arguments[2]) == "good";
  for (int seed = 0; seed < std::atoi(arguments[3]); ++seed) {
    simt_set_seed(static_cast<uint64_t>(seed));
    try {
      for (const long value : function(good)) printf("%ld ", value);
      printf("\n");
    } catch (const std::runtime_error& error) {
      printf("%s\n", error.what());
    }
    fflush(stdout);
  }
  return 0;
}

}  // namespace
