// Kernels with a planted fault, each beside the same kernel without it: tests/test_simt.py shows that the machine
// tells them apart.
#include "faults.h"

#include <cub/cub.cuh>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <utility>

namespace {

constexpr int kItems = 3;

// -- A reduction through shared memory.

__global__ void sum_kernel(int barrier, int* __restrict__ out) {
  int* partial = shared_as<int>();
  const int thread = static_cast<int>(threadIdx.x);
  partial[thread] = thread;
  for (int step = kThreads / 2; step > 0; step /= 2) {
    if (barrier) __syncthreads();
    if (thread < step) partial[thread] += partial[thread + step];
  }
  if (thread == 0) out[blockIdx.x] = partial[0];
}

std::vector<long> sum(bool good) {
  Array<int> out(kBlocks);
  launch(kBlocks, kThreads * sizeof(int), sum_kernel, good, out.data());
  return {out.values.begin(), out.values.end()};
}

// -- Indices one beyond the end.

__global__ void shared_neighbour_kernel(int last, int* __restrict__ out) {
  int* values = shared_as<int>();
  const int thread = static_cast<int>(threadIdx.x);
  values[thread] = thread;
  __syncthreads();
  out[thread] = values[std::min(thread + 1, last)];
}

std::vector<long> shared_neighbour(bool good) {
  Array<int> out(kThreads);
  launch(1, kThreads * sizeof(int), shared_neighbour_kernel, good ? kThreads - 1 : kThreads, out.data());
  return {std::accumulate(out.values.begin(), out.values.end(), 0L)};
}

__global__ void global_neighbour_kernel(const int* __restrict__ in, int last, int* __restrict__ out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  out[i] = in[std::min(i + 1, last)];
}

std::vector<long> global_neighbour(bool good) {
  const int size = kBlocks * kThreads;
  Array<int> in(size), out(size);
  launch(kBlocks, 0, global_neighbour_kernel, in.data(), good ? size - 1 : size, out.data());
  return {std::accumulate(out.values.begin(), out.values.end(), 0L)};
}

// Two arrays in one allocation, with a gap between them.
std::vector<long> gap(bool good) {
  const int size = kBlocks * kThreads;
  Array<int> both(2 * size + 8), out(size);
  simt_guard(both.data() + size, 8 * sizeof(int));
  launch(kBlocks, 0, global_neighbour_kernel, both.data(), good ? size - 1 : size, out.data());
  return {std::accumulate(out.values.begin(), out.values.end(), 0L)};
}

__global__ void misaligned_kernel(const float* __restrict__ in, float* __restrict__ out) {
  out[threadIdx.x] = reinterpret_cast<const float4*>(in)->y;
}

std::vector<long> misaligned(bool good) {
  Array<float> in(9), out(kThreads);
  launch(1, 0, misaligned_kernel, in.data() + (good ? 4 : 3), out.data());
  return {static_cast<long>(out.values[5])};
}

// -- The index of the largest of many equal values.

__global__ void argmax_kernel(int by_arrival, const int* __restrict__ values, unsigned long long* __restrict__ best) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (by_arrival) {
    if (values[i] == 7) atomicExch(best, i);
  } else {
    // The larger value; of equal ones the lower index.
    atomicMax(best, static_cast<unsigned long long>(values[i]) << 32 | (kAll - i));
  }
}

std::vector<long> argmax(bool good) {
  Array<int> values(kBlocks * kThreads);
  for (size_t i = 0; i < values.values.size(); ++i) values.values[i] = i % 50 == 49 ? 7 : static_cast<int>(i % 7);
  Array<unsigned long long> best(1);
  best.values[0] = 0;
  launch(kBlocks, 0, argmax_kernel, !good, values.data(), best.data());
  return {static_cast<long>(good ? kAll - static_cast<unsigned>(best.values[0]) : best.values[0])};
}

// -- A barrier that not all threads reach, though all go on.

__global__ void barrier_kernel(int good, int* __restrict__ out) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= 96) return;  // holds up nobody
  if (good || thread < 40) __syncthreads();
  out[thread] = __syncthreads_count(thread % 3 == 0);
}

std::vector<long> barrier(bool good) {
  Array<int> out(kThreads);
  launch(1, 0, barrier_kernel, good, out.data());
  return {out.values[5], out.values[127]};
}

__global__ void two_barriers_kernel(int good, int* __restrict__ out) {
  if (good || threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

std::vector<long> two_barriers(bool good) {
  Array<int> out(kThreads);
  launch(1, 0, two_barriers_kernel, good, out.data());
  return {out.values[3]};
}

// -- Warp operations that lack a lane, or mix two operations.

__global__ void missing_lane_kernel(int good, int* __restrict__ out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 9 && !good) return;
  out[threadIdx.x] = __shfl_xor_sync(kAll, lane, 1);
}

std::vector<long> missing_lane(bool good) {
  Array<int> out(kThreads);
  launch(1, 0, missing_lane_kernel, good, out.data());
  return {out.values[4], out.values[37]};
}

__global__ void missing_lane_at_barrier_kernel(int good, int* __restrict__ out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (good || lane != 9) out[threadIdx.x] = __any_sync(kAll, lane < 4);
  __syncthreads();
}

std::vector<long> missing_lane_at_barrier(bool good) {
  Array<int> out(kThreads);
  launch(1, 0, missing_lane_at_barrier_kernel, good, out.data());
  return {out.values[4]};
}

__global__ void halves_kernel(int good, unsigned* __restrict__ out) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  // Each half of a warp may go its own way, if its masks say so.
  out[threadIdx.x] =
      lane < 16 ? __reduce_or_sync(good ? half : kAll, lane) : __reduce_max_sync(good ? half : kAll, lane);
}

std::vector<long> halves(bool good) {
  Array<unsigned> out(kThreads);
  launch(1, 0, halves_kernel, good, out.data());
  return {out.values[0], out.values[127]};
}

__global__ void outsider_kernel(int good, int* __restrict__ out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane < 8) out[threadIdx.x] = __any_sync(good ? 0xffu : 0x7fu, lane == 2);
}

std::vector<long> outsider(bool good) {
  Array<int> out(kThreads);
  launch(1, 0, outsider_kernel, good, out.data());
  return {out.values[0], out.values[8]};
}

// -- Threads that wait for memory: for a block that cannot come, or for one another.

__global__ void spin_kernel(int flag, int* __restrict__ flags) {
  if (threadIdx.x == 40) atomicExch(flags + blockIdx.x, 1);
  while (__ldcg(flags + flag) != 1) {
  }
}

std::vector<long> spin(bool good) {
  Array<int> flags(2);
  launch(1, 0, spin_kernel, good ? 0 : 1, flags.data());
  return {flags.values[0]};
}

// -- Loops without an end: with a barrier in each turn, as when a flag is cleared again; and one that meets nobody.

__global__ void rounds_kernel(int good, int* __restrict__ out) {
  int& done = *shared_as<int>();
  int round = 0;
  do {
    __syncthreads();
    if (threadIdx.x == 0) done = ++round >= 3;
    __syncthreads();
    if (threadIdx.x == 1 && !good) done = 0;
    __syncthreads();
  } while (!done);
  out[threadIdx.x] = round;
}

std::vector<long> rounds(bool good) {
  Array<int> out(kThreads);
  launch(1, sizeof(int), rounds_kernel, good, out.data());
  return {out.values[0]};
}

__global__ void stride_kernel(unsigned step, unsigned* __restrict__ out) {
  unsigned at = threadIdx.x;
  while (at < 1000) at += step;
  out[threadIdx.x] = at;
}

std::vector<long> stride(bool good) {
  Array<unsigned> out(kThreads);
  launch(1, 0, stride_kernel, good ? 128u : 0u, out.data());
  return {static_cast<long>(out.values[5])};
}

// -- CUB: a scan and a sort in the same storage, with and without the barrier between them.

using Scan = cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
using Sort = cub::BlockRadixSort<unsigned, kThreads, kItems, int>;

union Storage {
  Scan::TempStorage scan;
  Sort::TempStorage sort;
};

__global__ void scan_and_sort_kernel(int barrier, const unsigned* __restrict__ in, int* __restrict__ out) {
  auto& storage = *shared_as<Storage>();
  const int thread = static_cast<int>(threadIdx.x);
  unsigned keys[kItems];
  int values[kItems], before[kItems], total;
  for (int i = 0; i < kItems; ++i) {
    values[i] = thread * kItems + i;
    keys[i] = in[values[i]];
  }
  Scan(storage.scan).ExclusiveSum(values, before, total);
  if (barrier) __syncthreads();
  for (int i = 0; i < kItems; ++i) out[thread * kItems + i] = before[i] + total;
  Sort(storage.sort).SortBlockedToStriped(keys, values);
  for (int i = 0; i < kItems; ++i) out[(kItems + i) * kThreads + thread] = values[i];
}

std::vector<long> scan_and_sort(bool good) {
  const int size = kThreads * kItems;
  Array<unsigned> in(size);
  std::mt19937 numbers(1);
  for (unsigned& key : in.values) key = static_cast<unsigned>(numbers()) >> 24;
  Array<int> out(2 * size);
  launch(1, sizeof(Storage), scan_and_sort_kernel, good, in.data(), out.data());

  std::vector<int> expected(size);
  std::iota(expected.begin(), expected.end(), 0);
  std::stable_sort(expected.begin(), expected.end(), [&](int a, int b) { return in.values[a] < in.values[b]; });
  long wrong = 0, checksum = 0;
  for (int i = 0; i < size; ++i) {
    wrong += out.values[i] != (size * (size - 1) + i * (i - 1)) / 2 || out.values[size + i] != expected[i];
    checksum = 31 * checksum % 1000003 + out.values[i] + out.values[size + i];
  }
  return good ? std::vector{wrong} : std::vector{wrong, checksum};
}

// -- What has no faulty twin.

std::vector<long> device_wide(bool) {
  const int size = 1000;
  Array<unsigned> keys(size), sorted(size);
  Array<int> values(size), permuted(size), sums(size);
  for (int i = 0; i < size; ++i) keys.values[i] = 1000 - i / 2, values.values[i] = i;
  const int offsets[] = {0, 400, 400, 1000};
  long wrong = 0;
  // Each call twice, as CUB wants: how much storage, then the work.
  const auto call = [&](const std::function<cudaError_t(void*, size_t&)>& function) {
    size_t bytes = 0;
    wrong += function(nullptr, bytes) != cudaSuccess || bytes == 0;
    Array<unsigned char> storage(static_cast<int>(bytes));
    wrong += function(storage.data(), bytes) != cudaSuccess;
    wrong += function(storage.data(), --bytes) == cudaSuccess;
  };
  call([&](void* storage, size_t& bytes) {
    return cub::DeviceSegmentedRadixSort::SortPairs(
        storage, bytes, keys.data(), sorted.data(), values.data(), permuted.data(), size, 3, offsets, offsets + 1);
  });
  for (const auto& [begin, end] : {std::pair(0, 400), std::pair(400, 1000)}) {
    for (int i = begin; i < end; ++i) {
      const int mirrored = begin + end - 1 - i;
      wrong += permuted.values[i] != (mirrored ^ 1) || sorted.values[i] != keys.values[mirrored];
    }
  }
  call([&](void* storage, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(
        storage, bytes, keys.data(), sorted.data(), values.data(), permuted.data(), size);
  });
  for (int i = 0; i < size; ++i) wrong += permuted.values[i] != ((size - 1 - i) ^ 1);
  call([&](void* storage, size_t& bytes) {
    return cub::DeviceScan::ExclusiveSum(storage, bytes, values.data(), sums.data(), size);
  });
  for (int i = 0; i < size; ++i) wrong += sums.values[i] != i * (i - 1) / 2;
  return {wrong};
}

__global__ void nothing_kernel() {}

// As CUDA answers: too much shared memory, unless asked for before; no threads; too many; no blocks.
std::vector<long> refusals(bool) {
  std::vector<long> errors;
  const auto attempt = [&](dim3 grid, dim3 block, size_t bytes) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = bytes;
    errors.push_back(cudaLaunchKernelEx(&config, nothing_kernel));
    if (cudaGetLastError() != errors.back() || cudaGetLastError() != cudaSuccess) errors.push_back(-1);
  };
  attempt(1, 32, 100000);
  errors.push_back(cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000));
  attempt(1, 32, 100000);
  simt_set_shared_memory_limit(99999);
  attempt(1, 32, 100000);
  errors.push_back(cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000));
  cudaGetLastError();
  attempt(0, 32, 0);
  attempt(1, 0, 0);
  attempt(1, dim3(32, 33), 0);
  attempt(1, dim3(16, 8, 8), 0);
  return errors;
}

}  // namespace

int main(int, char** arguments) {
  const Cases cases = {
      {"argmax", argmax},
      {"barrier", barrier},
      {"device_wide", device_wide},
      {"gap", gap},
      {"global_neighbour", global_neighbour},
      {"halves", halves},
      {"misaligned", misaligned},
      {"missing_lane", missing_lane},
      {"missing_lane_at_barrier", missing_lane_at_barrier},
      {"outsider", outsider},
      {"refusals", refusals},
      {"rounds", rounds},
      {"scan_and_sort", scan_and_sort},
      {"shared_neighbour", shared_neighbour},
      {"spin", spin},
      {"stride", stride},
      {"sum", sum},
      {"two_barriers", two_barriers},
  };
  return run_case(cases, arguments);
}
