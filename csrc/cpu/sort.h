// Stable radix sort of (key, index) pairs.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
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
  const auto digit = [](Key key, int d) { return static_cast<size_t>(key >> (d * kDigitBits)) & (kBuckets - 1); };
  std::vector<std::array<uint32_t, kBuckets>> counts(kDigits);
  for (auto& count : counts) count.fill(0);
  for (const auto& item : items) {
    for (int d = 0; d < kDigits; ++d) ++counts[d][digit(item.key, d)];
  }
  std::vector<Keyed<Key>> other(items.size());
  for (int d = 0; d < kDigits; ++d) {
    auto& count = counts[d];
    if (count[digit(items[0].key, d)] == items.size()) continue;  // all alike in this digit
    uint32_t start = 0;
    for (uint32_t& c : count) {
      const uint32_t size = c;
      c = start;
      start += size;
    }
    for (const auto& item : items) other[count[digit(item.key, d)]++] = item;
    items.swap(other);
  }
}

}  // namespace tinyssd
