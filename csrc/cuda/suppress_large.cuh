// Suppression of any number of candidates in O(N) memory, in a constant number of launches, everything in global memory.
// A thread owns a candidate: rank_kernel and a sort (or sort_kernel), place_kernel, a scan of the buckets' sizes,
// fill_kernel, judge_kernel a few times, finish_kernel (a block owns an image and goes through it by rank until nothing
// is undecided), flag_kernel, a scan of the flags, keep_kernel. Ranks and slots are numbered through the whole batch:
// image b has ranks from b * N.
#pragma once

#include "suppress.cuh"

#include <cub/block/block_radix_sort.cuh>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_segmented_radix_sort.cuh>

namespace tinyssd {

constexpr int kLargeThreads = 256, kFinishThreads = 512;
constexpr int kJudgeRounds = 8;  // over the whole batch; few chains are longer, and finish_kernel is slow
constexpr int kFinishSpan = 16;  // states that a thread of finish_kernel looks at before it goes into detail
constexpr int64_t kMostBuckets = int64_t{1} << 18;  // an image; beyond that buckets grow

// The arrays of a call.
template <class T>
struct LargeArrays {
  int64_t total;               // B * N
  int64_t buckets;             // an image; one more holds the irregular boxes
  RankKey<T>* keys;            // [total], sorted
  uint32_t* order;             // [total], by rank: the candidate within its image
  uint32_t* starts;            // [B * (buckets + 1) + 1]; sizes before the scan
  unsigned long long* levels;  // [B]
  uint32_t* buckets_of;        // [total], by rank
  uint32_t* positions;         // [total], by rank: within the bucket
  Box<T>* boxes;               // [total], by slot
  uint32_t* ranks;             // [total], by slot
  uint32_t* states;            // [total], by rank
  uint32_t* flags;             // [total + 1], by rank: kept; then how many are before

  __device__ Field<T, uint32_t> field(int64_t image, T threshold) const {
    return {boxes,         ranks,    starts + image * (buckets + 1), order, states, static_cast<unsigned>(buckets - 1),
            levels[image], threshold};
  }
};

template <class T>
__global__ void __launch_bounds__(kLargeThreads) rank_kernel(
    const Candidates<T> in, int64_t total,
    RankKey<T>* __restrict__ keys,      // [total]
    uint32_t* __restrict__ candidates,  // [total]
    int* __restrict__ offsets) {        // [B + 1]
  const int64_t i = int64_t{blockIdx.x} * kLargeThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t image = i / in.size, candidate = i - image * in.size;
  keys[i] = in.key(image, candidate);
  candidates[i] = static_cast<uint32_t>(candidate);
  if (candidate == 0) offsets[image] = static_cast<int>(i);
  if (i == total - 1) offsets[image + 1] = static_cast<int>(total);
}

// Instead of rank_kernel and a sort of CUB's where an image's candidates fit one block: those give a segment one block in
// each of many launches.
constexpr int kSortThreads = 512, kSortItems = 16;
template <class T>
constexpr bool kBlockSorts = sizeof(T) == 4;  // keys of 64 bits would not fit the registers

template <class T>
using BlockSort = cub::BlockRadixSort<RankKey<T>, kSortThreads, kSortItems, uint16_t>;

template <class T>
__global__ void __launch_bounds__(kSortThreads) sort_kernel(
    const Candidates<T> in,
    RankKey<T>* __restrict__ keys,   // [B, N]
    uint32_t* __restrict__ order) {  // [B, N]
  auto& shared = shared_memory<typename BlockSort<T>::TempStorage>();
  const int64_t image = blockIdx.x;
  RankKey<T> own_keys[kSortItems];
  uint16_t candidates[kSortItems];
  for (int i = 0; i < kSortItems; ++i) {
    const int candidate = threadIdx.x * kSortItems + i;
    own_keys[i] = candidate < in.size ? in.key(image, candidate) : kNoCandidate<T>;
    candidates[i] = static_cast<uint16_t>(candidate);
  }
  BlockSort<T>(shared).SortBlockedToStriped(own_keys, candidates);
  for (int i = 0; i < kSortItems; ++i) {
    const int rank = i * kSortThreads + threadIdx.x;
    if (rank >= in.size) continue;
    keys[image * in.size + rank] = own_keys[i];
    order[image * in.size + rank] = candidates[i];
  }
}

constexpr uint32_t kNoBucket = 0xffffffffu;

template <class T>
__global__ void __launch_bounds__(kLargeThreads) place_kernel(const Candidates<T> in, const LargeArrays<T> arrays) {
  using S = State<uint32_t>;
  const int64_t i = int64_t{blockIdx.x} * kLargeThreads + threadIdx.x;
  if (i >= arrays.total) return;
  arrays.buckets_of[i] = kNoBucket;
  if (arrays.keys[i] == kNoCandidate<T>) {
    arrays.states[i] = S::kSuppressed;
    return;
  }
  const int64_t image = i / in.size, candidate = arrays.order[i];
  const Place place =
      place_of(in.box(image, candidate), seed_of(in, image, candidate), static_cast<unsigned>(arrays.buckets - 1));
  arrays.states[i] = place.kind == Kind::kInert ? S::kKept : S::kNotJudged;
  if (place.kind == Kind::kInert) return;
  arrays.buckets_of[i] = place.bucket;
  arrays.positions[i] = atomicAdd(arrays.starts + image * (arrays.buckets + 1) + place.bucket, 1u);
  if (place.kind == Kind::kRegular) {
    const unsigned long long level = 1ull << (place.level + kLevelOffset);
    if ((__ldcg(arrays.levels + image) & level) == 0) atomicOr(arrays.levels + image, level);
  }
}

template <class T>
__global__ void __launch_bounds__(kLargeThreads) fill_kernel(const Candidates<T> in, const LargeArrays<T> arrays) {
  const int64_t i = int64_t{blockIdx.x} * kLargeThreads + threadIdx.x;
  if (i >= arrays.total || arrays.buckets_of[i] == kNoBucket) return;
  const int64_t image = i / in.size;
  const uint32_t slot = arrays.starts[image * (arrays.buckets + 1) + arrays.buckets_of[i]] + arrays.positions[i];
  store_box(arrays.boxes + slot, in.box(image, arrays.order[i]));
  arrays.ranks[slot] = static_cast<uint32_t>(i);
}

// A thread owns a slot: neighbours look at the same boxes.
template <class T>
__global__ void __launch_bounds__(kLargeThreads)
    judge_kernel(const Candidates<T> in, const LargeArrays<T> arrays, int64_t num_images, T threshold) {
  const int64_t slot = int64_t{blockIdx.x} * kLargeThreads + threadIdx.x;
  if (slot >= arrays.starts[num_images * (arrays.buckets + 1)]) return;
  const uint32_t rank = arrays.ranks[slot];
  if (State<uint32_t>::decided(arrays.states[rank])) return;
  const int64_t image = rank / in.size;
  const Field<T, uint32_t> field = arrays.field(image, threshold);
  field.states[rank] = judge(field, in, image, load_box(arrays.boxes + slot), rank);
}

template <class T>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const Candidates<T> in, const LargeArrays<T> arrays, T threshold) {
  using S = State<uint32_t>;
  const int64_t image = blockIdx.x, first = image * in.size;
  const Field<T, uint32_t> field = arrays.field(image, threshold);
  const auto open = [&](int64_t i) { return i < in.size && !S::decided(field.states[first + i]); };
  for (int64_t start = threadIdx.x; start - threadIdx.x < in.size; start += kFinishSpan * kFinishThreads) {
    bool any = false;
    for (int k = 0; k < kFinishSpan; ++k) any |= open(start + k * kFinishThreads);
    if (!__syncthreads_or(any)) continue;
    for (int k = 0; k < kFinishSpan; ++k) {
      const int64_t i = start + k * kFinishThreads;
      bool waiting = open(i);
      while (__syncthreads_or(waiting)) {
        if (!waiting) continue;
        const auto rank = static_cast<uint32_t>(first + i);
        const uint32_t state = judge(field, in, image, in.box(image, field.order[rank]), rank);
        field.states[rank] = state;
        waiting = !S::decided(state);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kLargeThreads) flag_kernel(const LargeArrays<T> arrays) {
  const int64_t i = int64_t{blockIdx.x} * kLargeThreads + threadIdx.x;
  if (i <= arrays.total) arrays.flags[i] = i < arrays.total && arrays.states[i] == State<uint32_t>::kKept;
}

template <class T>
__global__ void __launch_bounds__(kLargeThreads) keep_kernel(
    const LargeArrays<T> arrays, int64_t size, int64_t most,
    int64_t* __restrict__ keep,      // [B, most], filled with -1
    int64_t* __restrict__ counts) {  // [B]
  const int64_t i = int64_t{blockIdx.x} * kLargeThreads + threadIdx.x;
  if (i >= arrays.total) return;
  const int64_t image = i / size, before = arrays.flags[image * size];
  if (i == image * size) counts[image] = smaller(int64_t{arrays.flags[i + size]} - before, most);
  const int64_t position = arrays.flags[i] - before;
  if (arrays.states[i] == State<uint32_t>::kKept && position < most) keep[image * most + position] = arrays.order[i];
}

// A device-wide algorithm of CUB is called twice, for the size of its memory and to run.
template <class Call>
int64_t cub_bytes(const Call& call) {
  size_t bytes = 0;
  check_cuda(call(nullptr, bytes));
  return static_cast<int64_t>(bytes);
}

template <class T>
void suppress_large(
    const DeviceScope& scope, const Tensor& like, const Candidates<T>& in, int64_t num_images, T threshold,
    int64_t most,
    int64_t* keep,      // [B, most]
    int64_t* counts) {  // [B]
  const int64_t total = num_images * in.size;
  expect(total < INT32_MAX, "expected fewer than 2**31 - 1 candidates in a batch, got ", total);
  int64_t buckets = 1024;
  while (buckets < in.size && buckets < kMostBuckets) buckets *= 2;
  const int64_t num_starts = num_images * (buckets + 1) + 1, blocks = ceil_div(total, kLargeThreads);
  const int count = static_cast<int>(total), segments = static_cast<int>(num_images);
  const cudaStream_t stream = scope.stream();

  Scratch scratch;
  const auto keys_in = scratch.add<RankKey<T>>(total), keys = scratch.add<RankKey<T>>(total);
  const auto order_in = scratch.add<uint32_t>(total), order = scratch.add<uint32_t>(total);
  const auto offsets = scratch.add<int>(num_images + 1);
  const auto starts = scratch.add<uint32_t>(num_starts);
  const auto levels = scratch.add<unsigned long long>(num_images);
  const auto boxes = scratch.add<Box<T>>(total);
  const auto ranks = scratch.add<uint32_t>(total), states = scratch.add<uint32_t>(total);
  const auto flags = scratch.add<uint32_t>(total + 1);

  const bool sort_in_blocks = kBlockSorts<T> && in.size <= kSortThreads * kSortItems;
  const auto sort = [&](void* memory, size_t& bytes) {
    constexpr int kBits = 8 * sizeof(RankKey<T>);
    const int* begins = scratch.get(offsets);
    const int* ends = begins == nullptr ? nullptr : begins + 1;
    return segments == 1 ? cub::DeviceRadixSort::SortPairs(
                               memory, bytes, scratch.get(keys_in), scratch.get(keys), scratch.get(order_in),
                               scratch.get(order), count, 0, kBits, stream)
                         : cub::DeviceSegmentedRadixSort::SortPairs(
                               memory, bytes, scratch.get(keys_in), scratch.get(keys), scratch.get(order_in),
                               scratch.get(order), count, segments, begins, ends, 0, kBits, stream);
  };
  const auto scan_starts = [&](void* memory, size_t& bytes) {
    uint32_t* data = scratch.get(starts);
    return cub::DeviceScan::ExclusiveSum(memory, bytes, data, data, num_starts, stream);
  };
  const auto scan_flags = [&](void* memory, size_t& bytes) {
    uint32_t* data = scratch.get(flags);
    return cub::DeviceScan::ExclusiveSum(memory, bytes, data, data, total + 1, stream);
  };
  const int64_t sort_bytes = sort_in_blocks ? 0 : cub_bytes(sort);
  const int64_t most_bytes = larger(sort_bytes, larger(cub_bytes(scan_starts), cub_bytes(scan_flags)));
  const auto cub_memory = scratch.add<unsigned char>(most_bytes);
  scratch.allocate(like);
  const auto run = [&](const auto& call) {
    size_t bytes = most_bytes;
    check_cuda(call(scratch.get(cub_memory), bytes));
  };
  const LargeArrays<T> arrays = {
      total,
      buckets,
      scratch.get(keys),
      scratch.get(order),
      scratch.get(starts),
      scratch.get(levels),
      reinterpret_cast<uint32_t*>(scratch.get(keys_in)),  // after the sort its inputs serve as the places
      scratch.get(order_in),
      scratch.get(boxes),
      scratch.get(ranks),
      scratch.get(states),
      scratch.get(flags)};

  scope.fill_bytes(arrays.starts, 0, num_starts * sizeof(uint32_t));
  scope.fill_bytes(arrays.levels, 0, num_images * sizeof(unsigned long long));
  scope.fill_bytes(keep, -1, num_images * most * sizeof(int64_t));
  if (sort_in_blocks) {
    if constexpr (kBlockSorts<T>) {
      scope.launch(
          sort_kernel<T>, num_images, kSortThreads, sizeof(typename BlockSort<T>::TempStorage), in, arrays.keys,
          arrays.order);
    }
  } else {
    scope.launch(
        rank_kernel<T>, blocks, kLargeThreads, 0, in, total, scratch.get(keys_in), scratch.get(order_in),
        scratch.get(offsets));
    run(sort);
  }
  scope.launch(place_kernel<T>, blocks, kLargeThreads, 0, in, arrays);
  run(scan_starts);
  scope.launch(fill_kernel<T>, blocks, kLargeThreads, 0, in, arrays);
  for (int round = 0; round < kJudgeRounds; ++round) {
    scope.launch(judge_kernel<T>, blocks, kLargeThreads, 0, in, arrays, num_images, threshold);
  }
  scope.launch(finish_kernel<T>, num_images, kFinishThreads, 0, in, arrays, threshold);
  scope.launch(flag_kernel<T>, ceil_div(total + 1, kLargeThreads), kLargeThreads, 0, arrays);
  run(scan_flags);
  scope.launch(keep_kernel<T>, blocks, kLargeThreads, 0, arrays, in.size, most, keep, counts);
}

}  // namespace tinyssd
