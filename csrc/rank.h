// The key that ranks scores: falling, -0 = +0, NaN last. A stable sort by it keeps equal scores in the order of their
// indices.
#pragma once

#include "box.h"

#include <limits>
#include <type_traits>

namespace tinyssd {

template <class T>
using RankKey = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// What is no candidate: after every score.
template <class T>
constexpr RankKey<T> kNoCandidate = std::numeric_limits<RankKey<T>>::max();

// Smaller keys rank higher.
template <class T>
TINYSSD_INLINE RankKey<T> rank_key(T score) {
  using Key = RankKey<T>;
  if (score != score) return kNoCandidate<T> - 1;
  const T value = score + T(0);  // -0 becomes +0
  Key bits;
  memcpy(&bits, &value, sizeof(bits));
  const Key sign = Key(1) << (8 * sizeof(Key) - 1);
  return (bits & sign) != 0 ? bits : ~(bits | sign);
}

}  // namespace tinyssd
