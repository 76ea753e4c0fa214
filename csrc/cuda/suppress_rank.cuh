// Ranks, in four ways. count_kernel: a lane owns a candidate and counts those before it; for short lists and batches.
// sort_kernel: a block sorts an image of up to 8,192. list_kernel and a sort of CUB's for any size. And a batch at a
// time, where few are wanted of many: choose takes the best of those that were in no batch yet, in any order, for
// count_kernel.
#pragma once

#include "suppress_wave.cuh"

#include <cub/block/block_radix_sort.cuh>

namespace tinyssd {

constexpr int kCountThreads = 256, kCountTile = 1024;

template <class T>
struct CountShared {
  Standing<T> tile[kCountTile];
  int before[kCountThreads / kWarp][kWarp];
  int valid;
};

template <class T>
__device__ __forceinline__ bool is_valid(Standing<T> one) {
  return static_cast<RankKey<T>>(one >> kIndexBits) != kNoCandidate<T>;
}

template <class T>
__device__ __forceinline__ int count_before(const Standing<T>* others, int from, int to, Standing<T> one) {
  constexpr int kAtOnce = 16;
  int before = 0;
  for (; from + kAtOnce <= to; from += kAtOnce) {
    TINYSSD_UNROLL
    for (int k = 0; k < kAtOnce; ++k) before += others[from + k] < one;
  }
  for (; from < to; ++from) before += others[from] < one;
  return before;
}

// A block owns 32 candidates of an image, or of its batch, and each of its warps a part of the others.
template <class T>
__global__ void __launch_bounds__(kCountThreads)
    count_kernel(const Candidates<T> in, const Waves<T> waves, int blocks_an_image) {
  auto& shared = shared_memory<CountShared<T>>();
  const int64_t image = blockIdx.x / blocks_an_image;
  const int first = static_cast<int>(blockIdx.x % blocks_an_image) * kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const bool in_batches = waves.batch != nullptr;
  if (in_batches && waves.progress[image].done) return;
  const int size = in_batches ? waves.progress[image].count : static_cast<int>(in.size);
  if (first >= size) return;
  const auto at = [&](int i) {
    return in_batches ? waves.batch[image * waves.stride + i] : standing<T>(in.key(image, i), i);
  };
  const Standing<T> own = first + lane < size ? at(first + lane) : 0;
  if (threadIdx.x == 0) shared.valid = 0;
  int before = 0, valid = 0;
  for (int base = 0; base < size; base += kCountTile) {
    const int length = smaller(size - base, kCountTile);
    __syncthreads();
    for (int k = static_cast<int>(threadIdx.x); k < length; k += kCountThreads) {
      shared.tile[k] = at(base + k);
      valid += is_valid<T>(shared.tile[k]);
    }
    __syncthreads();
    const int part = (length + kCountThreads / kWarp - 1) / (kCountThreads / kWarp);
    before += count_before<T>(shared.tile, warp * part, smaller((warp + 1) * part, length), own);
  }
  shared.before[warp][lane] = before;
  if (first == 0 && valid != 0) atomicAdd(&shared.valid, valid);
  __syncthreads();
  if (threadIdx.x == 0 && first == 0 && !in_batches) waves.progress[image].count = shared.valid;
  if (warp != 0 || first + lane >= size || !is_valid<T>(own)) return;
  int rank = 0;
  for (int k = 0; k < kCountThreads / kWarp; ++k) rank += shared.before[k][lane];
  waves.order[image * waves.stride + rank] = static_cast<uint32_t>(own);
}

constexpr int kSortThreads = 512, kSortItems = 16;
template <class T>
constexpr bool kBlockSorts = sizeof(T) == 4;  // keys of 64 bits would not fit the registers

template <class T>
using BlockSort = cub::BlockRadixSort<RankKey<T>, kSortThreads, kSortItems, uint16_t>;

template <class T>
__global__ void __launch_bounds__(kSortThreads) sort_kernel(const Candidates<T> in, const Waves<T> waves) {
  auto& shared = shared_memory<typename BlockSort<T>::TempStorage>();
  const int64_t image = blockIdx.x;
  RankKey<T> keys[kSortItems];
  uint16_t candidates[kSortItems];
  for (int i = 0; i < kSortItems; ++i) {
    const int candidate = static_cast<int>(threadIdx.x) * kSortItems + i;
    keys[i] = candidate < in.size ? in.key(image, candidate) : kNoCandidate<T>;
    candidates[i] = static_cast<uint16_t>(candidate);
  }
  BlockSort<T>(shared).SortBlockedToStriped(keys, candidates);
  int count = 0;
  for (int i = 0; i < kSortItems; ++i) {
    const int rank = i * kSortThreads + static_cast<int>(threadIdx.x);
    count += __syncthreads_count(keys[i] != kNoCandidate<T>);
    if (keys[i] != kNoCandidate<T>) waves.order[image * waves.stride + rank] = candidates[i];
  }
  if (threadIdx.x == 0) waves.progress[image].count = count;
}

// What the sort of CUB's takes.
constexpr int kListThreads = 256;
template <class T>
__global__ void __launch_bounds__(kListThreads) list_kernel(
    const Candidates<T> in, const Waves<T> waves, int64_t total,
    RankKey<T>* __restrict__ keys,      // [total]
    uint32_t* __restrict__ candidates,  // [total]
    int* __restrict__ offsets) {        // [B + 1]
  const int64_t i = int64_t{blockIdx.x} * kListThreads + threadIdx.x;
  const int64_t image = i / in.size, candidate = i - image * in.size;
  const bool exists = i < total;
  const RankKey<T> key = exists ? in.key(image, candidate) : kNoCandidate<T>;
  if (exists) {
    keys[i] = key;
    candidates[i] = static_cast<uint32_t>(candidate);
    if (candidate == 0) offsets[image] = static_cast<int>(i);
    if (i == total - 1) offsets[image + 1] = static_cast<int>(total);
  }
  // A warp has candidates of few images: the first lane counts for all of its image.
  const bool valid = key != kNoCandidate<T>;
  const int64_t first = __shfl_sync(kAllLanes, image, 0);
  const unsigned same = __ballot_sync(kAllLanes, valid && image == first);
  if (threadIdx.x % kWarp == 0 && same != 0) atomicAdd(&waves.progress[image].count, __popc(same));
  if (valid && image != first) atomicAdd(&waves.progress[image].count, 1);
}

// -- A batch at a time

constexpr int kLog2Bins = 11, kBins = 1 << kLog2Bins;

template <class T, int kThreads>
struct ChooseShared {
  static constexpr int kWords = kIndexBits / 32 + sizeof(RankKey<T>) / 4;
  using Scan = cub::BlockScan<int, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  typename Scan::TempStorage scan;
  int bins[kBins];
  unsigned ones[kWords], zeros[kWords];  // bits that are 1 (0) in one of the candidates
  int count, below, bin;
};

// f(standing) for each candidate of the image, from the list if all of them fit there. For a block.
template <int kThreads, class T, class F>
__device__ __forceinline__ void each_candidate(const Candidates<T>& in, int64_t image, const F& f) {
  if (in.list != nullptr && in.list_sizes[image] <= in.list_capacity) {
    const Standing<T>* list = in.list + image * in.list_capacity;
    const int size = static_cast<int>(in.list_sizes[image]);
    constexpr int kAtOnce = 4;
    for (int base = static_cast<int>(threadIdx.x); base < size; base += kAtOnce * kThreads) {
      Standing<T> ones[kAtOnce];
      TINYSSD_UNROLL
      for (int k = 0; k < kAtOnce; ++k) ones[k] = list[smaller(base + k * kThreads, size - 1)];
      TINYSSD_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        if (base + k * kThreads < size) f(ones[k]);
      }
    }
    return;
  }
  for (int64_t i = threadIdx.x; i < in.size; i += kThreads) {
    const RankKey<T> key = in.key(image, i);
    if (key != kNoCandidate<T>) f(standing<T>(key, i));
  }
}

// What the next batch ends before: the best that were in none yet, a batch of them at the most, half of one at the least
// where there are enough. Digit by digit, each time in the bin that holds the batch's end. For a block.
template <int kThreads, class T>
__device__ Standing<T> end_of_batch(
    const Candidates<T>& in, int64_t image, Standing<T> floor, int size, ChooseShared<T, kThreads>& shared) {
  using S = Standing<T>;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < ChooseShared<T, kThreads>::kWords) shared.ones[thread] = shared.zeros[thread] = 0;
  if (thread == 0) shared.count = shared.below = 0;
  __syncthreads();
  unsigned count = 0;
  S ones = 0, zeros = 0;
  each_candidate<kThreads>(in, image, [&](S one) {
    if (one < floor) return;
    ++count;
    ones |= one;
    zeros |= ~one;
  });
  if (count != 0) atomicAdd(&shared.count, static_cast<int>(count));
  for (int word = 0; word < ChooseShared<T, kThreads>::kWords; ++word) {
    const unsigned one = __reduce_or_sync(kAllLanes, static_cast<unsigned>(ones >> (32 * word)));
    const unsigned zero = __reduce_or_sync(kAllLanes, static_cast<unsigned>(zeros >> (32 * word)));
    if (thread % kWarp == 0) {
      atomicOr(&shared.ones[word], one);
      atomicOr(&shared.zeros[word], zero);
    }
  }
  __syncthreads();
  if (shared.count <= size) return ~S(0);
  int open = 1;  // so many of the lowest bits are not the same in all that are left
  S end = 0;
  for (int word = 0; word < ChooseShared<T, kThreads>::kWords; ++word) {
    const unsigned differ = shared.ones[word] & shared.zeros[word];
    if (differ != 0) open = 32 * word + 32 - __clz(static_cast<int>(differ));
    end |= static_cast<S>(shared.ones[word]) << (32 * word);
  }
  const auto above = [](S one, int bits) { return one >> (bits - 1) >> 1; };
  end = above(end, open) << (open - 1) << 1;
  for (;;) {
    const int shift = larger(open - kLog2Bins, 0), mask = (1 << (open - shift)) - 1;
    for (int bin = thread; bin < kBins; bin += kThreads) shared.bins[bin] = 0;
    __syncthreads();
    each_candidate<kThreads>(in, image, [&](S one) {
      if (one >= floor && above(one, open) == above(end, open)) {
        atomicAdd(&shared.bins[static_cast<int>(one >> shift) & mask], 1);
      }
    });
    __syncthreads();
    constexpr int kEach = kBins / kThreads;
    int sizes[kEach], before, all, sum = 0;
    for (int k = 0; k < kEach; ++k) sum += sizes[k] = shared.bins[thread * kEach + k];
    typename ChooseShared<T, kThreads>::Scan(shared.scan).ExclusiveSum(sum, before, all);
    before += shared.below;
    __syncthreads();
    for (int k = 0; k < kEach; before += sizes[k], ++k) {
      if (before > size || before + sizes[k] <= size) continue;
      shared.bin = thread * kEach + k;  // the one bin in which the batch is full
      shared.below = before;
    }
    __syncthreads();
    end |= static_cast<S>(shared.bin) << shift;
    if (2 * shared.below >= size || shift == 0) return end;
    open = shift;
  }
}

// The next batch of an image, of `most` at the most, unsorted. For a block.
template <int kThreads, class T>
__device__ void choose(
    const Candidates<T>& in, const Waves<T>& waves, int64_t image, int most, ChooseShared<T, kThreads>& shared) {
  using S = Standing<T>;
  const S floor = waves.floors[image];
  const S end = end_of_batch<kThreads>(in, image, floor, smaller(most, static_cast<int>(waves.stride)), shared);
  __syncthreads();
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  each_candidate<kThreads>(in, image, [&](S one) {
    if (one >= floor && one < end) waves.batch[image * waves.stride + atomicAdd(&shared.count, 1)] = one;
  });
  __syncthreads();
  if (threadIdx.x != 0) return;
  Progress& progress = waves.progress[image];
  waves.floors[image] = end;
  progress.count = shared.count;
  progress.next = progress.waiting = progress.current = 0;
  progress.span = static_cast<int>(waves.stride);
  progress.done = shared.count == 0;
  if (progress.kept == 0) waves.counts[image] = 0;
}

template <class T>
__global__ void __launch_bounds__(kImageThreads, 1) choose_kernel(const Candidates<T> in, const Waves<T> waves) {
  auto& shared = shared_memory<ChooseShared<T, kImageThreads>>();
  if (!waves.progress[blockIdx.x].done) choose<kImageThreads>(in, waves, blockIdx.x, kImageThreads, shared);
}

}  // namespace tinyssd
