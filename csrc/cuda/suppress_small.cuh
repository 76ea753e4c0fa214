// Suppression of up to kThreads * kItems candidates an image in one launch: a block owns an image, sort, grid and states
// in shared memory. Phases with a barrier between: sort; place and count; scan the counts; fill the slots; judge in rounds
// until nothing is undecided; write what is kept, best first.
#pragma once

#include "suppress.cuh"

#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_scan.cuh>

namespace tinyssd {

template <class T, int kThreads, int kItems>
struct SmallShared {
  static constexpr int kSize = kThreads * kItems, kBuckets = kSize;
  static_assert((kSize & (kSize - 1)) == 0, "buckets are found with a mask");
  using Sort = cub::BlockRadixSort<RankKey<T>, kThreads, kItems, uint16_t>;
  using Scan = cub::BlockScan<unsigned, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;

  struct Arrays {
    Box<T> boxes[kSize];
    unsigned starts_memory[kBuckets / 2 + 1];  // kBuckets + 2 numbers of 16 bits, counted in pairs
    uint16_t ranks[kSize], order[kSize], states[kSize];
    typename Scan::TempStorage scan;
    unsigned levels[2];

    __device__ uint16_t* starts() { return reinterpret_cast<uint16_t*>(starts_memory); }
  };
  union {
    typename Sort::TempStorage sort;
    Arrays arrays;
  };
};

// Counts one in bucket k and returns how many there were. Fewer than 2**16 ever are, so nothing is carried over.
__device__ __forceinline__ unsigned count_in(unsigned* pairs, unsigned k) {
  const unsigned shift = 16 * (k % 2);
  return atomicAdd(pairs + k / 2, 1u << shift) >> shift & 0xffffu;
}

template <class T, int kThreads, int kItems>
__global__ void __launch_bounds__(kThreads, 1) suppress_small_kernel(
    const Candidates<T> in, T threshold, int64_t most,
    int64_t* __restrict__ keep,      // [B, most]
    int64_t* __restrict__ counts) {  // [B]
  using Shared = SmallShared<T, kThreads, kItems>;
  using S = State<uint16_t>;
  constexpr unsigned kMask = Shared::kBuckets - 1, kNowhere = 0xffffffffu;
  auto& shared = shared_memory<Shared>();
  auto& arrays = shared.arrays;
  uint16_t* starts = arrays.starts();
  const int64_t image = blockIdx.x;
  const int thread = threadIdx.x;

  RankKey<T> keys[kItems];
  uint16_t candidates[kItems];
  for (int i = 0; i < kItems; ++i) {
    const int candidate = thread * kItems + i;
    keys[i] = candidate < in.size ? in.key(image, candidate) : kNoCandidate<T>;
    candidates[i] = static_cast<uint16_t>(candidate);
  }
  typename Shared::Sort(shared.sort).SortBlockedToStriped(keys, candidates);
  __syncthreads();

  for (int k = thread; k < Shared::kBuckets / 2 + 1; k += kThreads) arrays.starts_memory[k] = 0;
  if (thread < 2) arrays.levels[thread] = 0;
  int size = 0;
  for (int i = 0; i < kItems; ++i) size += __syncthreads_count(keys[i] != kNoCandidate<T>);

  unsigned places[kItems];  // bucket, and position within it
  unsigned long long levels = 0;
#pragma unroll  // so that the arrays are registers
  for (int i = 0; i < kItems; ++i) {
    const int rank = i * kThreads + thread;
    places[i] = kNowhere;
    if (rank >= size) continue;
    arrays.order[rank] = candidates[i];
    const Place place = place_of(in.box(image, candidates[i]), seed_of(in, image, candidates[i]), kMask);
    arrays.states[rank] = place.kind == Kind::kInert ? S::kKept : S::kNotJudged;
    if (place.kind == Kind::kInert) continue;
    places[i] = place.bucket << 16 | count_in(arrays.starts_memory, place.bucket);
    if (place.kind == Kind::kRegular) levels |= 1ull << (place.level + kLevelOffset);
  }
  for (int half = 0; half < 2; ++half) {  // a 64-bit atomic in shared memory is a loop
    const unsigned bits = __reduce_or_sync(kAllLanes, static_cast<unsigned>(levels >> (32 * half)));
    if (thread % kWarp == 0 && bits != 0) atomicOr(arrays.levels + half, bits);
  }
  __syncthreads();

  unsigned sizes[kItems], total;
  for (int i = 0; i < kItems; ++i) sizes[i] = starts[thread * kItems + i];
  typename Shared::Scan(arrays.scan).ExclusiveSum(sizes, sizes, total);
  for (int i = 0; i < kItems; ++i) starts[thread * kItems + i] = static_cast<uint16_t>(sizes[i]);
  if (thread == 0) {
    starts[Shared::kBuckets + 1] = static_cast<uint16_t>(total + starts[Shared::kBuckets]);
    starts[Shared::kBuckets] = static_cast<uint16_t>(total);
  }
  __syncthreads();

#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (places[i] == kNowhere) continue;
    const int rank = i * kThreads + thread, slot = starts[places[i] >> 16] + static_cast<int>(places[i] & 0xffffu);
    store_box(arrays.boxes + slot, in.box(image, arrays.order[rank]));
    arrays.ranks[slot] = static_cast<uint16_t>(rank);
  }

  levels = static_cast<unsigned long long>(arrays.levels[1]) << 32 | arrays.levels[0];
  const Field<T, uint16_t> field = {arrays.boxes,  arrays.ranks, starts, arrays.order,
                                    arrays.states, kMask,        levels, threshold};
  const int slots = starts[Shared::kBuckets + 1];
  bool waiting = slots > 0;
  while (__syncthreads_or(waiting)) {  // the first time: until the slots are filled
    waiting = false;
    for (int base = 0; base < slots; base += kThreads) {
      const int slot = base + thread;
      const bool open = slot < slots && !S::decided(arrays.states[arrays.ranks[slot]]);
      uint16_t state = 0;
      if (open) state = judge(field, in, image, load_box(arrays.boxes + slot), arrays.ranks[slot]);
      __syncthreads();  // all have read the states
      if (open) {
        arrays.states[arrays.ranks[slot]] = state;
        waiting = waiting || !S::decided(state);
      }
      __syncthreads();
    }
  }

  unsigned kept = 0;
  for (int i = 0; i < kItems; ++i) {
    const int rank = thread * kItems + i;
    kept += rank < size && arrays.states[rank] == S::kKept;
  }
  unsigned position;
  typename Shared::Scan(arrays.scan).ExclusiveSum(kept, position, total);
  for (int i = 0; i < kItems; ++i) {
    const int rank = thread * kItems + i;
    if (rank >= size || arrays.states[rank] != S::kKept) continue;
    if (position < most) keep[image * most + position] = arrays.order[rank];
    ++position;
  }
  const int64_t count = smaller(int64_t{total}, most);
  for (int64_t k = count + thread; k < most; k += kThreads) keep[image * most + k] = -1;
  if (thread == 0) counts[image] = count;
}

template <class T, int kThreads, int kItems>
bool suppress_small(
    const DeviceScope& scope, const Candidates<T>& in, int64_t num_images, T threshold, int64_t most, int64_t* keep,
    int64_t* counts, int64_t shared_limit) {
  using Shared = SmallShared<T, kThreads, kItems>;
  if (in.size > Shared::kSize || static_cast<int64_t>(sizeof(Shared)) > shared_limit) return false;
  scope.launch(
      suppress_small_kernel<T, kThreads, kItems>, num_images, kThreads, sizeof(Shared), in, threshold, most, keep,
      counts);
  return true;
}

}  // namespace tinyssd
