// Stable radix sort of (key, index) pairs; threads own parts of the list.
#pragma once

#include "../box.h"
#include "parallel.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace tinyssd {

template <class Key>
struct Keyed {
  Key key;
  uint32_t index;
};

// Sorts by key; equal keys keep their order.
template <class Key>
void stable_sort_by_key(std::vector<Keyed<Key>>& items) {
  constexpr size_t kFewItems = 192;
  if (items.size() < kFewItems) {
    std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
    return;
  }
  constexpr int kDigitBits = 11, kDigits = (8 * sizeof(Key) + kDigitBits - 1) / kDigitBits;
  constexpr size_t kBuckets = size_t{1} << kDigitBits;
  constexpr int64_t kCost = 3, kMostParts = 16;
  const auto size = static_cast<int64_t>(items.size());
  const int64_t wanted = larger(size * kCost / (limits().worth_a_thread + 1), int64_t{1});
  const int64_t parts = smaller(smaller(num_threads(), wanted), kMostParts), part = (size + parts - 1) / parts;
  std::vector<std::array<uint32_t, kBuckets>> counts(parts);
  std::vector<Keyed<Key>> other(items.size());
  for (int d = 0; d < kDigits; ++d) {
    const auto digit = [d](Key key) { return static_cast<size_t>(key >> (d * kDigitBits)) & (kBuckets - 1); };
    parallel(parts, kCost * part, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        counts[p].fill(0);
        for (int64_t i = p * part; i < smaller(size, (p + 1) * part); ++i) ++counts[p][digit(items[i].key)];
      }
    });
    uint32_t start = 0, largest = 0;
    for (size_t bucket = 0; bucket < kBuckets; ++bucket) {
      const uint32_t bucket_start = start;
      for (auto& count : counts) start += std::exchange(count[bucket], start);
      largest = larger(largest, start - bucket_start);
    }
    if (largest == items.size()) continue;  // all alike in this digit
    parallel(parts, kCost * part, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        auto& next = counts[p];
        for (int64_t i = p * part; i < smaller(size, (p + 1) * part); ++i)
          other[next[digit(items[i].key)]++] = items[i];
      }
    });
    items.swap(other);
  }
}

}  // namespace tinyssd
