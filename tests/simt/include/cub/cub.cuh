// Stands in for CUB. What a block shares goes through TempStorage and the machine's barriers, in CUB's order and at
// CUB's sizes, so that reusing the storage without a barrier goes as wrong as it does on a GPU. The device-wide calls
// are plain loops that ask for temporary storage, and spoil it.
#pragma once

#include "../cuda_runtime.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <type_traits>
#include <vector>

namespace cub {

struct NullType {};

enum BlockScanAlgorithm { BLOCK_SCAN_RAKING, BLOCK_SCAN_RAKING_MEMOIZE, BLOCK_SCAN_WARP_SCANS };
enum BlockReduceAlgorithm {
  BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY,
  BLOCK_REDUCE_RAKING,
  BLOCK_REDUCE_WARP_REDUCTIONS,
};

namespace detail {

struct Sum {
  template <class T>
  T operator()(const T& a, const T& b) const {
    return static_cast<T>(a + b);
  }
};

// The bits of a key that a sort looks at, as a number that compares like it.
template <class Key>
uint64_t sort_bits(Key key, int begin_bit, int end_bit) {
  static_assert(std::is_integral_v<Key>, "the stand-in sorts integers alone");
  using Unsigned = std::make_unsigned_t<Key>;
  auto bits = static_cast<Unsigned>(key);
  if (std::is_signed_v<Key>) bits = static_cast<Unsigned>(bits ^ (Unsigned{1} << (8 * sizeof(Key) - 1)));
  const int count = end_bit - begin_bit;
  if (count <= 0) return 0;
  return static_cast<uint64_t>(bits) >> begin_bit & (count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1);
}

// The order that a stable sort puts the keys in: order[rank] = index.
template <class Key>
std::vector<int> sorted_order(const Key* keys, int64_t size, int begin_bit, int end_bit, bool descending = false) {
  std::vector<uint64_t> bits(size);
  for (int64_t i = 0; i < size; ++i) bits[i] = sort_bits(keys[i], begin_bit, end_bit);
  std::vector<int> order(size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(
      order.begin(), order.end(), [&](int a, int b) { return descending ? bits[a] > bits[b] : bits[a] < bits[b]; });
  return order;
}

// Thread 0 works out what on a GPU all threads do together; blocks run one at a time.
inline std::vector<int>& ranks_of_block() {
  static std::vector<int> ranks;
  return ranks;
}

}  // namespace detail

template <
    class Key, int kThreads, int kItems, class Value = NullType, int kRadixBits = 4, bool kMemoizeOuterScan = true,
    BlockScanAlgorithm kScan = BLOCK_SCAN_WARP_SCANS>
class BlockRadixSort {
  static constexpr bool kHasValues = !std::is_same_v<Value, NullType>;
  static constexpr int kSize = kThreads * kItems;
  // CUB's union: the digits' counters, or the keys, or the values on their way.
  static constexpr size_t kCounterBytes = ((1 << kRadixBits) / 2 + 1) * kThreads * 4 + 4 * kThreads / 32 + 64;
  static constexpr size_t kExchangeBytes =
      (kSize + kSize / 32) * (kHasValues ? std::max(sizeof(Key), sizeof(Value)) : sizeof(Key));

 public:
  struct alignas(16) TempStorage {
    unsigned char bytes[std::max(kCounterBytes, kExchangeBytes)];
  };

  explicit BlockRadixSort(TempStorage& storage) : storage_(storage) {}

  void Sort(Key (&keys)[kItems], int begin_bit = 0, int end_bit = 8 * sizeof(Key)) {
    Value values[kItems];
    sort(keys, values, begin_bit, end_bit, false, false);
  }
  void Sort(Key (&keys)[kItems], Value (&values)[kItems], int begin_bit = 0, int end_bit = 8 * sizeof(Key)) {
    sort(keys, values, begin_bit, end_bit, false, false);
  }
  void SortDescending(Key (&keys)[kItems], int begin_bit = 0, int end_bit = 8 * sizeof(Key)) {
    Value values[kItems];
    sort(keys, values, begin_bit, end_bit, true, false);
  }
  void SortDescending(Key (&keys)[kItems], Value (&values)[kItems], int begin_bit = 0, int end_bit = 8 * sizeof(Key)) {
    sort(keys, values, begin_bit, end_bit, true, false);
  }
  void SortBlockedToStriped(Key (&keys)[kItems], int begin_bit = 0, int end_bit = 8 * sizeof(Key)) {
    Value values[kItems];
    sort(keys, values, begin_bit, end_bit, false, true);
  }
  void SortBlockedToStriped(
      Key (&keys)[kItems], Value (&values)[kItems], int begin_bit = 0, int end_bit = 8 * sizeof(Key)) {
    sort(keys, values, begin_bit, end_bit, false, true);
  }

 private:
  void sort(Key (&keys)[kItems], Value (&values)[kItems], int begin_bit, int end_bit, bool descending, bool striped) {
    const int thread = simt::thread_rank();
    auto* shared_keys = reinterpret_cast<Key*>(storage_.bytes);
    std::vector<int>& ranks = detail::ranks_of_block();
    for (int i = 0; i < kItems; ++i) shared_keys[thread * kItems + i] = keys[i];
    __syncthreads();
    if (thread == 0) {
      const std::vector<int> order = detail::sorted_order(shared_keys, kSize, begin_bit, end_bit, descending);
      ranks.resize(kSize);
      for (int rank = 0; rank < kSize; ++rank) ranks[order[rank]] = rank;
    }
    __syncthreads();
    exchange(keys, striped);
    if constexpr (kHasValues) {
      __syncthreads();
      exchange(values, striped);
    }
  }

  template <class T>
  void exchange(T (&items)[kItems], bool striped) {
    const int thread = simt::thread_rank();
    auto* shared = reinterpret_cast<T*>(storage_.bytes);
    for (int i = 0; i < kItems; ++i) shared[detail::ranks_of_block()[thread * kItems + i]] = items[i];
    __syncthreads();
    for (int i = 0; i < kItems; ++i) items[i] = shared[striped ? i * kThreads + thread : thread * kItems + i];
  }

  TempStorage& storage_;
};

template <class T, int kThreads, BlockScanAlgorithm kAlgorithm = BLOCK_SCAN_RAKING>
class BlockScan {
  static constexpr int kWarps = (kThreads + 31) / 32;

 public:
  struct alignas(16) TempStorage {
    T partials[kAlgorithm == BLOCK_SCAN_WARP_SCANS ? kWarps + 1 : kThreads + kWarps + 1];
  };

  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  void ExclusiveSum(T input, T& output) {
    T aggregate;
    ExclusiveSum(input, output, aggregate);
  }
  void ExclusiveSum(T input, T& output, T& aggregate) {
    output = static_cast<T>(inclusive(input, aggregate, detail::Sum{}) - input);
  }
  void InclusiveSum(T input, T& output) {
    T aggregate;
    InclusiveSum(input, output, aggregate);
  }
  void InclusiveSum(T input, T& output, T& aggregate) { output = inclusive(input, aggregate, detail::Sum{}); }
  template <class Op>
  void InclusiveScan(T input, T& output, Op op) {
    T aggregate;
    output = inclusive(input, aggregate, op);
  }
  template <class Op>
  void InclusiveScan(T input, T& output, Op op, T& aggregate) {
    output = inclusive(input, aggregate, op);
  }
  template <int kItems>
  void ExclusiveSum(T (&input)[kItems], T (&output)[kItems]) {
    T aggregate;
    ExclusiveSum(input, output, aggregate);
  }
  template <int kItems>
  void ExclusiveSum(T (&input)[kItems], T (&output)[kItems], T& aggregate) {
    T sum{};
    for (const T& item : input) sum = static_cast<T>(sum + item);
    T running;
    ExclusiveSum(sum, running, aggregate);
    for (int i = 0; i < kItems; ++i) {
      const T item = input[i];
      output[i] = running;
      running = static_cast<T>(running + item);
    }
  }
  template <int kItems>
  void InclusiveSum(T (&input)[kItems], T (&output)[kItems]) {
    T aggregate;
    InclusiveSum(input, output, aggregate);
  }
  template <int kItems>
  void InclusiveSum(T (&input)[kItems], T (&output)[kItems], T& aggregate) {
    T items[kItems];
    std::copy(std::begin(input), std::end(input), items);
    ExclusiveSum(items, output, aggregate);
    for (int i = 0; i < kItems; ++i) output[i] = static_cast<T>(output[i] + items[i]);
  }

 private:
  template <class Op>
  T inclusive(const T& input, T& aggregate, const Op& op) {
    const int thread = simt::thread_rank();
    T* partials = storage_.partials;
    if constexpr (kAlgorithm == BLOCK_SCAN_WARP_SCANS) {
      T result =
          simt::warp_operation("cub::WarpScan", simt::Place::here(), ~0u, input, [&](const T* const* values, int lane) {
            T sum = *values[0];
            for (int i = 1; i <= lane; ++i) sum = op(sum, *values[i]);
            return sum;
          });
      if (thread % 32 == 31) partials[thread / 32] = result;
      __syncthreads();
      aggregate = partials[0];
      for (int warp = 1; warp < kWarps; ++warp) {
        if (warp == thread / 32) result = op(aggregate, result);
        aggregate = op(aggregate, partials[warp]);
      }
      return result;
    } else {
      partials[thread] = input;
      __syncthreads();
      if (thread == 0) {
        for (int i = 1; i < kThreads; ++i) partials[i] = op(partials[i - 1], partials[i]);
      }
      __syncthreads();
      aggregate = partials[kThreads - 1];
      return partials[thread];
    }
  }

  TempStorage& storage_;
};

// As with CUB, only lane 0 gets the result.
template <class T, int kLanes = 32>
class WarpReduce {
  static_assert(kLanes == 32, "the stand-in reduces whole warps");

 public:
  struct TempStorage {};

  explicit WarpReduce(TempStorage&) {}

  T Sum(T input) { return Reduce(input, detail::Sum{}); }
  template <class Op>
  T Reduce(T input, Op op) {
    return simt::warp_operation(
        "cub::WarpReduce", simt::Place::here(), ~0u, input,
        [&](const T* const* values, int lane) { return lane == 0 ? simt::fold(values, op) : simt::garbage<T>(); });
  }
};

// As with CUB, only thread 0 gets the result.
template <class T, int kThreads, BlockReduceAlgorithm kAlgorithm = BLOCK_REDUCE_WARP_REDUCTIONS>
class BlockReduce {
  static constexpr int kWarps = (kThreads + 31) / 32;

 public:
  struct alignas(16) TempStorage {
    T warps[kWarps + 1];
  };

  explicit BlockReduce(TempStorage& storage) : storage_(storage) {}

  T Sum(T input) { return Reduce(input, detail::Sum{}); }
  template <class Op>
  T Reduce(T input, Op op) {
    const int thread = simt::thread_rank();
    typename WarpReduce<T>::TempStorage none;
    const T partial = WarpReduce<T>(none).Reduce(input, op);
    if (thread % 32 == 0) storage_.warps[thread / 32] = partial;
    __syncthreads();
    if (thread != 0) return simt::garbage<T>();
    T total = storage_.warps[0];
    for (int warp = 1; warp < kWarps; ++warp) total = op(total, storage_.warps[warp]);
    return total;
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
    error = simt::last_error(cudaErrorInvalidValue, false);
    return false;
  }
  memset(storage, static_cast<int>(simt::random() & 0xff), wanted);
  return true;
}

template <class Key, class Value>
void sort_segment(
    const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out, int64_t size, int begin_bit,
    int end_bit, bool descending) {
  const std::vector<int> order = sorted_order(keys_in, size, begin_bit, end_bit, descending);
  for (int64_t i = 0; i < size; ++i) {
    keys_out[i] = keys_in[order[i]];
    values_out[i] = values_in[order[i]];
  }
}

}  // namespace detail

struct DeviceRadixSort {
  template <class Key, class Value, class Size>
  static cudaError_t SortPairs(
      void* storage, size_t& bytes, const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
      Size size, int begin_bit = 0, int end_bit = 8 * sizeof(Key), cudaStream_t = nullptr) {
    cudaError_t error;
    if (detail::with_storage(storage, bytes, size, error)) {
      detail::sort_segment(keys_in, keys_out, values_in, values_out, size, begin_bit, end_bit, false);
    }
    return error;
  }
  template <class Key, class Value, class Size>
  static cudaError_t SortPairsDescending(
      void* storage, size_t& bytes, const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
      Size size, int begin_bit = 0, int end_bit = 8 * sizeof(Key), cudaStream_t = nullptr) {
    cudaError_t error;
    if (detail::with_storage(storage, bytes, size, error)) {
      detail::sort_segment(keys_in, keys_out, values_in, values_out, size, begin_bit, end_bit, true);
    }
    return error;
  }
};

struct DeviceSegmentedRadixSort {
  template <class Key, class Value, class Begins, class Ends>
  static cudaError_t SortPairs(
      void* storage, size_t& bytes, const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
      int64_t size, int64_t num_segments, Begins begins, Ends ends, int begin_bit = 0, int end_bit = 8 * sizeof(Key),
      cudaStream_t = nullptr) {
    cudaError_t error;
    if (detail::with_storage(storage, bytes, size, error)) {
      for (int64_t i = 0; i < num_segments; ++i) {
        const int64_t begin = begins[i], end = ends[i];
        detail::sort_segment(
            keys_in + begin, keys_out + begin, values_in + begin, values_out + begin, end - begin, begin_bit, end_bit,
            false);
      }
    }
    return error;
  }
};

struct DeviceScan {
  template <class In, class Out, class Size>
  static cudaError_t ExclusiveSum(void* storage, size_t& bytes, In in, Out out, Size size, cudaStream_t = nullptr) {
    return sum(storage, bytes, in, out, size, true);
  }
  template <class In, class Out, class Size>
  static cudaError_t InclusiveSum(void* storage, size_t& bytes, In in, Out out, Size size, cudaStream_t = nullptr) {
    return sum(storage, bytes, in, out, size, false);
  }

 private:
  template <class In, class Out>
  static cudaError_t sum(void* storage, size_t& bytes, In in, Out out, int64_t size, bool exclusive) {
    cudaError_t error;
    if (!detail::with_storage(storage, bytes, size, error)) return error;
    std::decay_t<decltype(in[0])> total{};
    for (int64_t i = 0; i < size; ++i) {
      const auto item = in[i];
      if (exclusive) out[i] = total;
      total += item;
      if (!exclusive) out[i] = total;
    }
    return error;
  }
};

struct DeviceSelect {
  template <class In, class Flags, class Out, class Count>
  static cudaError_t Flagged(
      void* storage, size_t& bytes, In in, Flags flags, Out out, Count count, int64_t size, cudaStream_t = nullptr) {
    return select(storage, bytes, in, out, count, size, [&](int64_t i) { return static_cast<bool>(flags[i]); });
  }
  template <class In, class Out, class Count, class Predicate>
  static cudaError_t If(
      void* storage, size_t& bytes, In in, Out out, Count count, int64_t size, Predicate predicate,
      cudaStream_t = nullptr) {
    return select(storage, bytes, in, out, count, size, [&](int64_t i) { return predicate(in[i]); });
  }

 private:
  template <class In, class Out, class Count, class Wanted>
  static cudaError_t select(
      void* storage, size_t& bytes, In in, Out out, Count count, int64_t size, const Wanted& wanted) {
    cudaError_t error;
    if (!detail::with_storage(storage, bytes, size, error)) return error;
    int64_t selected = 0;
    for (int64_t i = 0; i < size; ++i) {
      if (wanted(i)) out[selected++] = in[i];
    }
    *count = static_cast<std::decay_t<decltype(*count)>>(selected);
    return error;
  }
};

}  // namespace cub
