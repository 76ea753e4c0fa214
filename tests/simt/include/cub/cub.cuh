// Stands in for CUB, as far as csrc/cuda uses it. What a block shares goes through TempStorage and the machine's
// barriers, in CUB's order and at CUB's sizes, so that reusing the storage without a barrier goes as wrong as it does
// on a GPU. The device-wide calls are plain loops that ask for temporary storage, and spoil it.
#pragma once

#include "../cuda_runtime.h"

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

namespace cub {

enum BlockScanAlgorithm { BLOCK_SCAN_WARP_SCANS };

namespace detail {

// The order that a stable sort by these bits puts the keys in: order[rank] = index.
template <class Key>
std::vector<int> sorted_order(const Key* keys, int64_t size, int begin_bit, int end_bit) {
  static_assert(std::is_unsigned_v<Key>, "the stand-in sorts unsigned integers alone");
  const int count = end_bit - begin_bit;
  std::vector<uint64_t> bits(size);
  for (int64_t i = 0; i < size && count > 0; ++i)
    bits[i] = uint64_t{keys[i]} >> begin_bit & ~uint64_t{0} >> (64 - count);
  std::vector<int> order(size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return bits[a] < bits[b]; });
  return order;
}

// A pass takes a digit of 4 bits. For each item: its counter is read and written, one item after another; later read
// again; then the key and the value go through shared memory, with conflicts of two. The counters, 8 a thread, are
// cleared and scanned. Five barriers.
inline void charge_block_sort(int items, int bits) {
  const int passes = bits / 4;
  simt::charge({passes * (20.0 * items + 60), passes * (9.0 * items + 18), passes * (60.0 * items + 460)});
}

// A scan by shuffles in each warp, a barrier, and the sums of the warps, read one after another without waiting.
inline void charge_block_scan(int warps) { simt::charge({15.0 + 2 * warps, 1.0 + warps, 5 * 24.0 + 60 + 2 * warps}); }

// As CUB's onesweep: a histogram and its scan, then a pass for each digit of 8 bits, which waits for the tiles before.
// A single tile is one launch.
inline void charge_device_sort(int64_t size, int bits, int64_t item_bytes, int64_t key_bytes) {
  constexpr int64_t kSingleTile = 256 * 19;
  const int passes = bits / 8;
  if (size <= kSingleTile) {
    simt::charge_device("cub::DeviceRadixSort (one tile)", {1, 2.0 * size * item_bytes, passes * 4500.0});
    return;
  }
  const double bytes = static_cast<double>(size) * (key_bytes + 2.0 * passes * item_bytes);
  simt::charge_device("cub::DeviceRadixSort", {2 + passes, bytes, 4000.0 + passes * 4000.0});
}

// A block a segment: passes of 6 bits, in each the segment three times at 16 bytes a cycle.
inline void charge_segmented_sort(int64_t size, int64_t longest, int bits, int64_t item_bytes) {
  const int passes = (bits + 5) / 6;
  const double bytes = 3.0 * passes * static_cast<double>(size) * item_bytes;
  simt::charge_device(
      "cub::DeviceSegmentedRadixSort", {passes, bytes, passes * (2000.0 + 3.0 * longest * item_bytes / 16)});
}

// Thread 0 works out what on a GPU all threads do together.
template <class Key>
void rank_block(const Key* keys, int size) {
  const simt::Hidden hidden;
  const std::vector<int> order = sorted_order(keys, size, 0, 8 * sizeof(Key));
  std::vector<int>& ranks = simt::block_numbers();
  ranks.resize(size);
  for (int rank = 0; rank < size; ++rank) ranks[order[rank]] = rank;
}
inline int rank_in_block(int index) {
  const simt::Hidden hidden;
  return simt::block_numbers()[index];
}

}  // namespace detail

template <class Key, int kThreads, int kItems, class Value>
class BlockRadixSort {
  static constexpr int kSize = kThreads * kItems;
  // CUB's union: the counters of digits of 4 bits, or the keys, or the values on their way.
  static constexpr size_t kCounterBytes = 9 * 4 * kThreads + 4 * kThreads / 32 + 64;
  static constexpr size_t kExchangeBytes = (kSize + kSize / 32) * std::max(sizeof(Key), sizeof(Value));

 public:
  struct alignas(16) TempStorage {
    unsigned char bytes[std::max(kCounterBytes, kExchangeBytes)];
  };

  explicit BlockRadixSort(TempStorage& storage) : storage_(storage) {}

  void SortBlockedToStriped(Key (&keys)[kItems], Value (&values)[kItems]) {
    const simt::Quiet quiet;
    detail::charge_block_sort(kItems, 8 * sizeof(Key));
    const int thread = simt::thread_rank();
    auto* shared_keys = reinterpret_cast<Key*>(storage_.bytes);
    for (int i = 0; i < kItems; ++i) shared_keys[thread * kItems + i] = keys[i];
    __syncthreads();
    if (thread == 0) detail::rank_block(shared_keys, kSize);
    __syncthreads();
    exchange(keys);
    __syncthreads();
    exchange(values);
  }

 private:
  template <class T>
  void exchange(T (&items)[kItems]) {
    const int thread = simt::thread_rank();
    auto* shared = reinterpret_cast<T*>(storage_.bytes);
    for (int i = 0; i < kItems; ++i) shared[detail::rank_in_block(thread * kItems + i)] = items[i];
    __syncthreads();
    for (int i = 0; i < kItems; ++i) items[i] = shared[i * kThreads + thread];
  }

  TempStorage& storage_;
};

template <class T, int kThreads, BlockScanAlgorithm>
class BlockScan {
  static constexpr int kWarps = (kThreads + 31) / 32;

 public:
  struct alignas(16) TempStorage {
    T partials[kWarps + 1];
  };

  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  void ExclusiveSum(T input, T& output, T& aggregate) {
    const simt::Quiet quiet;
    detail::charge_block_scan(kWarps);
    const int thread = simt::thread_rank();
    const T inclusive =
        simt::warp_operation("cub::WarpScan", simt::Place::here(), ~0u, input, [](const T* const* values, int lane) {
          T sum{};
          for (int i = 0; i <= lane; ++i) sum += *values[i];
          return sum;
        });
    if (thread % 32 == 31) storage_.partials[thread / 32] = inclusive;
    __syncthreads();
    output = inclusive - input;
    aggregate = T{};
    for (int warp = 0; warp < kWarps; ++warp) {
      if (warp == thread / 32) output += aggregate;
      aggregate += storage_.partials[warp];
    }
  }
  template <int kItems>
  void ExclusiveSum(T (&input)[kItems], T (&output)[kItems], T& aggregate) {
    T running, sum = std::accumulate(input, input + kItems, T{});
    ExclusiveSum(sum, running, aggregate);
    for (int i = 0; i < kItems; ++i) {
      const T item = input[i];  // which may be where the output goes
      output[i] = running;
      running += item;
    }
  }

 private:
  TempStorage& storage_;
};

namespace detail {

// The protocol of the device-wide calls: without storage they say how much they want; with it, they use all of that.
// True if the work is to be done now.
inline bool with_storage(void* storage, size_t& bytes, int64_t size, cudaError_t& error) {
  const size_t wanted = 255 + 16 * static_cast<size_t>(size > 0 ? size : 1);
  error = cudaSuccess;
  if (storage == nullptr) {
    bytes = wanted;
    return false;
  }
  if (bytes < wanted) {
    error = simt::record(cudaErrorInvalidValue);
    return false;
  }
  memset(storage, static_cast<int>(simt::random() & 0xff), wanted);
  return true;
}

}  // namespace detail

struct DeviceSegmentedRadixSort {
  template <class Key, class Value, class Begins, class Ends>
  static cudaError_t SortPairs(
      void* storage, size_t& bytes, const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
      int64_t size, int64_t num_segments, Begins begins, Ends ends, int begin_bit = 0, int end_bit = 8 * sizeof(Key),
      cudaStream_t = nullptr) {
    cudaError_t error;
    if (!detail::with_storage(storage, bytes, size, error)) return error;
    const simt::Quiet quiet;
    int64_t longest = 0;
    for (int64_t segment = 0; segment < num_segments; ++segment) {
      longest = std::max<int64_t>(longest, ends[segment] - begins[segment]);
    }
    if (num_segments == 1) {
      detail::charge_device_sort(size, end_bit - begin_bit, sizeof(Key) + sizeof(Value), sizeof(Key));
    } else {
      detail::charge_segmented_sort(size, longest, end_bit - begin_bit, sizeof(Key) + sizeof(Value));
    }
    for (int64_t segment = 0; segment < num_segments; ++segment) {
      const int64_t begin = begins[segment], count = ends[segment] - begin;
      const std::vector<int> order = detail::sorted_order(keys_in + begin, count, begin_bit, end_bit);
      for (int64_t i = 0; i < count; ++i) {
        keys_out[begin + i] = keys_in[begin + order[i]];
        values_out[begin + i] = values_in[begin + order[i]];
      }
    }
    return error;
  }
};

struct DeviceRadixSort {
  template <class Key, class Value>
  static cudaError_t SortPairs(
      void* storage, size_t& bytes, const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
      int64_t size, int begin_bit = 0, int end_bit = 8 * sizeof(Key), cudaStream_t = nullptr) {
    const int64_t ends[] = {0, size};
    return DeviceSegmentedRadixSort::SortPairs(
        storage, bytes, keys_in, keys_out, values_in, values_out, size, 1, ends, ends + 1, begin_bit, end_bit);
  }
};

struct DeviceScan {
  template <class In, class Out>
  static cudaError_t ExclusiveSum(void* storage, size_t& bytes, In in, Out out, int64_t size, cudaStream_t = nullptr) {
    cudaError_t error;
    if (!detail::with_storage(storage, bytes, size, error)) return error;
    const simt::Quiet quiet;
    std::decay_t<decltype(in[0])> total{};
    simt::charge_device("cub::DeviceScan", {2, static_cast<double>(size) * 2 * sizeof(total), 3000});
    for (int64_t i = 0; i < size; ++i) {
      const auto item = in[i];
      out[i] = total;
      total += item;
    }
    return error;
  }
};

}  // namespace cub
